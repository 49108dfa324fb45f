//! Every bound in the program, each with its reason. What an operator may move is in `config.rs`, with these as defaults.

mod audit;
mod connect;
mod control;
mod events;
mod oauth;
mod refresh;

use std::time::Duration;

pub use audit::*;
pub use connect::*;
pub use control::*;
pub use events::*;
pub use oauth::*;
pub use refresh::*;

/// Steps of one batch. A large graph holds some dozens; ten times that is a mistake or an attack.
pub const BATCH_STEPS_MAX: usize = 256;

/// Resolutions of one batch worked on at once, so that one graph cannot take all database connections.
pub const BATCH_CONCURRENCY: usize = 16;

/// A gRPC request. The largest honest one is a batch of 256 steps with long URLs, some 100 KiB.
pub const GRPC_REQUEST_BYTES_MAX: usize = 256 * 1024;

/// The niceness of the threads of a daemon that do not answer calls from memory: on a CPU that is wanted by both, those that
/// do get three quarters of it, and soon. More would leave who comes without an answer in memory, and waits, too little.
pub const BACKGROUND_NICENESS: i32 = 5;

/// Calls answered at once by one daemon; more are refused at once, so that those in flight keep their deadlines.
pub const CALLS_IN_FLIGHT_MAX: usize = 4096;

/// Connections open at once on each listener: an executor needs one, a machine hosts some hundreds.
pub const CONNECTIONS_PER_LISTENER_MAX: usize = 1024;

/// Streams on one HTTP/2 connection. h2's own default is 200; executors multiplex heavily over one socket.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1024;

/// A TLS handshake. One that takes longer is a peer that will not talk.
pub const TLS_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// A connection that was let in by a client certificate. It outlives the certificate's end, or its authority's removal, by no
/// more than this, and with a watch by no more than twice this; clients reconnect by themselves.
pub const TLS_CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// Silence after which an HTTP/2 connection is asked whether it is still there.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long the answer to that may take. With the silence before it, a peer that is gone is noticed within 10 s.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// The deadline of a call that brings none: longer than a slow Vault read, shorter than a person's patience.
pub const CALL_DEADLINE_DEFAULT: Duration = Duration::from_secs(2);

/// The longest deadline honoured. A caller that asks for more gets this one.
pub const CALL_DEADLINE_MAX: Duration = Duration::from_secs(10);

/// The least life an access token has left when it is handed out, unless the caller asks for more (contract, rule 6).
pub const MIN_TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(60);

/// The most life that a caller may ask for; providers' access tokens live an hour or less.
pub const MIN_TOKEN_TTL_MAX: Duration = Duration::from_secs(3600);

/// How long a cached secret is served before it is read again.
pub const SECRET_TTL_DEFAULT: Duration = Duration::from_secs(30);

/// Secrets cached at once.
pub const SECRET_CACHE_ENTRIES: u64 = 100_000;

/// Bytes of cached secrets, counted with their names and bookkeeping.
pub const SECRET_CACHE_BYTES: u64 = 256 * 1024 * 1024;

/// One read or write of the secret store, retries included. Detached from callers, who wait by their own deadline.
pub const SECRET_FETCH_DEADLINE: Duration = Duration::from_secs(5);

/// How long the failure of one fetch answers for those who ask again, who share it instead of queueing for their own. It
/// doubles with each further failure.
pub const SECRET_BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// The longest that it does: how late we notice by ourselves that one secret can be read again.
pub const SECRET_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long "there is no such secret" and "not for you" are remembered, at least and at most: spread, so that what was
/// revoked together is not asked for together ever after.
pub const SECRET_REFUSAL_TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Fetches from the secret store at once.
pub const SECRET_FETCHES_MAX: usize = 64;

/// Fields of one credential: the largest template has nine.
pub const CREDENTIAL_FIELDS_MAX: usize = 64;

/// One credential field. A service-account key file is some 2.5 KiB, a certificate chain some 10.
pub const CREDENTIAL_FIELD_BYTES_MAX: usize = 64 * 1024;

