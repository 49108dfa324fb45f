//! Metrics and probes, as scrapers and kubelets see them.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use credway::http::{HttpState, Routes, serve};
use credway::metrics::{Metrics, Tier};
use credway::model::reason::Reason;
use credway::readiness::Readiness;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::openbao::until;

/// Longer than anything here takes; a test that reaches it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

struct Port {
    address: String,
    metrics: Metrics,
    readiness: Readiness,
    drain: CancellationToken,
    server: JoinHandle<()>,
}

impl Port {
    async fn open() -> Self {
        let (metrics, readiness, drain) = (Metrics::new(), Readiness::default(), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let routes = Routes::new(HttpState { metrics: metrics.clone(), readiness: readiness.clone() });
        let server = tokio::spawn(serve(listener, routes, drain.clone()));
        Self { address, metrics, readiness, drain, server }
    }

    /// The head and the body of the answer.
    async fn get(&self, path: &str) -> (String, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    async fn ask(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

/// A scrape after some of everything was recorded.
async fn scrape() -> String {
    let port = Port::open().await;
    port.metrics.resolve_finished(None, Tier::SecretStore, 0.003);
    port.metrics.resolve_finished(Some(Reason::SecretMissing), Tier::None, 0.001);
    port.readiness.ready("database");
    let (head, body) = port.get("/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    body
}

#[tokio::test]
async fn every_metric_is_explained_typed_and_named_as_prometheus_wants() {
    let text = scrape().await;
    let words = |prefix: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    let (helped, typed) = (words("# HELP "), words("# TYPE "));
    assert_eq!(helped, typed);
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(typed.contains(family) || typed.contains(name), "{line} has no type");
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line} has no number");
    }
    assert!(text.contains("credway_ready 1\n"), "{text}");
    assert!(text.contains(concat!("credway_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n")), "{text}");
}

#[tokio::test]
async fn promtool_finds_no_fault_with_the_metrics() {
    let text = scrape().await;
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "promtool is missing: apt install prometheus");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[tokio::test]
async fn readiness_names_every_part_that_does_not_work() {
    let port = Port::open().await;
    port.readiness.ready("secret store");
    port.readiness.not_ready("database", "connection refused");
    let (head, body) = port.get("/readyz?verbose").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(body, "[-]database: connection refused\n[+]secret store ok\nnot ready\n");
    let (head, _) = port.get("/livez").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "a process whose database is down still lives: {head}");

    port.readiness.ready("database");
    let (head, body) = port.get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("cache-control: no-store"), "{head}");
    assert_eq!(body, "ready\n");
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_that_says_what_is() {
    let port = Port::open().await;
    let (head, body) = port.get("/v2/connections").await;
    assert!(head.starts_with("HTTP/1.1 404 ") && head.contains("content-type: application/problem+json"), "{head}");
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["code"], "NOT_FOUND");
    assert_eq!(problem["message"], "there is nothing at /v2/connections: this port has /metrics, /livez, /readyz");
    let post = "POST /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (head, _) = port.ask(post).await;
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("allow: GET,HEAD"), "{head}");
}

#[tokio::test]
async fn draining_ends_idle_connections_and_does_not_wait_for_half_a_request() {
    let port = Port::open().await;
    let mut idle = TcpStream::connect(&port.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut half = TcpStream::connect(&port.address).await.unwrap();
    half.write_all(b"GET /livez HTT").await.unwrap();
    port.drain.cancel();
    tokio::time::timeout(PATIENCE, port.server).await.expect("the drain hangs").unwrap();
    // A process that another test is just starting holds a copy of the port until it executes its program.
    until("the port is closed", async || TcpStream::connect(&port.address).await.is_err()).await;
}
