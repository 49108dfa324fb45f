//! MCP servers and credentials tried from outside: real ones, and each way in which they can be broken.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use credway::clock::Clock;
use credway::config::{Egress, EgressRule};
use credway::limits;
use credway::model::template::Template;
use credway::probe::Prober;
use credway::probe::report::Report;
use tokio::net::TcpStream;

use crate::support::canned::Canned;
use crate::support::cast::fields;
use crate::support::figures;
use crate::support::mariadb::{self, MariaDb};
use crate::support::mcp::McpProcess;
use crate::support::openbao::{ClosedPort, free_port, until};
use crate::support::postgres::{LOCKED, LOCKED_PASSWORD, Postgres};
use crate::support::tls::Authority;

const CANARY: &str = "canary-probe-secret";

/// One that may reach this machine.
fn prober() -> Prober {
    prober_trusting(None)
}

fn prober_trusting(authority: Option<&std::path::Path>) -> Prober {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let allow = vec![EgressRule::Network("127.0.0.0/8".parse().unwrap()), EgressRule::Host("localhost".to_owned())];
    Prober::new(&Egress { allow, ca_file: authority.map(Into::into), ..Egress::default() }, Clock::System).unwrap()
}

async fn server(prober: &Prober, url: &str) -> Report {
    prober.server(&url.parse().unwrap()).await.0
}

/// Each check with its outcome.
fn outcomes(report: &Report) -> BTreeMap<&'static str, String> {
    report.checks.iter().map(|check| (check.kind.word(), check.finding.outcome.to_string())).collect()
}

fn order(report: &Report) -> Vec<&'static str> {
    report.checks.iter().map(|check| check.kind.word()).collect()
}

#[track_caller]
fn assert_fails(report: &Report, at: &str, reason: &str) {
    let failure = report.failure().unwrap_or_else(|| panic!("nothing failed: {report:#?}"));
    assert_eq!(failure.kind.word(), at, "{report:#?}");
    assert!(failure.finding.reason.contains(reason), "{:?}", failure.finding);
    assert!(failure.finding.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty()), "{failure:?}");
    let after = report.checks.iter().skip_while(|check| *check != failure).skip(1);
    for check in after {
        assert_eq!(check.finding.outcome.to_string(), "skipped", "{report:#?}");
        assert!(check.finding.reason.starts_with("skipped: "), "{check:?}");
    }
}

const CHECKS: [&str; 7] = ["address", "dns", "tls", "http", "protocol", "tools", "schemas"];

#[tokio::test]
async fn servers_that_nobody_here_wrote_pass_every_check() {
    let (everything, fastmcp) = tokio::join!(McpProcess::everything(), McpProcess::fastmcp());
    let prober = prober();
    let table = [
        ("server-everything", &everything.url, "echo", "it speaks MCP 2025-11-25"),
        ("fastmcp", &fastmcp.url, "add", "it speaks MCP 2025-11-25, and 2026-07-28 without a handshake"),
    ];
    for (name, url, tool, eras) in table {
        let url = url.parse().unwrap();
        let (mut report, mut seen, _) = prober.server(&url).await;
        // The second greeting has little time, which on a busy machine may be too little.
        for _ in 0..4 {
            if report.checks[4].finding.reason != eras {
                (report, seen, _) = prober.server(&url).await;
            }
        }
        assert_eq!(order(&report), CHECKS);
        assert_eq!(report.outcome().to_string(), "pass", "{report:#?}");
        let protocol = &report.checks[4].finding.reason;
        assert_eq!(protocol, eras, "{name}");
        figures::show(&format!("{name}: {protocol}; {}", report.checks[5].finding.reason));
        let tools = seen.tools.unwrap();
        assert!(tools.iter().any(|known| known.name == tool && known.input_schema.is_some()), "{tools:?}");
    }
}