/// Callers that wait for a fetch at once: four times the calls in flight, as those that gave up wait on until the fetch ends.
pub const SECRET_WAITERS_MAX: usize = 4 * CALLS_IN_FLIGHT_MAX;

/// Versions of one secret that the sealed store keeps, the current one included. Nothing reads but the newest; the others are
/// for the day a wrong credential was saved: with the newest row deleted by hand, the one before is the newest.
pub const SEALED_VERSIONS_KEPT: i64 = 3;

/// Connections to the database that one daemon holds at most.
pub const DATABASE_CONNECTIONS_MAX: u32 = 8;

/// Of these, the ones that readers leave to the one who writes: the second for a moment in which a reader's is being closed.
pub const DATABASE_CONNECTIONS_LEFT: u32 = 2;

/// Waiting for a database connection. Longer than a busy moment, shorter than a caller's deadline.
pub const DATABASE_ACQUIRE_DEADLINE: Duration = Duration::from_millis(1500);

/// How long a caller waits for a database that is known not to answer: its refusal should tell that, and not that time is up.
pub const DATABASE_PATIENCE: Duration = Duration::from_millis(500);

/// The pause we ask of a caller while the database does not answer.
pub const DATABASE_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The pause we ask of a caller that was one too many.
pub const OVERLOAD_RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Waiting for another writer of the same SQLite file.
pub const SQLITE_BUSY_DEADLINE: Duration = Duration::from_secs(5);

/// How long a verified token is trusted before it is looked up again: the bound on how long a revoked one still works.
pub const TOKEN_CACHE_TTL: Duration = Duration::from_secs(2);

/// Verified tokens kept.
pub const TOKEN_CACHE_ENTRIES: u64 = 10_000;

/// How long a verified token is kept that nobody presents. Answers from memory do not ask who it was that may have them; when
/// they are to be made anew, the database may be down, for as long as `CONFIG_MAX_STALE_LIMIT`.
pub const TOKEN_CACHE_IDLE: Duration = Duration::from_secs(3600);

/// Calls are still taken for so long after readiness is off: load balancers and endpoint lists follow it within seconds.
pub const LINGER: Duration = Duration::from_secs(5);

/// Waiting for calls in flight at shutdown.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Sending the last spans at shutdown, when the collector may be down.
pub const TELEMETRY_FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// A manifest. One with 10 000 connections is some 3 MiB.
pub const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A config key, field name, step or workflow id as callers name them.
pub const NAME_BYTES_MAX: usize = 256;

/// A server URL.
pub const URL_BYTES_MAX: usize = 2048;

/// How often the backends are looked at: a failure shows in readiness within this time and the deadline below.
pub const MONITOR_INTERVAL: Duration = Duration::from_secs(1);

/// How often a start that waits for readiness looks at what the monitor saw.
pub const READY_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// One look at one backend.
pub const MONITOR_DEADLINE: Duration = Duration::from_secs(2);

/// Waiting for what is not a call at shutdown: the revocation of leases and then of our own token, fetches that nobody waits for.
pub const BACKGROUND_STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The 24 bytes with which an HTTP/2 client opens. Every client sends them at once; who does not will not talk HTTP/2.
pub const HTTP2_PREFACE_DEADLINE: Duration = Duration::from_secs(5);

/// The headers of one request, unpacked. An honest call has some 500 bytes; tokens and trace state may add a few KiB.
pub const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;

/// Pause before accepting again when the system has no room for another connection. Open ones end meanwhile.
pub const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// TCP connections that wait to be accepted: those of a whole machine that restart together. The kernel may cap it.
pub const TCP_BACKLOG: u32 = 1024;

/// How often a listener that is full or cannot accept says so again.
pub const LISTENER_WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// How long a command waits for the stores to answer before it says that they do not.
pub const STORES_OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// The pause between two tries of that.
pub const STORES_OPEN_RETRY: Duration = Duration::from_millis(250);

