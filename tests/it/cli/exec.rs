//! `credway exec`: the command gets its config and nothing it should not, ends as it ends, and keeps up with what changes.

use std::fs;

use rustix::process::Signal;

use super::{home_with_world, running};
use crate::support::program::{Daemon, Home, until};

const SERVE: &str = "credway serve --data-dir data --http-addr 127.0.0.1:0";

/// As `running`, with a daemon that reads a secret whenever it is asked for it.
fn running_uncached() -> (Home, Daemon) {
    let home = home_with_world().with("CREDWAY_CACHE_SECRET_TTL", "0s");
    home.must("credway apply -f world.yaml --data-dir data");
    let daemon = home.start(SERVE);
    let token = fs::read_to_string(home.path("executor.token")).unwrap();
    let socket = format!("unix:{}", daemon.at("socket"));
    (home.with("CREDWAY_SERVER", &socket).with("CREDWAY_TOKEN", &token), daemon)
}

/// A command under `exec --watch` that notes the key it was started with in the file `seen`.
fn watched(home: &Home) -> Daemon {
    let command = r#"sh -c 'echo "$API_KEY" >> seen; exec sleep 30'"#;
    let watched = home.spawn(&format!("credway exec --instance pay --watch --jitter 0 -- {command}"), "exec.txt");
    until_seen(home, &["live-canary"]);
    watched
}

fn seen(home: &Home) -> Vec<String> {
    let text = fs::read_to_string(home.path("seen")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn until_seen(home: &Home, lines: &[&str]) {
    until(&format!("{lines:?} is seen"), || seen(home) == lines);
}

fn rotate(home: &Home, key: &str) {
    home.write("new.key", key);
    control(home, "update live --secret-file api_key=new.key");
}

fn control(home: &Home, what: &str) {
    home.must(&format!("credway connection {what} --data-dir data --project acme/payments"));
}

#[test]
fn we_become_the_command_which_has_the_config_and_ends_as_it_ends() {
    let (home, _daemon) = running();
    let print = r#"-- bash -c 'echo "$API_KEY/$REGION/$TIMEOUT"; exit 7'"#;
    for (flags, told) in [
        ("", "live-canary/eu-west-1/15\n"),
        ("--workflow rehearsal --step charge", "it's a charge/eu-west-1/15\n"),
        ("--watch", "live-canary/eu-west-1/15\n"),
    ] {
        let ran = home.run(&format!("credway exec --instance pay {flags} {print}"));
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, told, ""), "{flags}");
    }
    let pids = home.must("bash -c 'echo $$; exec credway exec --instance pay -- bash -c \"echo \\$\\$\"'");
    let (before, after) = pids.trim().split_once('\n').unwrap();
    assert_eq!(before, after, "it runs in another process");
    for flags in ["", "--watch"] {
        let line = format!("credway exec --instance pay {flags} -- bash -c 'kill -USR1 $$'; echo $?");
        assert_eq!(home.must(&line), "138\n");
    }
}

#[test]
fn variables_are_named_as_asked_and_ours_are_handed_on_as_asked() {
    let (home, _daemon) = running();
    let home = home.with("MINE", "1").with("LC_ALL", "C");
    let variables = |flags: &str| home.must(&format!("credway exec --instance pay {flags} -- env | sort"));
    let all = variables("");
    assert!(all.contains("MINE=1\n") && all.contains("API_KEY=live-canary\n"), "{all}");
    assert!(!all.contains("CREDWAY_") && !all.contains("pat_"), "{all}");
    let pristine = variables("--pristine --prefix PAY_ --map API_KEY=TOKEN");
    let names: Vec<&str> = pristine.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert_eq!(names, ["LC_ALL", "PATH", "PAY_REGION", "PAY_TIMEOUT", "TOKEN"]);
}

#[test]
fn a_variable_that_is_set_keeps_its_value_unless_told_otherwise() {
    let (home, _daemon) = running();
    let ran = home.run("REGION=mine credway exec --instance pay -- sh -c 'echo $REGION'");
    assert_eq!((ran.code, ran.out.as_str()), (0, "mine\n"));
    assert!(ran.err.starts_with("warning[SHADOWED]: ") && ran.err.contains("REGION"), "{}", ran.err);
    let line = "REGION=mine credway exec --instance pay --overwrite-env -- sh -c 'echo $REGION'";
    assert_eq!(home.must(line), "eu-west-1\n");
}

#[test]
fn what_fails_before_the_command_runs_has_codes_of_its_own() {
    let (home, _daemon) = running();
    let table = [
        (125, "INSTANCE_NOT_FOUND", "--instance nothing -- true"),
        (125, "INSTANCE_NOT_FOUND", "--instance nothing --watch -- true"),
        (125, "UNAUTHENTICATED", "--instance pay --watch --token-file sandbox.key -- true"),
        (125, "UNREACHABLE", "--instance pay --server unix:/nonexistent/credway.sock -- true"),
        (125, "UNKNOWN_KEY", "--instance pay --map NOTHING=X -- true"),
        (125, "NOT_A_VARIABLE", "--instance pay --prefix 1 -- true"),
        (125, "DANGEROUS_VARIABLE", "--instance pay --prefix LD_ -- true"),
        (125, "FILES", "--instance pay --files /proc -- true"),
        (126, "NOT_RUNNABLE", "--instance pay -- ./sandbox.key"),
        (126, "NOT_RUNNABLE", "--instance pay --watch -- ./sandbox.key"),
        (127, "NO_COMMAND", "--instance pay -- no-such-command"),
        (127, "NO_COMMAND", "--instance pay --watch -- no-such-command"),
    ];
    for (code, reason, arguments) in table {
        let told = home.refused(code, &format!("credway exec {arguments}"));
        assert!(told.starts_with(&format!("error[{reason}]: ")) && !told.contains("canary"), "{arguments}\n{told}");
        let failure = home.run(&format!("credway --json exec {arguments}")).failure();
        assert_eq!((&failure["code"], &failure["exit_code"]), (&reason.into(), &code.into()), "{arguments}");
    }
    for usage in ["--instance pay", "-- true", "--instance pay --jitter 1 -- true", "--instance pay --map X -- true"] {
        home.refused(2, &format!("credway exec {usage}"));
    }
}

