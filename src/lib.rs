//! credway finds the way from a workflow step to the credential it may use.
//!
//! # The way of a request, read downwards
//! `grpc/hot.rs` (a warm call ends here, with bytes out of `grpc/answers.rs`) → `grpc/admission.rs` → `auth/mod.rs` →
//! `grpc/service.rs` → `resolve/mod.rs` → `resolve/wirings.rs` → `store/wiring.rs` → `resolve/plan.rs` → `secrets/cache/` →
//! `secrets/vault/` or `secrets/sealed/` → `resolve/materialise.rs` → `grpc/convert.rs`.
//! An MCP process comes in by `http/mcp_config/` and gets its answer there; what its token is bound to is held in
//! `resolve/bound.rs`. People and scripts come in by `http/mod.rs` → `rest/front.rs` → `rest/asker.rs` (who, for which project) → the
//! handler in `rest/` → the operation in `control/`, which the commands in `cli/` share → `store/` and `secrets/`; what is tried
//! from outside goes by `probe/`. Who signs in at a provider comes in by `rest/pages/` and goes to `control/connect/` → `oauth/`. That something changed is heard by `changes/`, and outdates whatever was made of it.
//!
//! # The map
//! Each module may import those that its row names, all of which stand above it: no cycle can be written.
//! `tests/it/tidy.rs` holds the code to this table.
//!
//! | module | is for | imports |
//! |---|---|---|
//! | limits | every bound, with its reason | |
//! | clock | what time is it | |
//! | model | the domain's nouns, plain data and pure functions | limits |
//! | readiness | what is not ready yet, and why | |
//! | config | settings as plain values, and how they are read | limits, model |
//! | metrics | every metric with its help text and labels | model |
//! | audit | the record of every resolve, as a file of JSON lines, and which credentials and tokens are in use | limits, clock, model, config, metrics |
//! | telemetry | logs and traces out of the process | config, limits |
//! | templates | the connection templates: built-in files and a directory; the platform's servers | limits, model |
//! | probe | MCP servers and credentials tried from outside, and which addresses may be reached for it | limits, clock, model, config |
//! | oauth | the client of OAuth providers: every request for tokens | limits, clock, model, config, probe |
//! | store | SQL, and nothing but SQL, on SQLite and PostgreSQL | limits, clock, model, config |
//! | events | webhooks: what happens to connections, told to others until they take it | limits, clock, model, config, metrics, probe, store |
//! | changes | what changed lately, for whoever keeps what was read | limits, clock, model, metrics, store |
//! | secrets | secret stores, and the cache in front | limits, clock, model, config, metrics, store |
//! | refresh | keeps OAuth tokens fresh across all daemons, and never loses one | limits, clock, model, config, metrics, templates, store, secrets, oauth |
//! | auth | who is asking | limits, clock, model, config, metrics, audit, store, changes |
//! | resolve | the resolution rules | limits, clock, model, metrics, store, changes, secrets, refresh |
//! | control | what people and manifests change | limits, clock, model, templates, probe, oauth, store, secrets, resolve |
//! | rest | the control plane's REST API, and the pages that people are sent to and come back to | limits, model, metrics, templates, probe, oauth, store, secrets, auth, resolve, control |
//! | grpc | the data plane's wire and listeners | limits, clock, model, readiness, config, metrics, audit, telemetry, changes, auth, resolve |
//! | http | metrics, probes, the REST API's port, and the config of MCP processes | limits, clock, model, readiness, metrics, audit, auth, resolve, rest |
//! | app | builds every part, runs and drains; knows all modules | limits, clock, model, readiness, config, metrics, audit, telemetry, templates, probe, oauth, store, events, changes, secrets, refresh, auth, resolve, control, rest, grpc, http |
//! | cli | the commands | limits, clock, model, config, telemetry, templates, store, secrets, control, grpc, app |
//!
//! # What is absent, on purpose
//! - Only `grpc` knows protobuf; only `store` knows SQL; only `cli` prints; only `config` and `cli` read the environment.
//! - Plaintext secrets come in by `rest` and `cli` through `control`, are tried by `probe`, live in `secrets` (cached), pass through `resolve`, leave by `grpc/convert.rs` and
//!   `http/mcp_config/wire.rs`, and are held as whole answers in `grpc/answers.rs`. Their type cannot be printed.
//! - Nothing reads a clock but `clock`; no task outlives `app`; no wait is without a deadline from `limits` or `config`.
//! - There is no global state but the process's log subscriber and TLS provider.

pub mod app;
pub mod audit;
pub mod auth;
pub mod changes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod events;
pub mod grpc;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod oauth;
pub mod probe;
pub mod readiness;
pub mod refresh;
pub mod resolve;
pub mod rest;
pub mod secrets;
pub mod store;
pub mod telemetry;
pub mod templates;