/// The settings file, and a file that holds one secret setting. Real ones are some KiB; more is the wrong file.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The path of a Unix socket: what the kernel's `sun_path` holds beside the closing zero.
pub const UNIX_SOCKET_PATH_BYTES_MAX: usize = 107;

/// The longest that secrets may be cached: a rotation unseen for longer is an outage.
pub const SECRET_TTL_MAX: Duration = Duration::from_secs(3600);

/// The most calls in flight that an operator may allow; each holds some KiB.
pub const CALLS_IN_FLIGHT_LIMIT: usize = 1_000_000;

/// The longest drain, and the longest linger before it: supervisors kill after minutes at most.
pub const DRAIN_DEADLINE_MAX: Duration = Duration::from_secs(600);

/// Connections to the HTTP port at once: all MCP processes of a machine that start together, some scrapers and kubelets.
pub const HTTP_CONNECTIONS_MAX: usize = 1024;

/// Receiving the head of an HTTP request, idling before it included. Scrapers that come back later connect again.
pub const HTTP_HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// Sending the last answer of an HTTP connection that is to end.
pub const HTTP_ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// The age at which an HTTP connection is asked to reconnect, so that no peer holds one for good.
pub const HTTP_CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// The pause after a failed accept, usually for want of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sending one batch of spans to the collector, retries included. Spans pile up meanwhile, and are dropped when they are too many.
pub const TELEMETRY_EXPORT_DEADLINE: Duration = Duration::from_secs(5);

/// Opening a connection to Vault. It is near us; what takes longer is a dead address, and the caller's deadline is short.
pub const VAULT_CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// One reply of Vault: the largest credential we write (64 fields of 64 KiB) with room for JSON's escapes.
pub const VAULT_REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A file that proves to Vault who we are: a service-account token is some 1 KiB, a certificate chain with key some 10.
pub const VAULT_CREDENTIAL_BYTES_MAX: u64 = 64 * 1024;

/// The wait after the first failed login or renewal; it doubles with each further one.
pub const VAULT_BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// The longest such wait: how late we notice that Vault is back.
pub const VAULT_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Logins, renewals and look-ups of our own token in `VAULT_IDENTITY_WINDOW`: a fleet of sidecars must not be what
/// keeps Vault from coming back. Look-ups that find the token alive are not counted; `VAULT_PROOF_TTL` bounds those.
pub const VAULT_IDENTITY_REQUESTS_MAX: usize = 10;

/// The span in which those are counted.
pub const VAULT_IDENTITY_WINDOW: Duration = Duration::from_secs(60);

/// The shortest wait between two renewals that succeed, for tokens with next to no life left.
pub const VAULT_RENEWAL_WAIT_MIN: Duration = Duration::from_secs(1);

/// How long "our token is alive" answers for further refusals: a path that a policy denies is asked for again and again.
pub const VAULT_PROOF_TTL: Duration = Duration::from_secs(1);

/// Refused requests waiting for the verdict on our own token; there are no more fetches than this.
pub const VAULT_SUSPICIONS_MAX: usize = SECRET_FETCHES_MAX;

/// Revoking our own token at shutdown, when Vault may be down.
pub const VAULT_REVOKE_DEADLINE: Duration = Duration::from_secs(2);

/// Files in a template directory. The platform has 33 connectors; thirty times that is the wrong directory.
pub const TEMPLATE_FILES_MAX: usize = 1000;

/// One template file. The largest built-in one is under 1 KiB.
pub const TEMPLATE_FILE_BYTES_MAX: u64 = 64 * 1024;

/// The pattern of one field of a template, made ready for use. Those of the built-in templates take a few KiB.
pub const PATTERN_COMPILED_BYTES_MAX: usize = 256 * 1024;

/// Values, keys and lists of a manifest, which bound its memory: one with 10 000 connections has some 200 000.
pub const MANIFEST_NODES_MAX: usize = 1_000_000;

/// One statement, from sending it to its last row: longer than the wait for a locked SQLite file, so that the lock is what
/// is told. A server that stays silent for longer is gone.
pub const DATABASE_STATEMENT_DEADLINE: Duration = Duration::from_secs(7);

