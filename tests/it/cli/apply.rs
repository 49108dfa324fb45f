//! `credway apply`: what a manifest says is what there is, however often it is said.

use super::{WORLD, home_with_world};
use crate::support::program::Home;

const APPLY: &str = "credway apply --data-dir data";

#[test]
fn applying_twice_changes_nothing_the_second_time() {
    let home = home_with_world();
    let first = home.must(&format!("{APPLY} -f world.yaml"));
    assert!(first.contains("+ connection \"live\"") && first.ends_with("changes made\n"), "{first}");
    assert_eq!(home.must(&format!("{APPLY} -f world.yaml")), "nothing to change\n");
}

#[test]
fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let home = home_with_world();
    let would = home.must(&format!("{APPLY} -f world.yaml --dry-run"));
    assert!(would.ends_with("would be made; nothing was changed\n"), "{would}");
    home.refused(3, "credway connection list --data-dir data --project acme/payments");
    assert!(!home.path("executor.token").exists());

    let did = home.must(&format!("{APPLY} -f world.yaml"));
    let changes =
        |text: &str| text.lines().filter(|line| line.starts_with("  ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(changes(&would), changes(&did));

    home.write("world.yaml", &WORLD.replace("eu-west-1", "us-east-1"));
    let would = home.must(&format!("{APPLY} -f world.yaml --dry-run"));
    assert!(would.contains("server pay"), "{would}");
    assert_eq!(home.must(&format!("{APPLY} -f world.yaml --dry-run")), would);
}

#[test]
fn a_manifest_may_come_on_standard_input() {
    let home = home_with_world();
    home.must(&format!("cat world.yaml | {APPLY} -f -"));
    assert_eq!(home.must(&format!("{APPLY} -f world.yaml")), "nothing to change\n");
}

#[test]
fn a_changed_secret_is_the_only_change() {
    let home = home_with_world();
    home.must(&format!("{APPLY} -f world.yaml"));
    home.write("sandbox.key", "another");
    let changed = home.must(&format!("{APPLY} -f world.yaml"));
    assert_eq!(changed.lines().last(), Some("1 change made"), "{changed}");
    assert!(changed.contains("connection \"sandbox\": credentials: api_key changed"), "{changed}");
    assert!(!changed.contains("another"), "{changed}");
}

#[test]
fn every_mistake_is_told_and_nothing_is_written() {
    let home = home_with_world();
    let wrong = WORLD
        .replace("template: generic-api-key, environment: production", "template: generic-apikey")
        .replace("{instance: pay, connection: sandbox}", "{instance: paj, connection: sandbox}")
        .replace("active: default", "active: defautl")
        .replace("project_viewer", "viewer");
    home.write("wrong.yaml", &wrong);
    let told = home.refused(2, &format!("{APPLY} -f wrong.yaml"));
    for mistake in ["generic-apikey", "paj", "defautl", "viewer"] {
        assert!(told.contains(mistake), "{mistake} is not told:\n{told}");
    }
    for line in ["it's a charge", "live-canary", "sandbox-canary"] {
        assert!(!told.contains(line), "a secret is told:\n{told}");
    }
    home.refused(3, "credway connection list --data-dir data --project acme/payments");
    let document = home.run(&format!("{APPLY} -f wrong.yaml --json")).failure();
    assert_eq!((&document["code"], &document["exit_code"]), (&"INVALID_REQUEST".into(), &2.into()), "{document}");
}

#[test]
fn a_secret_that_is_not_there_is_a_mistake_with_its_name() {
    let home = Home::new();
    home.write("world.yaml", WORLD);
    let told = home.refused(2, &format!("{APPLY} -f world.yaml"));
    assert!(told.contains("the variable LIVE_KEY is not set") && told.contains("sandbox.key"), "{told}");
}

#[test]
fn a_manifest_that_is_no_manifest_is_told_by_line_and_never_quoted() {
    let home = home_with_world();
    let table = [
        ("tenant: acme\nprojects: [{project: payments, conections: []}]\n", "line 2, column 32"),
        ("tenant: [canary\n", "line 1"),
        ("tenant: acme\nprojects:\n- project: p\n  connections: canary\n", "line 4"),
        ("canary", "line 1"),
        (
            "tenant: acme\nprojects:\n- project: p\n  connections: [{name: c, template: t, credentials: {k: canary}}]\n",
            "line 4",
        ),
    ];
    for (text, place) in table {
        home.write("broken.yaml", text);
        let told = home.refused(2, &format!("{APPLY} -f broken.yaml"));
        assert!(told.contains(place) && !told.contains("canary"), "{text}\n{told}");
    }
    let told = home.refused(2, &format!("{APPLY} -f absent.yaml"));
    assert!(told.contains("absent.yaml"), "{told}");
    std::fs::write(home.path("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    home.refused(2, &format!("{APPLY} -f binary.yaml"));
}

#[test]
fn a_question_is_asked_at_the_terminal_and_the_answer_never_echoed() {
    let home = home_with_world();
    home.write("world.yaml", &WORLD.replace("{env: LIVE_KEY}", "{prompt: The live key}"));
    // `script` gives the command a terminal of its own; a person types once it no longer echoes.
    let person =
        "until stty -a -F \"$(cat tty)\" | grep -q -- ' -echo '; do sleep 0.02; done 2>/dev/null; echo typed-canary";
    let asked = home.must(&format!("({person}) | script -qec 'tty > tty; {APPLY} -f world.yaml' /dev/null"));
    assert!(asked.contains("The live key (hidden): ") && !asked.contains("canary"), "{asked}");
    // What is stored is not asked for again, so that a second run needs no terminal.
    assert_eq!(home.must(&format!("{APPLY} -f world.yaml")), "nothing to change\n");
}

#[test]
fn a_question_without_a_terminal_is_refused_by_its_words() {
    let home = home_with_world();
    home.write("world.yaml", &WORLD.replace("{env: LIVE_KEY}", "{prompt: The live key}"));
    let told = home.refused(2, &format!("{APPLY} -f world.yaml"));
    assert!(told.contains("The live key"), "{told}");
}

#[test]
fn what_is_exported_changes_nothing_where_it_came_from_and_makes_the_same_elsewhere() {
    let (home, other) = (Home::new().with("LIVE_KEY", "canary-live-key"), Home::new());
    home.write("sandbox.key", "canary-sandbox-key");
    home.write("manifest.yaml", super::WORLD);
    home.must("credway apply --data-dir data -f manifest.yaml");
    home.must("credway connection disable sandbox --data-dir data --project acme/payments");
    let exported = home.must("credway export --data-dir data --project acme/payments");
    assert!(!exported.contains("canary") && !exported.contains("it's a charge"), "{exported}");
    home.write("exported.yaml", &exported);
    assert_eq!(home.must("credway apply --data-dir data -f exported.yaml").trim(), "nothing to change");
    assert_eq!(home.must("credway import --data-dir data exported.yaml").trim(), "nothing to change");

    other.write("exported.yaml", &exported.replace("prompt:", "value:"));
    let told = other.must("credway import --data-dir data exported.yaml --dry-run");
    assert!(told.contains("nothing was changed"), "{told}");
    other.must("credway import --data-dir data exported.yaml");
    let again = other.must("credway export --data-dir data --project acme/payments");
    assert_eq!(again, exported);
}
