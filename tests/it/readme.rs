//! README's commands, run as they stand there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::program::{Home, until};

/// A fenced block: what stands after the fence, and the text.
struct Block {
    mark: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn blocks() -> Vec<Block> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    // Between fences every second part is a block.
    let parts = readme.split("\n```").skip(1).step_by(2);
    parts
        .map(|part| part.split_once('\n').unwrap())
        .map(|(mark, text)| Block { mark: mark.to_owned(), text: text.to_owned() })
        .collect()
}

fn marked(mark: &str) -> Vec<String> {
    let found: Vec<String> = blocks().into_iter().filter(|block| block.mark == mark).map(|block| block.text).collect();
    assert!(!found.is_empty(), "README has no block marked {mark:?}");
    found
}

#[test]
fn no_command_of_readme_is_left_out_here() {
    let marks: Vec<String> = blocks().into_iter().map(|block| block.mark).collect();
    assert_eq!(marks, ["sh", "sh", "sh tour", "yaml manifest", "sh tour", "sh api", "sh production"]);
}

#[test]
fn the_first_command_goes_from_nothing_to_a_resolved_credential() {
    let line = marked("sh").remove(0);
    let arguments = line.trim().strip_prefix("cargo run --release -- ").unwrap();
    let home = Home::new();
    let daemon = home.start(&format!("credway {arguments} --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0"));
    until("it has printed all", || daemon.printed().contains("Stop: "));
    assert!(daemon.printed().contains("DEMO_API_KEY  demo-production-key"), "{}", daemon.printed());
}

#[test]
fn the_second_command_is_what_guards_the_main_branch() {
    assert_eq!(marked("sh").remove(1), "tests/run");
    let guard = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(guard.ends_with("\nexec tests/run\n"), "{guard}");
    for script in ["tests/run", ".ci/run"] {
        let path = root().join(script);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0o111, "{script} cannot be run");
        Home::new().must(&format!("bash -n {}", path.display()));
    }
}

#[test]
fn the_tour_can_be_taken() {
    let home = Home::new();
    let _dev = home.dev("");
    home.write("mailer.yaml", &marked("yaml manifest").remove(0));
    let printed: Vec<String> = marked("sh tour").iter().map(|block| home.must(&format!("set -e\n{block}"))).collect();
    let [resolving, applying] = printed.as_slice() else { panic!("the tour has two parts") };
    for told in ["resolves", "demo-sandbox-key", "demo-charge-key", "Demo production"] {
        assert!(resolving.contains(told), "{told}\n{resolving}");
    }
    for told in ["nothing was changed", "changes made", "APIKey     ********", "APIKey='re_demo'"] {
        assert!(applying.contains(told), "{told}\n{applying}");
    }
}

#[test]
fn the_way_by_the_api_can_be_gone() {
    let home = Home::new();
    let dev = home.dev("");
    let block = marked("sh api").remove(0).replace("127.0.0.1:8420", dev.at("http"));
    let printed = home.must(&format!("set -e -o pipefail\n{block}"));
    let told = [
        "\"key\": \"APIKey\"",
        "\"prod\"",
        "address: ",
        "re_first",
        "re_sandbox",
        "\"new_version\": 2",
        "re_second",
        "\"code\": \"IN_USE\"",
        "[]",
        "News sandbox",
    ];
    let mut rest = printed.as_str();
    for told in told {
        let (_, after) = rest.split_once(told).unwrap_or_else(|| panic!("{told} is not in {rest}\nof\n{printed}"));
        rest = after;
    }
    assert!(!rest.contains("News\n"), "what was deleted is still listed: {printed}");
}

#[tokio::test]
async fn the_way_to_production_can_be_gone() {
    let home = crate::deploy::production().await;
    let block = marked("sh production").remove(0);
    let (check, serve) = block.split_once('\n').unwrap();
    assert_eq!(home.must(check), "the settings are usable\n");
    let daemon = home.start(serve.trim());
    assert_eq!(home.must(&format!("credway healthcheck --server unix:{}", daemon.at("socket"))), "serving\n");
}

#[test]
fn each_file_that_readme_names_is_there() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let code = readme.split('`').skip(1).step_by(2);
    let paths = code.filter(|text| ["src/", "deploy/", "proto/", "tests/"].iter().any(|dir| text.starts_with(dir)));
    for path in paths {
        assert!(root().join(path).exists(), "README names {path}");
    }
}