/// Waiting for this process's other changes, which are written one at a time.
pub const DATABASE_TURN_DEADLINE: Duration = Duration::from_secs(5);

/// A PostgreSQL transaction in which nothing happens is ended by the server after this: a host that dies in the middle of
/// one holds up all writers until then. Longer than the secret store's deadline, which a change may wait for.
pub const TRANSACTION_IDLE_MAX: Duration = Duration::from_secs(30);

/// A database connection that idled for longer is asked whether it is still there before it is used.
pub const DATABASE_IDLE_TRUSTED: Duration = Duration::from_secs(30);

/// All migrations, the wait for another process that is migrating included.
pub const MIGRATION_DEADLINE: Duration = Duration::from_secs(60);

/// Instances listed when what was asked for fits several: enough to pick from.
pub const AMBIGUOUS_INSTANCES_MAX: i64 = 20;

/// The master key file: a line of some 60 bytes for each key, and rotation leaves two at most.
pub const MASTER_KEY_FILE_BYTES_MAX: u64 = 4096;

/// The file of retired master keys: room for a rotation a day for ten years.
pub const RETIRED_KEYS_FILE_BYTES_MAX: u64 = 256 * 1024;

/// Sealed secrets whose keys are wrapped anew at a time when the master key is rotated: bounds the memory, not the rotation.
pub const REWRAP_BATCH: i64 = 500;

/// Secrets that `apply` writes at once. Fewer than reads: each write of Vault waits for its storage.
pub const SECRET_WRITES_MAX: usize = 16;

/// Changes of the database whose subjects are remembered one by one. What was read before the oldest of them is read again.
pub const CHANGES_REMEMBERED: usize = 65_536;

/// Places in which the last changes of projects are kept: the answers of projects that share one are looked
/// at more closely when one of them changes.
pub const CHANGE_PLACES: usize = 4096;

/// Lines of the change log that are kept: a sidecar that was away for longer reads everything anew.
pub const CHANGES_KEPT: i64 = 100_000;

/// How often older ones are deleted, in changes.
pub const CHANGES_PRUNED_EVERY: i64 = 1000;

/// Lines of the change log read at once.
pub const CHANGES_BATCH: i64 = 1000;

/// How often the change log is looked at though nobody called us. With two of the deadlines below, for a connection that fell
/// silent and for the one in its place, it makes the 10 s within which a change is seen when notifications do not come through.
pub const CHANGE_POLL_POSTGRES: Duration = Duration::from_secs(7);

/// The same on a SQLite file, where other processes' commits usually show in the file first.
pub const CHANGE_POLL_SQLITE: Duration = Duration::from_secs(1);

/// How often at most, where wiring is to be served for a short time without looking.
pub const CHANGE_POLL_MIN: Duration = Duration::from_secs(1);

/// One look at the change log, or one connection to it.
pub const CHANGE_LOOK_DEADLINE: Duration = Duration::from_millis(1500);

/// The pause before the change log is followed again after it could not be.
pub const CHANGE_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Looks at the change log after a write to the SQLite file was seen: the commit shows some time after its bytes do.
pub const CHANGE_LOOKS_AFTER_WRITE: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(4), Duration::from_millis(20), Duration::from_millis(80)];

/// How long wiring is served from memory while the database cannot be asked whether it changed.
pub const CONFIG_MAX_STALE: Duration = Duration::from_secs(60);

/// With notifications, a change is seen within this: they take milliseconds, and the rest is for a machine that is busy.
pub const CHANGE_BOUND_LISTENING: Duration = Duration::from_secs(2);

/// Wirings kept in memory, by their estimated bytes: some 3 KiB each.
pub const WIRING_CACHE_BYTES: u64 = 128 * 1024 * 1024;

/// How long a wiring is kept that nobody asks for.
pub const WIRING_CACHE_IDLE: Duration = Duration::from_secs(3600);

