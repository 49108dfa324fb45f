//! The audit of resolves: what a daemon writes for calls over each way in, when it is killed, and when it cannot write.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use credway::clock::Clock;
use credway::config::{Config, WhenFull};
use credway::grpc::proto::{
    BatchResolveCredentialsRequest, BatchStep, ResolveCredentialsRequest, WatchCredentialsRequest,
};
use credway::limits;
use credway::model::caller::Scope;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::answers::{asking, http_get, metric, refused};
use crate::support::cast::{ACME, World};
use crate::support::daemon::{Home, resolve};
use crate::support::openbao::{Bao, until};
use crate::support::process::{Process, issue, issuing};
use crate::support::sidecar::Client;

/// A file of the test's own.
fn recording_to(dir: &TempDir) -> (PathBuf, impl FnOnce(&mut Config) + use<>) {
    let file = dir.path().join("audit.jsonl");
    let given = file.clone();
    (file, move |config: &mut Config| config.audit.file = Some(given))
}

/// The lines of a file; none if there is no file.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("torn: {line}"))).collect()
}

/// Entries, one for each time of a line that is `like` this.
fn entries(lines: &[Value], like: &Value) -> usize {
    let is_like = |line: &&Value| like.as_object().unwrap().iter().all(|(key, value)| line[key] == *value);
    lines.iter().filter(is_like).map(|line| line["at"].as_array().unwrap().len()).sum()
}

fn asking_for(workflow: &str, step: &str) -> ResolveCredentialsRequest {
    ResolveCredentialsRequest { workflow_id: workflow.into(), step: step.into(), ..asking("pay") }
}

/// As many warm calls as that.
async fn resolve_often(client: &mut Client, times: usize) {
    for _ in 0..times {
        client.resolve_credentials(asking_for("rehearsal", "charge")).await.unwrap();
    }
}