#[tokio::test]
async fn nothing_is_sent_to_addresses_that_are_not_allowed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let page = Canned::http("200 OK", &[]).await;
    let strict = Prober::new(&Egress::default(), Clock::System).unwrap();
    let port = page.address.port();
    let table = [
        (format!("http://127.0.0.1:{port}/mcp"), "a loopback address"),
        (format!("http://localhost:{port}/mcp"), "a loopback address"),
        (format!("http://[::ffff:127.0.0.1]:{port}/mcp"), "a loopback address"),
        (format!("http://2130706433:{port}/mcp"), "a loopback address"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), "cloud metadata"),
        ("https://[fd00:ec2::254]/".to_owned(), "cloud metadata"),
        ("http://10.0.0.1/".to_owned(), "a private address"),
    ];
    for (url, reason) in table {
        assert_fails(&server(&strict, &url).await, "address", reason);
    }
    assert_eq!(page.asked(), 0);
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_where_it_ends() {
    let prober = prober();
    let port = ClosedPort::hold();
    let closed = format!("http://{}/mcp", port.address());
    assert_fails(&server(&prober, &closed).await, "http", "nothing listens");
    assert_fails(&server(&prober, &closed.replace("http:", "https:")).await, "tls", "nothing listens");
    let unknown = server(&prober, "https://nothing.invalid/mcp").await;
    assert_fails(&unknown, "dns", "no address");
    assert_eq!(order(&unknown), CHECKS);
}

#[tokio::test]
async fn what_is_no_mcp_server_is_told_by_what_it_answers() {
    let prober = prober();
    let page = Canned::http("200 OK", &[]).await;
    let report = server(&prober, &format!("http://{}/", page.address)).await;
    assert_fails(&report, "protocol", "does not speak MCP");
    assert_eq!(outcomes(&report)["http"], "warning");
    let broken = Canned::http("502 Bad Gateway", &[]).await;
    assert_fails(&server(&prober, &format!("http://{}/", broken.address)).await, "http", "502 Bad Gateway");
    let locked = Canned::http("401 Unauthorized", &[("www-authenticate", "Bearer")]).await;
    let report = server(&prober, &format!("http://{}/", locked.address)).await;
    assert_eq!((report.outcome().to_string().as_str(), outcomes(&report)["tools"].as_str()), ("warning", "skipped"));
}

#[tokio::test]
async fn a_redirect_is_not_followed_wherever_it_leads() {
    let prober = prober();
    let target = Canned::http("200 OK", &[]).await;
    let elsewhere = format!("http://{}/{CANARY}", target.address);
    for (location, reason) in [
        ("http://169.254.169.254/latest/meta-data/", "a redirect to an address of cloud metadata (302)"),
        (elsewhere.as_str(), "a redirect (302)"),
    ] {
        let redirect = Canned::http("302 Found", &[("location", location)]).await;
        let report = server(&prober, &format!("http://{}/mcp", redirect.address)).await;
        assert_fails(&report, "http", reason);
        assert!(!format!("{report:?}").contains(CANARY), "{report:#?}");
    }
    assert_eq!(target.asked(), 0);
}

#[tokio::test]
async fn certificates_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::named("ours"), Authority::named("theirs"));
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, &authority.pem).unwrap();
    let prober = prober_trusting(Some(&file));
    let table = [
        (authority.expired_server_at(&["127.0.0.1"]), "its certificate ended on 2020-12-31"),
        (authority.server_at(&["other.example"]), "for another name"),
        (stranger.server_at(&["127.0.0.1"]), "nobody who is trusted here"),
    ];
    for (leaf, reason) in table {
        let canned = Canned::https(&leaf, "200 OK").await;
        assert_fails(&server(&prober, &format!("https://{}/mcp", canned.address)).await, "tls", reason);
        assert_eq!(canned.asked(), 0);
    }
    let good = Canned::https(&authority.server_at(&["127.0.0.1"]), "503 Service Unavailable").await;
    let report = server(&prober, &format!("https://{}/mcp", good.address)).await;
    assert_fails(&report, "http", "503");
    assert!(report.checks[2].finding.reason.contains("more days"), "{report:#?}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_in_time() {
    let silent = Canned::silent().await;
    let began = Clock::System.moment();
    let report = server(&prober(), &format!("http://{}/mcp", silent.address)).await;
    let took = Clock::System.moment().since(began);
    assert_fails(&report, "http", "no answer within");
    assert!(took < limits::PROBE_HTTP_DEADLINE + Duration::from_secs(2), "it took {took:?}");
}

