//! The help of every command, as a newcomer reads it.

use crate::support::program::Home;

const COMMANDS: [&str; 31] = [
    "",
    "dev",
    "serve",
    "apply",
    "export",
    "import",
    "resolve",
    "exec",
    "connection",
    "connection list",
    "connection get",
    "connection create",
    "connection update",
    "connection disable",
    "connection rotate",
    "connection delete",
    "connection restore",
    "token",
    "token create",
    "token list",
    "token revoke",
    "token revoke-runs",
    "key rotate",
    "backup",
    "backup create",
    "backup verify",
    "backup restore",
    "config",
    "config show",
    "healthcheck",
    "completion",
];

#[test]
fn the_help_of_each_command_teaches_it() {
    let home = Home::new();
    for command in COMMANDS {
        let help = home.must(&format!("credway {command} --help"));
        let long = help.lines().find(|line| line.chars().count() > 120);
        assert_eq!(long, None, "credway {command} --help is too wide");
        let name = if command.is_empty() { "credway".to_owned() } else { command.replace(' ', "_") };
        insta::assert_snapshot!(name, help);
    }
}

#[test]
fn a_misspelt_command_or_flag_is_answered_with_the_right_one() {
    let home = Home::new();
    for (line, meant) in [
        ("credway resolv x", "resolve"),
        ("credway resolve x --formt json", "--format"),
        ("credway resolve x --format jso", "json"),
        ("credway connection craete", "create"),
    ] {
        let told = home.refused(2, line);
        assert!(told.contains(&format!("'{meant}'")), "{line}\n{told}");
        let document = home.run(&format!("{line} --json")).failure();
        assert_eq!((&document["code"], &document["exit_code"]), (&"USAGE".into(), &2.into()), "{document}");
    }
}
