//! The wire contract held to the rules of its linter.

use std::path::Path;
use std::process::Command;

use crate::support::tools::tool;

#[test]
fn the_proto_is_clean() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    for rules in [&["lint"][..], &["format", "--diff", "--exit-code"], &["build", "--output", "/dev/null"]] {
        let cache = tempfile::tempdir().unwrap();
        let checked = Command::new(tool("buf"))
            .args(rules)
            .current_dir(&proto)
            .env("BUF_CACHE_DIR", cache.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "buf {}\n{told}", rules.join(" "));
    }
}

#[test]
fn a_planted_fault_in_the_proto_is_found() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("credway/v1")).unwrap();
    std::fs::copy(proto.join("buf.yaml"), dir.path().join("buf.yaml")).unwrap();
    let file = "credway/v1/credential_service.proto";
    let text = std::fs::read_to_string(proto.join(file)).unwrap() + "\nmessage bad_name { string NoComment = 1; }\n";
    std::fs::write(dir.path().join(file), text).unwrap();
    let checked = Command::new(tool("buf"))
        .arg("lint")
        .current_dir(dir.path())
        .env("BUF_CACHE_DIR", dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&checked.stdout);
    assert!(told.contains("bad_name") && told.contains("NoComment") && told.contains("comment"), "{told}");
}