fn template(text: &str) -> Template {
    toml::from_str(&format!("name = \"t\"\ndisplay_name = \"T\"\nprovider = \"t\"\nauth_kind = \"fields\"\n{text}"))
        .unwrap()
}

/// What the check of the credential says, in a report that shows no secret.
async fn tried(prober: &Prober, template: &Template, given: &[(&str, &str)]) -> (String, String) {
    let report = prober.credential(template, &fields(given), limits::PROBE_DEADLINE).await;
    assert!(!format!("{report:?}").contains("canary"), "{report:#?}");
    let decisive = report.failure().or(report.checks.last()).unwrap();
    (decisive.finding.outcome.to_string(), decisive.finding.reason.clone())
}

#[tokio::test]
async fn postgres_is_asked_whether_it_takes_the_login() {
    let prober = prober();
    let template = template("probe = { kind = \"postgres\", dsn = \"{dsn}\" }");
    let server = Postgres::locked().await;
    let (port, database) = (server.port(), "/postgres");
    let dsn = |password: &str, port: u16, rest: &str| format!("postgres://{LOCKED}:{password}@127.0.0.1:{port}{rest}");
    let closed = ClosedPort::hold();
    let nobody = closed.address().port();
    let table = [
        (dsn(LOCKED_PASSWORD, port, database), "pass", "takes the credential (login)"),
        (dsn("canary-wrong", port, database), "fail", "refuses the credential (28P01)"),
        (dsn(LOCKED_PASSWORD, port, "/canary_nothing"), "fail", "no such database"),
        (dsn(LOCKED_PASSWORD, nobody, database), "fail", "nothing listens"),
        (dsn(LOCKED_PASSWORD, port, &format!("{database}?sslmode=require")), "fail", "TLS"),
        (format!("host=127.0.0.1 password={CANARY}"), "fail", "no URL"),
    ];
    for (dsn, outcome, reason) in table {
        let (found, says) = tried(&prober, &template, &[("dsn", &dsn)]).await;
        assert_eq!(found, outcome, "{dsn}: {says}");
        assert!(says.contains(reason), "{dsn}: {says}");
    }
}

/// How it ended with the DSN of `template`.
async fn dsn_tried(prober: &Prober, dsn: &str) -> (String, String) {
    let template = template("probe = { kind = \"postgres\", dsn = \"{dsn}\" }");
    tried(prober, &template, &[("dsn", dsn)]).await
}

#[tokio::test]
async fn postgres_shows_a_certificate_that_is_held_against_what_the_connection_string_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::named("ours"), Authority::named("theirs"));
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, &ours.pem).unwrap();
    let (trusting, strange) = (prober_trusting(Some(&file)), prober());
    let mut server = Postgres::locked().await;
    let leaf = ours.server_at(&["localhost"]);
    server.serve_tls(&leaf.certificate, &leaf.key);
    let port = server.port();
    let dsn =
        |host: &str, mode: &str| format!("postgres://{LOCKED}:{LOCKED_PASSWORD}@{host}:{port}/postgres?sslmode={mode}");
    let table = [
        // The name is looked for in the certificate, wherever it leads.
        (&trusting, "localhost", "verify-full", "pass", "takes the credential"),
        (&trusting, "127.0.0.1", "verify-full", "fail", "for another name"),
        (&trusting, "127.0.0.1", "verify-ca", "pass", "takes the credential"),
        (&strange, "localhost", "verify-full", "fail", "nobody who is trusted here"),
        (&strange, "localhost", "verify-ca", "fail", "nobody who is trusted here"),
        (&strange, "127.0.0.1", "require", "pass", "takes the credential"),
        (&strange, "127.0.0.1", "prefer", "pass", "takes the credential"),
        (&strange, "127.0.0.1", "disable", "pass", "takes the credential"),
    ];
    for (prober, host, mode, outcome, reason) in table {
        let (found, says) = dsn_tried(prober, &dsn(host, mode)).await;
        assert_eq!((found.as_str(), says.contains(reason)), (outcome, true), "{mode} at {host}: {says}");
    }
    let expired = ours.expired_server_at(&["localhost"]);
    let stranger = theirs.server_at(&["localhost"]);
    for (leaf, reason) in [(expired, "its certificate ended on"), (stranger, "nobody who is trusted here")] {
        server.serve_tls(&leaf.certificate, &leaf.key);
        let (found, says) = dsn_tried(&trusting, &dsn("localhost", "verify-full")).await;
        assert_eq!((found.as_str(), says.contains(reason)), ("fail", true), "{says}");
    }
}

