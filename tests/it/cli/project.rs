//! `credway connection`, `token` and `key`: one thing at a time, in the stores themselves.

use super::running;
use crate::support::program::{Daemon, Home, until};

/// Commands here name the project once.
fn project() -> (Home, Daemon) {
    let (home, daemon) = running();
    (home.with("AT", "--data-dir data --project acme/payments"), daemon)
}

#[test]
fn a_connection_is_made_shown_turned_off_and_on_and_removed() {
    let (home, _daemon) = project();
    let create = "credway connection create --template resend --name 'Resend - Shop' --environment production --account shop@example.com $AT";
    let made = home.must(&format!("printf 're_canary\\n' | {create} --secret-file api_key=-"));
    assert!(made.starts_with("created \"Resend - Shop\" (conn_"), "{made}");
    let list = home.must("credway connection list $AT");
    let row = list.lines().find(|line| line.contains("Resend - Shop")).unwrap();
    assert!(row.ends_with("  resend           production   active  api_key"), "{list}");
    let id = row.split("  ").next().unwrap();

    let shown = home.must(&format!("credway connection get {id} $AT"));
    assert_eq!(shown, home.must("credway connection get 'Resend - Shop' $AT"));
    assert!(shown.contains("shop@example.com") && !shown.contains("re_canary"), "{shown}");

    assert!(home.must(&format!("credway connection disable {id} $AT")).ends_with("is disabled\n"));
    assert!(home.must(&format!("credway connection enable {id} $AT")).ends_with("is active\n"));
    home.must(&format!("credway connection delete {id} $AT"));
    home.refused(3, &format!("credway connection get {id} $AT"));
}

#[test]
fn a_connection_cannot_be_made_wrongly() {
    let (home, _daemon) = project();
    let table = [
        (3, "TEMPLATE", "--template resent --name x"),
        (2, "NO_TERMINAL", "--template resend --name x"),
        (2, "SECRET_FILE", "--template resend --name x --secret-file api_key"),
        (2, "SECRET_FILE", "--template resend --name x --secret-file api_key=/nonexistent"),
        (
            2,
            "INVALID_REQUEST",
            "--template resend --name x --secret-file api_key=sandbox.key --secret-file nope=sandbox.key",
        ),
        (5, "ALREADY_EXISTS", "--template generic-api-key --name live --secret-file api_key=sandbox.key"),
    ];
    for (code, reason, flags) in table {
        let told = home.refused(code, &format!("credway connection create {flags} $AT"));
        assert!(told.starts_with(&format!("error[{reason}]: ")) && !told.contains("canary"), "{flags}\n{told}");
    }
    let told = home.refused(2, "credway connection list --data-dir data --project nonsense");
    assert!(told.contains("acme/payments"), "{told}");
    home.refused(3, "credway connection list --data-dir data --project acme/nothing");
    home.refused(2, "credway connection list --data-dir data");
}

#[test]
fn credentials_are_rotated_and_a_deleted_connection_is_restored() {
    let (home, _daemon) = project();
    let rotated = home.must("printf new-canary | credway connection rotate sandbox --secret-file api_key=- $AT");
    assert!(
        rotated.contains("version 2 is in use; version 1 is kept until") && !rotated.contains("canary"),
        "{rotated}"
    );
    let told = home.refused(5, "printf x | credway connection update sandbox --secret-file api_key=- $AT");
    assert!(told.starts_with("error[ROTATION_RUNNING]: "), "{told}");
    let shown = home.must("credway connection get sandbox $AT");
    assert!(shown.contains("from version 1, last use not noted, to 2"), "{shown}");
    assert!(home.must("credway connection abort sandbox $AT").contains("the old credentials are in use again"));
    home.refused(5, "credway connection finish sandbox $AT");
    home.must("printf newer-canary | credway connection rotate sandbox --secret-file api_key=- $AT");
    assert!(home.must("credway connection finish sandbox $AT").contains("the old credentials are destroyed"));

    let deleted = home.must("credway connection delete sandbox --force $AT");
    let id = deleted.split(['(', ')']).nth(1).unwrap().to_owned();
    home.refused(3, "credway connection get sandbox $AT");
    assert!(home.must(&format!("credway connection restore {id} $AT")).contains("restored \"sandbox\""));
    assert!(home.must("credway resolve pay --workflow rehearsal --reveal").contains("newer-canary"));
}

#[test]
fn saved_credentials_are_served_once_the_cache_has_forgotten() {
    let (home, _daemon) = project();
    let saved = home.must("printf new-canary | credway connection update sandbox --secret-file api_key=- $AT");
    assert!(saved.contains("saved \"sandbox\"") && !saved.contains("canary"), "{saved}");
    // Not resolved before, so nothing of it is cached.
    assert!(home.must("credway resolve pay --workflow rehearsal --reveal").contains("new-canary"));
}