#[test]
fn secrets_in_files_lie_in_memory_for_the_command_alone_and_go_with_it() {
    let (home, _daemon) = running();
    let command = r#"sh -c 'cat "$API_KEY_FILE"; stat -c " %a" "$API_KEY_FILE"; echo "${API_KEY-none} $REGION"; echo "$API_KEY_FILE"; exit 3'"#;
    for dir in ["/dev/shm", ""] {
        let ran = home.run(&format!("credway exec --instance pay --files {dir} -- {command}"));
        assert_eq!(ran.code, 3, "{}", ran.err);
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(lines[..2], ["live-canary 400", "none eu-west-1"]);
        let file = std::path::Path::new(lines[2]);
        assert!(file.starts_with("/dev/shm") && !file.ancestors().nth(2).unwrap().exists(), "{}", file.display());
    }
}

#[test]
fn a_process_under_exec_watch_gets_a_rotated_key_without_a_human() {
    let (home, _daemon) = running_uncached();
    let watched = watched(&home);
    rotate(&home, "rotated-canary");
    until_seen(&home, &["live-canary", "rotated-canary"]);
    let line = fs::read(format!("/proc/{}/cmdline", watched.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains("canary") && watched.printed().is_empty(), "a secret is shown");
    assert_eq!(watched.stop(), Some(143), "SIGTERM ends the command");
}

#[test]
fn a_signal_on_change_finds_the_new_files_in_place() {
    let (home, _daemon) = running_uncached();
    let command = r#"bash -c 'note() { cat "$API_KEY_FILE" >> seen; echo >> seen; }; trap note HUP; note; while :; do sleep 0.02; done'"#;
    let line = format!("credway exec --instance pay --watch --files --signal HUP --jitter 0 -- {command}");
    let watched = home.spawn(&line, "exec.txt");
    until_seen(&home, &["live-canary"]);
    rotate(&home, "rotated-canary");
    until_seen(&home, &["live-canary", "rotated-canary"]);
    assert_eq!(watched.stop(), Some(143));
}

#[test]
fn signals_reach_the_command_and_its_code_comes_back() {
    let (home, _daemon) = running();
    let command = r#"bash -c 'trap "echo usr1 >> seen" USR1; trap "echo term >> seen; exit 9" TERM; echo up >> seen; while :; do sleep 0.02; done'"#;
    // As `nohup` does: what is ignored for us is ignored for the command.
    let line = format!(
        "bash -c \"trap '' HUP; exec credway exec --instance pay --watch -- \"'{}'",
        command.replace('\'', "'\\''")
    );
    let watched = home.spawn(&line, "exec.txt");
    until_seen(&home, &["up"]);
    watched.signal(Signal::HUP);
    watched.signal(Signal::USR1);
    until_seen(&home, &["up", "usr1"]);
    assert_eq!(watched.stop(), Some(9));
    assert_eq!(seen(&home), ["up", "usr1", "term"]);
}

#[test]
fn a_command_that_does_not_end_in_time_is_killed_and_started_anew() {
    let (home, _daemon) = running_uncached();
    let command = r#"bash -c 'trap "" TERM; echo "$API_KEY" >> seen; while :; do sleep 0.02; done'"#;
    let line = format!("credway exec --instance pay --watch --jitter 0 --grace 0.1 -- {command}");
    let watched = home.spawn(&line, "exec.txt");
    until_seen(&home, &["live-canary"]);
    rotate(&home, "rotated-canary");
    until_seen(&home, &["live-canary", "rotated-canary"]);
    // It would not heed SIGTERM.
    home.must(&format!("pkill -KILL -P {}", watched.pid()));
    assert_eq!(watched.stop(), Some(137));
}

#[test]
fn a_daemon_that_restarts_under_it_restarts_nothing() {
    let (home, daemon) = running_uncached();
    let watched = watched(&home);
    assert_eq!(daemon.stop(), Some(0));
    let _daemon = home.start(SERVE);
    rotate(&home, "rotated-canary");
    until_seen(&home, &["live-canary", "rotated-canary"]);
    assert_eq!(watched.stop(), Some(143));
}

#[test]
fn a_refusal_is_told_and_the_command_runs_on() {
    let (home, _daemon) = running_uncached();
    let watched = watched(&home);
    control(&home, "disable live");
    until("the refusal is told", || watched.printed().contains("CONNECTION_DISABLED"));
    control(&home, "enable live");
    rotate(&home, "rotated-canary");
    until_seen(&home, &["live-canary", "rotated-canary"]);
    assert_eq!(watched.printed().matches("warning[").count(), 1, "{}", watched.printed());
    assert!(watched.printed().contains("runs on") && watched.printed().contains("  fix   "), "{}", watched.printed());
    assert_eq!(watched.stop(), Some(143));
}