/// Callers that wait for a wiring at once: four times the calls in flight, as those that gave up wait on until the read ends.
pub const WIRING_WAITERS_MAX: usize = 4 * CALLS_IN_FLIGHT_MAX;

/// How often a resolution is made anew because something of its project changed while it was made.
pub const RESOLVE_TRIES: usize = 3;

/// How often answers that are of no more use are looked for and dropped, in looks of the monitor.
pub const ANSWERS_SWEPT_EVERY: u32 = 10;

/// The longest that wiring may be served so: what was revoked meanwhile works on until then.
pub const CONFIG_MAX_STALE_LIMIT: Duration = Duration::from_secs(3600);
/// Watches open at once on one daemon. Each is an MCP process or an executor that waits; a machine hosts some hundreds.
pub const WATCHES_MAX: usize = 1024;

/// Watches that look at their resolutions at once. A change wakes all of them, and calls come first.
pub const WATCH_LOOKS_AT_ONCE: usize = 64;

/// The shortest pause between two looks of one watch that no change has woken.
pub const WATCH_PAUSE_MIN: Duration = Duration::from_secs(1);

/// The pause after a refusal that only a change can mend: changes wake the watch, so this is for one that was not told.
pub const WATCH_REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// The name of a watched state: 128 bits never meet by chance.
pub const WATCH_VERSION_BYTES: usize = 16;

/// The pause before a client watches again after its stream has ended; it doubles while no daemon answers.
pub const WATCH_AGAIN_FIRST: Duration = Duration::from_millis(250);

/// The longest such pause: how late a command learns that a daemon is back.
pub const WATCH_AGAIN_MAX: Duration = Duration::from_secs(30);

/// Between two restarts of a command by `credway exec --watch`, or two signals to it: what flaps does not keep it down.
pub const EXEC_ACTION_INTERVAL: Duration = Duration::from_secs(10);

/// How long a command may take to end before `credway exec` kills it in order to start it anew.
pub const EXEC_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// Commands that share a credential are restarted within this span, by chance, and not all at once.
pub const EXEC_JITTER_DEFAULT: Duration = Duration::from_secs(2);

/// The longest of either that may be asked for.
pub const EXEC_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Leases that one daemon holds. Each is a user of some database, and those have room for some hundreds.
pub const LEASES_MAX: usize = 1000;

/// Leases that are being given back, or were replaced and run out. More are left to their own end.
pub const LEASES_LEAVING_MAX: usize = 2 * LEASES_MAX;

/// Requests about leases at once: making a user takes a database some 10 ms, and it has other things to do.
pub const LEASE_CALLS_MAX: usize = 16;

/// Reads and releases of leases that wait for their keeper, which only takes notes of them.
pub const LEASE_QUEUE_MAX: usize = SECRET_FETCHES_MAX;

/// The longest wait before a lease that could not be had or renewed is tried again: how late we notice that Vault is back.
pub const LEASE_BACKOFF_MAX: Duration = Duration::from_secs(4);

/// How long it is remembered that credentials could not be issued, when nobody asks for them again.
pub const LEASE_FAILURE_MEMORY: Duration = Duration::from_secs(30);

/// Revoking all leases at shutdown, when Vault may be down. What is left ends by itself.
pub const LEASES_REVOKE_DEADLINE: Duration = Duration::from_secs(2);
/// How long after it was read a secret is served while the secret store is down. Long enough for an unseal or a failover,
/// short enough for a revoked credential.
pub const SECRET_MAX_STALE_DEFAULT: Duration = Duration::from_secs(600);

/// The longest that an operator may allow: a store that was down for a day is a decision for people.
pub const SECRET_MAX_STALE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a caller waits for a secret store that may be slow, before it gets a value past its time to live: far above a
/// slow read, and well within the shortest sensible call deadline.
pub const SECRET_PATIENCE: Duration = Duration::from_millis(500);

/// The same for a value that was called wrong, which nobody should get without need: just within the default call deadline.
pub const SECRET_REVALIDATION_PATIENCE: Duration = Duration::from_millis(1500);

