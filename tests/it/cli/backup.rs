//! `credway backup`: copies that are whole, and what is restored from them.

use std::path::PathBuf;

use crate::support::program::Home;

const MANIFEST: &str = "
tenant: acme
projects:
- project: payments
  servers:
  - {service: pay, url: 'https://mcp.example.com/pay', config: {API_KEY: {required: true, secret: true}}}
  connections:
  - {name: live, template: generic-api-key, credentials: {api_key: {env: LIVE_KEY}}}
  instances:
  - name: pay
    server: pay
    active: default
    profiles:
    - {name: default, wiring: {API_KEY: {connection: live, credential: api_key}}}
  tokens:
  - {name: executor, role: project_viewer, scopes: ['mcp:execute'], file: executor.token}
";

/// A home whose data directory holds the key.
fn home(key: &str) -> Home {
    let home = Home::new().with("LIVE_KEY", key);
    home.write("manifest.yaml", MANIFEST);
    home.must("credway apply --data-dir data -f manifest.yaml");
    home
}

/// What the instance resolves to.
fn resolved(home: &Home) -> String {
    let daemon = home.start("credway serve --data-dir data --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0");
    let server = daemon.at("grpc").to_owned();
    let told = home.must(&format!("credway resolve pay --server http://{server} --token-file executor.token --reveal"));
    daemon.stop();
    told
}

/// The databases that restores have put aside.
fn kept(home: &Home) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.path("data")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_str().unwrap().contains("before-restore")).collect()
}

#[test]
fn what_was_deleted_after_a_copy_is_there_again_when_it_is_restored() {
    let home = home("canary-live-key");
    // The key of its fingerprints lies beside the connection's own secret.
    let told = home.must("credway backup create --data-dir data copy.db");
    assert!(told.contains("2 versions of secrets") && !told.contains("canary"), "{told}");
    home.must("credway connection delete live --force --project acme/payments --data-dir data");
    home.must("credway backup verify --data-dir data copy.db");
    home.must("credway backup restore --data-dir data copy.db");
    assert!(resolved(&home).contains("canary-live-key"));
    // What was there before is kept, and another restore keeps what it finds beside it.
    let [first] = kept(&home).try_into().unwrap();
    let before = std::fs::read(&first).unwrap();
    home.must("credway backup restore --data-dir data copy.db");
    assert!(kept(&home).len() == 2 && std::fs::read(&first).unwrap() == before);
    std::fs::write(home.path("data").join("credway.db"), "no database").unwrap();
    let told = home.refused(5, "credway backup restore --data-dir data copy.db");
    assert!(told.contains("move away first"), "{told}");
    let copy = std::fs::read(home.path("copy.db")).unwrap();
    assert!(!copy.windows(6).any(|bytes| bytes == b"canary"), "the copy holds the key in the clear");
}

#[test]
fn a_copy_that_is_damaged_or_lies_under_another_key_is_named_and_nothing_is_changed() {
    let (home, other) = (home("one"), home("two"));
    home.must("credway backup create --data-dir data copy.db");
    home.refused(5, "credway backup create --data-dir data copy.db");
    home.refused(3, "credway backup verify --data-dir data nothing.db");

    let foreign = other.path("copy.db");
    other.must("credway backup create --data-dir data copy.db");
    let told = home.refused(1, &format!("credway backup restore --data-dir data {}", foreign.display()));
    assert!(told.contains("key"), "{told}");

    let mut bytes = std::fs::read(home.path("copy.db")).unwrap();
    let (quarter, end) = (bytes.len() / 4, bytes.len() / 4 * 3);
    bytes[quarter..end].fill(0xff);
    std::fs::write(home.path("damaged.db"), bytes).unwrap();
    home.refused(1, "credway backup restore --data-dir data damaged.db");
    assert!(resolved(&home).contains("one"));
}

#[test]
fn a_database_that_a_daemon_works_on_is_copied_and_not_replaced() {
    let home = home("canary-live-key");
    let _daemon = home.start("credway serve --data-dir data --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0");
    home.must("credway backup create --data-dir data copy.db");
    let told = home.refused(5, "credway backup restore --data-dir data copy.db");
    assert!(told.contains("stop the daemon"), "{told}");
}