#[tokio::test]
async fn every_resolve_has_its_entry_whichever_way_it_came() {
    let (world, dir) = (World::sqlite(ACME).await, tempfile::tempdir().unwrap());
    let (file, change) = recording_to(&dir);
    let sidecar = world.sidecar_with(Clock::System, change).await;
    let (token, reader) = (world.token(&[Scope::McpExecute]).await, world.token(&[Scope::McpRead]).await);
    let mut client = sidecar.client(&token).await;

    resolve_often(&mut client, 51).await;
    assert_eq!(refused(client.resolve_credentials(asking("nowhere")).await), "INSTANCE_NOT_FOUND");
    assert_eq!(refused(client.resolve_credentials(asking("")).await), "INVALID_REQUEST");
    let mut reader = sidecar.client(&reader).await;
    assert_eq!(refused(reader.resolve_credentials(asking("pay")).await), "PERMISSION_DENIED");
    let step = |name: &str| BatchStep { step: name.into(), instance_id: name.into(), server_url: String::new() };
    let batch = BatchResolveCredentialsRequest { steps: vec![step("pay"), step("nowhere")], ..Default::default() };
    client.batch_resolve_credentials(batch).await.unwrap();
    let run_token = issue(&mut client, issuing("pay", "rehearsal", "charge")).await.unwrap().token;
    let process = Process::of(&sidecar, &run_token);
    process.ask().await.key();
    let wanting = json!({ "config_schema": { "UNHEARD_OF": { "required": true } } });
    assert_eq!(process.ask_for(&wanting).await.status, 422);
    let watch = WatchCredentialsRequest { instance_id: "pay".into(), ..Default::default() };
    client.watch_credentials(watch).await.unwrap().into_inner().message().await.unwrap();
    assert!(sidecar.stop().await);

    let (lines, charge) = (lines(&file), world.connection("charge").await.to_string());
    let from_memory = json!({ "method": "resolve", "outcome": "ok", "workflow": "rehearsal", "step": "charge" });
    let table = [
        (from_memory, 51),
        (json!({ "method": "resolve", "outcome": "INSTANCE_NOT_FOUND", "asked_by": "name" }), 1),
        (json!({ "method": "resolve", "outcome": "INVALID_REQUEST" }), 1),
        (json!({ "method": "resolve", "outcome": "PERMISSION_DENIED" }), 1),
        (json!({ "method": "batch_step", "outcome": "ok", "step": "pay" }), 1),
        (json!({ "method": "batch_step", "outcome": "INSTANCE_NOT_FOUND", "step": "nowhere" }), 1),
        (json!({ "method": "issue_run_token", "outcome": "ok", "workflow": "rehearsal" }), 1),
        (json!({ "method": "mcp_config", "outcome": "ok", "workflow": "rehearsal", "step": "charge" }), 1),
        (json!({ "method": "mcp_config", "outcome": "CONFIG_INCOMPLETE" }), 1),
        (json!({ "method": "watch", "outcome": "ok" }), 1),
    ];
    for (like, times) in &table {
        assert_eq!(entries(&lines, like), *times, "{like} in {lines:#?}");
    }
    let all: usize = table.iter().map(|(_, times)| times).sum();
    assert_eq!(entries(&lines, &json!({})), all, "{lines:#?}");

    let warm = lines.iter().filter(|line| entries(&[(*line).clone()], &table[0].0) > 0);
    for line in warm {
        assert_eq!(line["instance"], world.instance("pay").await.to_string());
        assert_eq!(line["tenant"], world.workspace.tenant.id.to_string());
        assert_eq!(line["project"], world.workspace.project.id.to_string());
        assert_eq!(line["connections"][0]["id"], charge);
        assert_eq!(line["connections"][0]["secret_version"], 1);
        assert!(["fresh", "cached"].contains(&line["connections"][0]["freshness"].as_str().unwrap()));
        assert!(line["caller"].as_str().unwrap().starts_with("tok_"), "{line}");
    }
    let text = fs::read_to_string(&file).unwrap();
    for secret in ["canary", &token, &run_token] {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_call_that_was_given_up_has_its_entry() {
    let (bao, dir) = (Bao::own().await, tempfile::tempdir().unwrap());
    let world = World::openbao(&bao, ACME).await;
    let (file, change) = recording_to(&dir);
    let change = |config: &mut Config| {
        change(config);
        config.grpc.call_deadline = Duration::from_millis(300);
    };
    let sidecar = world.sidecar_with(Clock::System, change).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    bao.pause();
    let late = client.resolve_credentials(asking("pay")).await;
    bao.resume();
    assert_eq!(refused(late), "DEADLINE_EXCEEDED");
    assert!(sidecar.stop().await);
    let lines = lines(&file);
    assert_eq!(
        (lines.len(), entries(&lines, &json!({ "outcome": "ABANDONED", "method": "resolve" }))),
        (1, 1),
        "{lines:?}"
    );
}

#[tokio::test]
async fn without_an_audit_nothing_is_handed_out_if_that_is_asked_for() {
    let (world, dir) = (World::sqlite(ACME).await, tempfile::tempdir().unwrap());
    let file = dir.path().join("audit.jsonl");
    // Those who may write anywhere cannot write here.
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let change = |config: &mut Config| {
        config.audit.file = Some(file.clone());
        config.audit.when_full = WhenFull::Refuse;
    };
    let sidecar = world.sidecar_with(Clock::System, change).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    resolve_often(&mut client, 2).await;
    until("the disk is known to be full", async || metric(&sidecar, "credway_audit_failing").await == 1.0).await;
    let http = sidecar.addresses().http.unwrap();
    until("it is not ready", async || http_get(http, "/readyz?verbose").await.1.contains("[-]audit")).await;
    let warm = asking_for("rehearsal", "charge");
    assert_eq!(refused(client.resolve_credentials(warm.clone()).await), "AUDIT_UNAVAILABLE");
    assert_eq!(refused(issue(&mut client, issuing("pay", "", "")).await), "AUDIT_UNAVAILABLE");
    fs::remove_file(&file).unwrap();
    until("the file is written again", async || client.resolve_credentials(warm.clone()).await.is_ok()).await;
    assert!(sidecar.stop().await);
    assert_eq!(entries(&lines(&file), &json!({ "outcome": "ok" })), 3, "those that waited, and the last");
}

#[tokio::test]
async fn a_full_disk_keeps_nobody_from_a_credential_unless_that_is_asked_for() {
    let world = World::sqlite(ACME).await;
    let change = |config: &mut Config| config.audit.file = Some("/dev/full".into());
    let sidecar = world.sidecar_with(Clock::System, change).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    resolve_often(&mut client, 2).await;
    until("the disk is known to be full", async || metric(&sidecar, "credway_audit_failing").await == 1.0).await;
    resolve_often(&mut client, 2).await;
    assert!(sidecar.stop().await);
}

#[tokio::test]
async fn a_killed_daemon_has_written_all_but_its_last_batch() {
    let home = Home::new();
    home.manifest(&[("pay", "canary")]);
    home.config(&[]);
    home.apply().await.ok();
    let mut daemon = home.start().await;
    let file = home.path("data").join("audit.jsonl");
    let mut client = daemon.client(&home.token()).await;
    for _ in 0..20 {
        resolve(&mut client, "pay").await.unwrap();
    }
    until("a batch is written", async || entries(&lines(&file), &json!({})) == 20).await;
    let before = tokio::time::Instant::now();
    for _ in 0..20 {
        resolve(&mut client, "pay").await.unwrap();
    }
    daemon.kill();
    let in_time = before.elapsed() < limits::AUDIT_BATCH_INTERVAL;
    let mut daemon = home.start().await;
    let kept = entries(&lines(&file), &json!({}));
    assert!((20..=40).contains(&kept) && (in_time || kept > 20), "{kept} entries");

    // Others move the file; a SIGHUP asks for a new one.
    fs::rename(&file, home.path("moved")).unwrap();
    daemon.signal(Signal::HUP);
    resolve(&mut daemon.client(&home.token()).await, "pay").await.unwrap();
    assert!(daemon.stop().await.success());
    assert_eq!(entries(&lines(&file), &json!({ "outcome": "ok" })), 1, "what is queued at the end is written");
}
