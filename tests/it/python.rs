//! Executors in another language: a Python client made from the proto, with no code of ours, against the running program.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::program::Home;
use crate::support::tools::tool;

/// What the client saw of a running `dev`, over TCP and over the Unix socket.
fn seen() -> Value {
    let home = Home::new();
    let dev = home.dev("");
    let (root, stubs) = (Path::new(env!("CARGO_MANIFEST_DIR")), home.path("stubs"));
    std::fs::create_dir(&stubs).unwrap();
    let proto = root.join("proto");
    let outputs = ["--python_out", "--grpc_python_out"].map(|option| format!("{option}={}", stubs.display()));
    run(Command::new(tool("python"))
        .args(["-m", "grpc_tools.protoc", "-I", proto.to_str().unwrap()])
        .args(outputs)
        .arg("credway/v1/credential_service.proto"));
    let printed = run(Command::new(tool("python"))
        .arg(root.join("tests/python/client.py"))
        .arg(&stubs)
        .args([dev.at("grpc"), dev.at("socket")])
        .env("CREDWAY_TOKEN", dev.at("token")));
    serde_json::from_str(&printed).unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_python_client_made_from_the_proto_gets_credentials_over_tcp_and_the_socket() {
    let seen = seen();
    assert_eq!(seen["tcp"], seen["socket"]);
    let seen = &seen["tcp"];
    let services =
        ["credway.v1.CredentialService", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"];
    assert_eq!(seen["reflection"]["services"], json!(services));
    assert_eq!(
        seen["reflection"]["methods"],
        json!([
            "ResolveCredentials",
            "BatchResolveCredentials",
            "ExplainResolution",
            "WatchCredentials",
            "ReportCredentialRejected",
            "IssueRunToken"
        ])
    );
    assert_eq!(seen["health"], json!(["SERVING", "SERVING"]));
    for (level, key) in
        [("profile", "demo-production-key"), ("workflow", "demo-sandbox-key"), ("step", "demo-charge-key")]
    {
        assert_eq!(seen[level], json!({ "DEMO_API_KEY": key, "DEMO_REGION": "eu-west-1" }), "{level}");
    }
    let unknown = &seen["unknown"];
    assert_eq!(
        (&unknown["code"], &unknown["reason"], &unknown["domain"]),
        (&json!("NOT_FOUND"), &json!("INSTANCE_NOT_FOUND"), &json!("credway"))
    );
    assert!(unknown["metadata"]["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{unknown}");
    assert_eq!(seen["no_token"]["code"], "UNAUTHENTICATED");
    assert_eq!(seen["batch"], json!({ "charge": "resolution", "mail": "INSTANCE_NOT_FOUND" }));
}
