//! `credway config`, `healthcheck` and `completion`, and a daemon that is given bad settings.

use rustix::process::Signal;

use super::running;
use crate::support::program::{Home, until};

#[test]
fn config_check_tells_all_mistakes_at_once_and_quotes_no_secret() {
    let home = Home::new();
    home.write(
        "credway.toml",
        "[grcp]\nsocket = '/tmp/x'\n[database]\nurl = 'mysql://app:canary@db/credway'\n[cache]\nsecret_ttl = 'soon'\n\
         [secret_store]\nkind = 'vault'\n[secret_store.vault]\naddress = 'https://u:canary@vault'\n\
         [secret_store.vault.auth]\nmethod = 'token'\ntoken = 'canary'\n",
    );
    let told = home.refused(2, "credway config check --config credway.toml");
    for place in ["grcp", "database.url", "cache.secret_ttl", "secret_store.vault.address"] {
        assert!(told.contains(place), "{place} is not told:\n{told}");
    }
    assert!(!told.contains("canary"), "{told}");
    let served = home.refused(2, "credway serve --config credway.toml");
    assert_eq!(served, told);
}

#[test]
fn a_config_that_is_no_toml_is_told_by_line() {
    let home = Home::new();
    home.write("credway.toml", "data_dir = '/x'\n[database]\nurl = 'postgres://canary@db\n");
    let told = home.refused(2, "credway config check --config credway.toml");
    assert!(told.contains("credway.toml:3") && !told.contains("canary"), "{told}");
    let told = home.refused(2, "credway config check --config absent.toml");
    assert!(told.contains("absent.toml"), "{told}");
}

#[test]
fn config_show_tells_where_each_setting_came_from() {
    let home = Home::new().with("CREDWAY_HTTP_ADDRESS", "127.0.0.1:9000");
    home.write("credway.toml", "[cache]\nsecret_ttl = '5s'\n[database]\nurl = 'postgres://app:canary@db/credway'\n");
    let shown = home.must("credway config show --sources --config credway.toml --grpc-addr 127.0.0.1:9001");
    let source = |setting: &str| {
        let row = shown.lines().find(|line| line.starts_with(&format!("{setting} "))).unwrap();
        row.rsplit("  ").next().unwrap().trim().to_owned()
    };
    assert_eq!(source("cache.entries_max"), "default");
    assert!(source("cache.secret_ttl").contains("credway.toml"), "{shown}");
    assert!(source("http.address").contains("CREDWAY_"), "{shown}");
    assert!(source("grpc.address").contains("--grpc-addr") || source("grpc.address").contains("flag"), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn settings_reread_on_sighup_are_used_if_they_are_good_and_left_if_not() {
    let home = Home::new();
    let write = |level: &str| {
        let data = home.path("data");
        home.write(
            "credway.toml",
            &format!("data_dir = {data:?}\n[http]\naddress = '127.0.0.1:0'\n[telemetry]\nlog_level = {level}"),
        )
    };
    write("'info'");
    let daemon = home.start("credway serve --config credway.toml");
    for (level, said) in [("[[", "the settings in use are kept"), ("'debug'", "reloaded on SIGHUP")] {
        write(level);
        daemon.signal(Signal::HUP);
        until(&format!("it says {said:?}"), || daemon.printed().contains(said));
        home.must(&format!("credway healthcheck --server unix:{}", daemon.at("socket")));
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn healthcheck_answers_by_exit_code_and_needs_no_token() {
    let (home, daemon) = running();
    assert_eq!(home.must("env -u CREDWAY_TOKEN credway healthcheck"), "serving\n");
    assert_eq!(daemon.stop(), Some(0));
    home.refused(9, "credway healthcheck");
}

#[test]
fn completions_are_what_their_shells_can_read() {
    let home = Home::new();
    for (shell, check) in [("bash", "bash -n"), ("zsh", "zsh -n"), ("fish", "fish --no-execute")] {
        home.must(&format!("credway completion {shell} > it && {check} it && grep -q resolve it"));
    }
}
