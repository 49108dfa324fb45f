//! README's commands, run as they stand there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::oidc::{ClientProof, Oidc, Person};
use crate::support::openbao::free_port;
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
    let account = ["sh account", "sh account", "sh account", "toml settings"];
    let all = [&["sh", "sh", "sh tour", "yaml manifest", "sh tour", "sh api"][..], &account, &["sh production"]];
    assert_eq!(marks, all.concat());
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

/// With another provider in the place of GitHub.
#[tokio::test]
async fn an_account_can_be_connected() {
    let (oidc, port) = (Oidc::start().await, free_port());
    let home = Home::new().with("CREDWAY_TEMPLATES_DIR", "templates").with("CREDWAY_EGRESS_ALLOW", "127.0.0.1/32");
    let home = home.with("CLIENT_ID", "octo").with("CLIENT_SECRET", "secret");
    fs::create_dir(home.path("templates")).unwrap();
    home.write("templates/octo.toml", &octo(oidc.issuer()));
    let here = format!("127.0.0.1:{port}");
    oidc.client("octo", ClientProof::Post("secret"), &format!("http://{here}/oauth/callback")).await;

    let blocks: Vec<String> = marked("sh account")
        .into_iter()
        .map(|block| block.replace("github-oauth", "octo").replace("127.0.0.1:8420", &here))
        .collect();
    let [dev, begin, connected] = blocks.as_slice() else { panic!("connecting has three parts") };
    let (variable, dev) = dev.trim().split_once(' ').unwrap();
    let (name, value) = variable.split_once('=').unwrap();
    let home = home.with(name, value);
    let _dev = home.start(&format!("{dev} --http-addr {here} --grpc-addr 127.0.0.1:0"));
    let api: String = marked("sh api")[0].lines().take(3).map(|line| format!("{line}\n")).collect();
    let api = api.replace("127.0.0.1:8420", &here).replace("--name api", "--name api-$RANDOM");

    let printed = home.must(&format!("set -e -o pipefail\n{api}{begin}\ndeclare -p SIGN_IN ACCOUNT > begun"));
    let page = oidc.sign_in(&printed.trim().parse().unwrap(), Person::willing("ann")).await;
    assert!(page.contains("<h1>Connected</h1>"), "{page}");
    let printed = home.must(&format!("set -e -o pipefail\n{api}. ./begun\n{connected}"));
    let token = printed.lines().find(|line| line.contains("APIToken") && !line.contains('{')).unwrap();
    assert!(oidc.is_alive(token.split_whitespace().nth(1).unwrap()).await, "{printed}");
    for told in [r#"["active","ann@example.com"]"#, "\"default\"", "/oauth/start/"] {
        assert!(printed.contains(told), "{told}\n{printed}");
    }
}

/// The tests' provider as a template, which feeds what GitHub's feeds.
fn octo(issuer: &str) -> String {
    format!(
        r#"
        name = "octo"
        display_name = "Test provider"
        provider = "octo"
        auth_kind = "oauth2"
        fields = [
          {{ name = "access_token", label = "Access token" }},
          {{ name = "refresh_token", label = "Refresh token", required = false }},
          {{ name = "client_id", label = "Client ID", secret = false, required = false }},
          {{ name = "client_secret", label = "Client secret", required = false }},
        ]
        header = {{ name = "Authorization", value = "Bearer {{access_token}}" }}
        feeds = [{{ service = "github", key = "APIToken", field = "access_token" }}]

        [oauth]
        authorize_url = "{issuer}/auth"
        token_url = "{issuer}/token"
        scopes = ["openid", "email"]
        authorize_params = {{ prompt = "consent" }}
        account = {{ source = {{ url = "{issuer}/me" }}, id = "/sub", label = "/email" }}
        "#
    )
}

#[test]
fn the_settings_of_a_client_are_usable() {
    let home = Home::new();
    let secret = home.write("client-secret", "canary").display().to_string();
    home.write("credway.toml", &marked("toml settings")[0].replace("/etc/credway/google-client-secret", &secret));
    assert_eq!(home.must("credway config check --config credway.toml"), "the settings are usable\n");
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
    let code = readme.split('`').skip(1).step_by(2).filter_map(|text| text.split_whitespace().next());
    let paths = code.filter(|text| ["src/", "deploy/", "proto/", "tests/"].iter().any(|dir| text.starts_with(dir)));
    for path in paths {
        assert!(root().join(path).exists(), "README names {path}");
    }
}