/// How long an answer may be repeated whose secret is being read anew: bounds how late the new value is seen.
pub const SECRET_RECHECK: Duration = Duration::from_secs(1);

/// Secrets read in the background at once (A5): enough for 10 000 secrets of 30 s at a read of 10 ms, and no burst for the store.
pub const SECRET_REFRESHES_MAX: usize = 8;

/// Of these, the ones whose last read failed: a black hole behind some paths leaves the rest to secrets that can be read.
pub const SECRET_RETRIES_MAX: usize = 4;

/// Orders to read single secrets anew that are remembered; so many more at once are one order for all.
pub const SECRET_ORDERS_MAX: usize = 100_000;

/// How often orders are looked through for those that nothing needs any more.
pub const SECRET_ORDERS_PRUNED_EVERY: Duration = Duration::from_secs(30);
/// How long a run token works unless its executor asks for more or less: a step that calls its server for longer asks again.
pub const RUN_TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(600);

/// The longest that a run token may work: nobody can end a single one, only all of a project.
pub const RUN_TOKEN_TTL_MAX: Duration = Duration::from_secs(3600);

/// The text of a run token: 157 bytes and two names of `NAME_BYTES_MAX`, in base64.
pub const RUN_TOKEN_BYTES_MAX: usize = 1024;

/// How long a daemon signs run tokens with one key.
pub const RUN_TOKEN_KEY_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a public key is kept: while it signs, while a database that is down keeps the next one from being published (for
/// the better part of a day), and until the last token it signed has ended.
pub const RUN_TOKEN_KEY_KEPT: Duration = Duration::from_secs(48 * 3600);

/// The pause after a new key could not be published; the old one signs meanwhile.
pub const RUN_TOKEN_KEY_RETRY: Duration = Duration::from_secs(60);

/// How long a key is remembered as unknown. A key is published before it signs, so this keeps no good token out.
pub const RUN_TOKEN_KEY_UNKNOWN_TTL: Duration = Duration::from_secs(1);

/// Unknown keys remembered: invented ones cost no more memory than this.
pub const RUN_TOKEN_KEYS_UNKNOWN_MAX: u64 = 1000;

/// The request of an MCP process: a schema of some 40 keys is 8 KiB.
pub const MCP_CONFIG_REQUEST_BYTES_MAX: usize = 64 * 1024;

/// One config request, its body included. MCP processes give up after 5 s: they are to read why.
pub const MCP_CONFIG_DEADLINE: Duration = Duration::from_millis(4500);

/// Config requests answered at once; more are asked to come back, so that probes and those in flight keep their time.
pub const MCP_CONFIG_CALLS_MAX: usize = 512;

/// How often a caller is verified anew because something changed while it was being verified.
pub const VERDICT_TRIES: usize = 3;

/// How often a secret store that works is asked whether it does. One that fails is asked every `MONITOR_INTERVAL`.
pub const MONITOR_REST: Duration = Duration::from_secs(10);

/// A database connection that idles for longer is closed: at rest a daemon holds the one on which it listens.
pub const DATABASE_IDLE_MAX: Duration = Duration::from_secs(60);

/// How often a connection's secret is read anew because providers are said to reject it (reliability, D7).
pub const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Connections whose last report is remembered.
pub const REPORTS_REMEMBERED: u64 = 10_000;

/// How long a command waits after its changes, so that daemons have heard of them when it ends: they take milliseconds.
pub const CHANGES_HEARD_WITHIN: Duration = Duration::from_millis(100);

/// How long a call that may be answered from memory waits for the rest of its message, before it goes the way of those that can
/// wait. tonic's client writes head, message and end one after the other: they arrive within microseconds of each other, on a
/// machine that has more to do than it can within tens of milliseconds. Whoever goes the other way needs a secret that nobody else
/// asks for as long as warm answers are given, and which may not be held any more.
pub const WARM_MESSAGE_PATIENCE: Duration = Duration::from_millis(100);
