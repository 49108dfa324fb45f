//! What is asked of a daemon, and its answers as tests read them.

use std::net::SocketAddr;

use credway::grpc::proto::config_entry::Value;
use credway::grpc::proto::{ResolveCredentialsRequest, ResolveCredentialsResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Status;
use tonic_types::{ErrorInfo, StatusExt};

use super::sidecar::Sidecar;

/// The request for an instance by its name or id.
pub(crate) fn asking(instance: &str) -> ResolveCredentialsRequest {
    ResolveCredentialsRequest { instance_id: instance.to_owned(), ..Default::default() }
}

/// The request for the one instance of a server.
pub(crate) fn asking_server(url: &str) -> ResolveCredentialsRequest {
    ResolveCredentialsRequest { server_url: url.to_owned(), ..Default::default() }
}

/// The one ErrorInfo that every refusal carries.
pub(crate) fn error_info(status: &Status) -> ErrorInfo {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("without ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "credway");
    info
}

/// Why it was refused.
pub(crate) fn reason(status: &Status) -> String {
    error_info(status).reason
}

/// Why it was refused, of an answer that should have been a refusal.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    reason(&answer.unwrap_err())
}

/// The value of one key as text.
pub(crate) fn value(answer: &ResolveCredentialsResponse, key: &str) -> String {
    let entry = answer.config.iter().find(|entry| entry.key == key).unwrap_or_else(|| panic!("no {key}: {answer:?}"));
    match entry.value.as_ref().unwrap() {
        Value::StringValue(text) => format!("{text:?}"),
        Value::NumberValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
    }
}

/// What a daemon answers at a path of its HTTP address: status and body. Metrics and probes never wait.
pub(crate) async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The value of one metric, named with its labels; 0 if it was never touched.
pub(crate) async fn metric(sidecar: &Sidecar, name: &str) -> f64 {
    let (_, text) = http_get(sidecar.addresses().http.unwrap(), "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}