/// Tells the test below, where it runs as its own child, what to try.
const TRIED_DSN: &str = "CREDWAY_TEST_PROBE_DSN";

#[tokio::test]
async fn the_environment_of_the_process_has_no_say_in_how_postgres_is_asked() {
    if let Ok(dsn) = std::env::var(TRIED_DSN) {
        assert_eq!(dsn_tried(&prober(), &dsn).await.0, "pass");
        return;
    }
    let authority = Authority::named("ours");
    let mut server = Postgres::locked().await;
    let leaf = authority.server();
    server.serve_tls(&leaf.certificate, &leaf.key);
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "probe::the_environment_of_the_process_has_no_say_in_how_postgres_is_asked"]);
    child.env(TRIED_DSN, format!("postgres://{LOCKED}:{LOCKED_PASSWORD}@127.0.0.1:{}/postgres", server.port()));
    for (name, value) in [
        ("PGOPTIONS", "-c no.such_setting=1 -c nonsense=1"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "/nowhere/ca.pem"),
        ("PGSSLCERT", "/nowhere/client.pem"),
        ("PGSSLKEY", "/nowhere/client.key"),
        ("PGHOST", "nothing.invalid"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGPORT", "1"),
        ("PGUSER", "nobody"),
        ("PGPASSWORD", "wrong"),
        ("PGDATABASE", "nothing"),
        ("PGAPPNAME", "nothing"),
    ] {
        child.env(name, value);
    }
    let ended = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn what_is_no_postgres_is_told_from_one() {
    let page = Canned::http("200 OK", &[]).await;
    let (found, says) = dsn_tried(&prober(), &format!("postgres://u:{CANARY}@{}/x", page.address)).await;
    assert_eq!((found.as_str(), says.contains("no PostgreSQL")), ("fail", true), "{says}");
}

#[tokio::test]
async fn mysql_is_asked_whether_it_takes_the_login() {
    let server = tokio::task::spawn_blocking(MariaDb::start).await.unwrap();
    let prober = prober();
    let template = template(
        "probe = { kind = \"mysql\", host = \"{h}\", port = \"{port}\", user = \"{u}\", password = \"{p}\", database = \"{d}\" }",
    );
    let closed = ClosedPort::hold();
    let (port, nobody) = (server.port.to_string(), closed.address().port().to_string());
    let (user, password, database) = (mariadb::USER, mariadb::PASSWORD, mariadb::DATABASE);
    let table = [
        ("127.0.0.1", &port, user, password, database, "pass", "takes the credential (login)"),
        ("localhost", &port, user, password, database, "pass", "takes the credential (login)"),
        ("127.0.0.1", &port, user, "canary-wrong", database, "fail", "refuses the credential (1045)"),
        ("127.0.0.1", &port, "canary-nobody", password, database, "fail", "refuses the credential (1045)"),
        ("127.0.0.1", &port, user, password, "canary_nothing", "fail", "refuses the credential (1044)"),
        ("127.0.0.1", &port, mariadb::ALLOWED_ALL, password, "canary_nothing", "fail", "no such database"),
        ("127.0.0.1", &nobody, user, password, database, "fail", "nothing listens"),
    ];
    for (h, port, u, p, d, outcome, reason) in table {
        let (found, says) = tried(&prober, &template, &[("h", h), ("port", port), ("u", u), ("p", p), ("d", d)]).await;
        assert_eq!((found.as_str(), says.contains(reason)), (outcome, true), "{u} at {h}:{port}/{d}: {says}");
    }
}

/// A Redis with a password. Dropped, it is killed.
struct Redis(Child);

impl Redis {
    async fn start(port: u16) -> Self {
        let port_text = port.to_string();
        let arguments = ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--requirepass", CANARY];
        let mut command = Command::new("redis-server");
        let child = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let redis = Self(child);
        until("Redis listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn redis_is_asked_whether_it_takes_the_password() {
    let port = free_port();
    let _redis = Redis::start(port).await;
    let prober = prober();
    let template = template(
        "probe = { kind = \"redis\", address = \"{a}\", username = \"{u}\", password = \"{p}\", database = \"{d}\" }",
    );
    let address = format!("127.0.0.1:{port}");
    let page = Canned::http("200 OK", &[]).await;
    let page = page.address.to_string();
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let table: [Row<'_>; 7] = [
        (&[("a", &address), ("p", CANARY)], "pass", "PING"),
        (&[("a", &address), ("u", "default"), ("p", CANARY), ("d", "3")], "pass", "PING"),
        (&[("a", &address), ("p", "canary-wrong")], "fail", "refuses the credential (WRONGPASS)"),
        (&[("a", &address), ("u", "canary-nobody"), ("p", CANARY)], "fail", "WRONGPASS"),
        (&[("a", &address)], "fail", "refuses the credential (NOAUTH)"),
        (&[("a", &address), ("p", CANARY), ("d", "999")], "fail", "no database of that number"),
        (&[("a", &page), ("p", CANARY)], "fail", "no Redis"),
    ];
    for (given, outcome, reason) in table {
        let (found, says) = tried(&prober, &template, given).await;
        assert_eq!(found, outcome, "{given:?}: {says}");
        assert!(says.contains(reason), "{given:?}: {says}");
    }
}

#[tokio::test]
async fn a_provider_of_http_is_known_by_its_status() {
    let prober = prober();
    let table = [
        ("200 OK", "", "pass", "takes the credential (200)"),
        ("401 Unauthorized", "", "fail", "refuses the credential (401)"),
        ("403 Forbidden", "", "fail", "refuses the credential (403)"),
        ("403 Forbidden", "known_by = [\"<html>\"]", "pass", "for want of a permission"),
        ("500 Internal Server Error", "", "warning", "says nothing of the credential"),
        ("200 OK", "true_at = \"/ok\"", "warning", "not of the known form"),
        ("302 Found", "", "warning", "302"),
    ];
    for (status, more, outcome, reason) in table {
        let provider = Canned::http(status, &[("location", "http://169.254.169.254/")]).await;
        let template = template(&format!(
            "[header]\nname = \"Authorization\"\nvalue = \"Basic {{user}}:{{key}}\"\n\
             [probe]\nkind = \"http\"\nurl = \"http://{}/me\"\n{more}",
            provider.address
        ));
        let (found, says) = tried(&prober, &template, &[("user", "u"), ("key", CANARY)]).await;
        assert_eq!(found, outcome, "{status} {more}: {says}");
        assert!(says.contains(reason), "{status} {more}: {says}");
        assert_eq!(provider.asked(), 1);
        let (found, says) = tried(&prober, &template, &[("user", "u")]).await;
        assert_eq!((found.as_str(), says.contains("lacks a field")), ("fail", true), "{says}");
        assert_eq!(provider.asked(), 1);
    }
}

#[tokio::test]
async fn what_cannot_be_tried_is_skipped() {
    let prober = prober();
    let mongo = template("probe = { kind = \"mongodb\", uri = \"{uri}\", database = \"{d}\" }");
    let table = [(mongo, "not supported by this build"), (template(""), "nothing is known")];
    for (template, reason) in table {
        let (found, says) = tried(&prober, &template, &[("uri", CANARY), ("d", "x")]).await;
        assert_eq!((found.as_str(), says.contains(reason)), ("skipped", true), "{says}");
    }
}
