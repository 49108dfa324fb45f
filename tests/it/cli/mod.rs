//! The program from outside: each command as a person or a script runs it.

mod apply;
mod backup;
mod dev;
mod exec;
mod help;
mod project;
mod reach;
mod resolve;
mod settings;

use crate::support::program::{Daemon, Home};

/// Project payments of tenant acme. Its secrets come from everywhere that secrets may come from.
const WORLD: &str = "
tenant: acme
projects:
- project: payments
  servers:
  - service: pay
    url: https://mcp.example.com/pay
    config:
      API_KEY: {required: true, secret: true}
      REGION: {default: eu-west-1}
      TIMEOUT: {type: number, default: 30}
  connections:
  - {name: live, template: generic-api-key, environment: production, credentials: {api_key: {env: LIVE_KEY}}}
  - {name: sandbox, template: generic-api-key, environment: sandbox, credentials: {api_key: {file: sandbox.key}}}
  - {name: charge, template: generic-api-key, environment: sandbox, credentials: {api_key: {value: \"it's a charge\"}}}
  instances:
  - name: pay
    server: pay
    active: default
    profiles:
    - {name: default, values: {TIMEOUT: 15}, wiring: {API_KEY: {connection: live, credential: api_key}}}
  workflows:
  - workflow: rehearsal
    environment: sandbox
    overrides:
    - {instance: pay, connection: sandbox}
    - {instance: pay, connection: charge, step: charge}
  tokens:
  - {name: executor, role: project_viewer, scopes: ['mcp:execute'], file: executor.token}
";

/// A home with the manifest and the secrets that it names, nothing applied yet.
fn home_with_world() -> Home {
    let home = Home::new().with("LIVE_KEY", "live-canary");
    home.write("world.yaml", WORLD);
    home.write("sandbox.key", "sandbox-canary\n");
    home
}

/// The same, applied to an embedded daemon that runs. Commands find it without being told.
fn running() -> (Home, Daemon) {
    let home = home_with_world();
    home.must("credway apply -f world.yaml --data-dir data");
    let daemon = home.start("credway serve --data-dir data --http-addr 127.0.0.1:0");
    let token = std::fs::read_to_string(home.path("executor.token")).unwrap();
    let socket = format!("unix:{}", daemon.at("socket"));
    (home.with("CREDWAY_SERVER", &socket).with("CREDWAY_TOKEN", &token), daemon)
}