#[test]
fn a_connection_in_use_is_removed_by_force_only() {
    let (home, _daemon) = project();
    let told = home.refused(5, "credway connection delete live $AT");
    assert!(told.contains("pay/default") && told.contains("force"), "{told}");
    home.must("credway resolve pay");
    home.must("credway connection delete live --force $AT");
    let told = home.refused(1, "credway resolve pay");
    assert!(told.starts_with("error[CONNECTION_MISSING]"), "{told}");
}

#[test]
fn a_token_is_shown_once_works_and_is_refused_when_revoked() {
    let (home, _daemon) = project();
    let token = home.must("credway token create --name ci --days 30 $AT 2>/dev/null");
    assert!(token.starts_with("pat_") && token.lines().count() == 1, "{token}");
    let resolve = format!("CREDWAY_TOKEN={} credway resolve pay", token.trim());
    home.must(&resolve);
    let list = home.must("credway token list $AT");
    let row = list.lines().find(|line| line.contains("  ci ")).unwrap();
    assert!(row.contains("until ") && !list.contains(token.trim()), "{list}");
    let last_used = "credway token list $AT | awk -F '  +' '$2 == \"ci\" { print $7 }'";
    until("its last use is listed", || home.must(last_used).starts_with("20"));
    home.must("credway token revoke ci $AT");
    until("the token is refused", || home.run(&resolve).code == 4);
    assert!(home.must("credway token list $AT").contains("revoked "));
    home.refused(3, "credway token revoke ci $AT");
    home.refused(2, "credway token create --name x --scope mcp:everything $AT");
    home.refused(2, "credway token create --name x --role king $AT");
}

#[test]
fn an_mcp_process_has_a_token_of_its_own_for_one_instance() {
    let (home, _daemon) = project();
    let token = home.must("credway token create --name 'pay process' --instance pay $AT 2>/dev/null");
    assert!(token.starts_with("pat_") && token.lines().count() == 1, "{token}");
    let resolve = format!("CREDWAY_TOKEN={} credway resolve pay", token.trim());
    home.must(&resolve);
    home.refused(3, &format!("{resolve} --workflow rehearsal"));
    let list = home.must("credway token list $AT");
    let row = list.lines().find(|line| line.contains("pay process")).unwrap();
    assert!(row.contains("  inst_") && row.contains("mcp:execute"), "{list}");
    home.refused(3, "credway token create --name x --instance nowhere $AT");
    home.refused(2, "credway token create --name x --instance pay --whole-tenant $AT");
    home.refused(2, "credway token create --name x --instance pay --scope mcp:read $AT");
}

#[test]
fn the_run_tokens_of_a_project_are_revoked_at_once() {
    let (home, _daemon) = project();
    let told = home.must("credway token revoke-runs $AT");
    assert!(told.starts_with("revoked the run tokens of payments issued until "), "{told}");
}

#[test]
fn secrets_stay_readable_while_the_master_key_is_rotated_under_a_running_daemon() {
    let (home, _daemon) = project();
    home.must("credway resolve pay --reveal");
    let told = home.must("credway key rotate --data-dir data");
    assert!(told.contains("master.key"), "{told}");
    // The first is cached; the second is read from the store that was sealed anew.
    assert!(home.must("credway resolve pay --reveal").contains("live-canary"));
    assert!(home.must("credway resolve pay --workflow rehearsal --reveal").contains("sandbox-canary"));
    home.must("printf newer | credway connection update charge --secret-file api_key=- $AT");
    assert!(home.must("credway resolve pay --workflow rehearsal --step charge --reveal").contains("newer"));
}

#[test]
fn a_wrong_master_key_is_told_and_the_right_one_works_again() {
    let (home, daemon) = project();
    drop(daemon);
    home.must("cp data/master.key right.key");
    home.must("credway apply -f world.yaml --data-dir other");
    home.must("cp other/master.key data/master.key");
    let start = "credway serve --data-dir data --http-addr 127.0.0.1:0";
    for line in [
        start,
        "credway key rotate --data-dir data",
        "credway connection update live --secret-file api_key=sandbox.key $AT",
    ] {
        let told = home.run(line);
        assert!(told.code != 0 && told.err.contains("master key"), "{line}: {told:?}");
    }
    home.write("data/master.key", "canary\n");
    for line in ["credway apply -f world.yaml --data-dir data", start] {
        let told = home.refused(1, line);
        assert!(told.contains("master.key is damaged in line 1") && !told.contains("canary"), "{told}");
    }
    home.must("cp right.key data/master.key");
    let _daemon = home.start(start);
    assert!(home.must("credway resolve pay --reveal").contains("live-canary"));
}
