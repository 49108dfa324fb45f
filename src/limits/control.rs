//! Bounds of the control plane: its REST API, validation, and the life of connections.

use std::time::Duration;

// REST.

/// How long an Idempotency-Key is remembered: clients that retry give up long before.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(24 * 3600);

/// An Idempotency-Key; a UUID has 36 bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// Entries of a page, unless the request says otherwise.
pub const PAGE_SIZE_DEFAULT: usize = 50;

/// Entries of one page at most: some hundred KiB.
pub const PAGE_SIZE_MAX: usize = 200;

/// The body of a request. The largest are servers with long schemas: some tens of KiB.
pub const REST_BODY_BYTES_MAX: usize = 512 * 1024;

/// One request, from its head to its answer. What takes longer, such as a validation, has a deadline of its own below it.
pub const REST_DEADLINE: Duration = Duration::from_secs(30);

/// Requests answered at once; each may hold a connection of the database.
pub const REST_CALLS_MAX: usize = 64;

/// Requests of one token that are answered at once: an eighth of all, so that no one token holds every place. A page of the
/// Console asks for some ten things, of which browsers send six at once.
pub const REST_CALLS_PER_CALLER_MAX: usize = 8;

/// How long the body of a request may take to come. 512 KiB do within seconds over any line; a place is held meanwhile.
pub const REST_BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Requests of one token in a second, in the long run. A page of the Console asks for some ten things.
pub const REST_RATE: u32 = 50;

/// Requests of one token that may come at once before the rate counts.
pub const REST_BURST: u32 = 200;

/// A request id that a client gives; ours have 36 bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 64;

/// Profiles, and workflows, that are named as referring to one connection.
pub const REFERENCES_MAX: i64 = 200;

/// Connections that one statement asks for by their ids: SQLite takes some ten thousand parameters, and plans grow with them.
pub const CONNECTIONS_PER_STATEMENT: usize = 500;

/// Connections among which the one is sought that a wrong name is a slip of. Who has more does not know them by heart.
pub const SUGGESTED_FROM_MAX: usize = 1000;

/// Config profiles of one instance: one for each environment and some more.
pub const PROFILES_PER_INSTANCE_MAX: i64 = 100;

/// Overrides of one workflow: each step of a long graph, several times over.
pub const OVERRIDES_PER_WORKFLOW_MAX: usize = 1000;

/// Overrides of one instance that are looked at before another profile of it becomes active; beyond, resolving refuses.
pub const OVERRIDES_LOOKED_AT_MAX: i64 = 10_000;

/// How long an answer about resolving waits for changes that were made just before. They take milliseconds to be heard of.
pub const REST_CAUGHT_UP_WITHIN: Duration = Duration::from_secs(1);

/// Callers whose rates are remembered before those that have not asked for a while are dropped.
pub const REST_CALLERS_MAX: usize = 10_000;

/// Copying or checking a whole SQLite file: a minute for some GiB.
pub const BACKUP_DEADLINE: Duration = Duration::from_secs(600);

/// Sealed secrets that are looked at in one go.
pub const SEALED_PAGE: i64 = 500;
// Validation of servers and connections.

/// A whole validation: below the deadline of the request that asks for it, and as long as the pages of the Console wait.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(20);

/// Validations that run at once. Each holds some connections to other hosts and up to some MiB of their answers.
pub const PROBES_AT_ONCE_MAX: usize = 8;

/// How long a validation waits for one of those places.
pub const PROBE_TURN_DEADLINE: Duration = Duration::from_secs(3);

/// Finding a host's addresses; resolvers try a second server after five seconds, which is too slow for any executor too.
pub const PROBE_DNS_DEADLINE: Duration = Duration::from_secs(4);

/// Connecting and the TLS handshake: three round trips.
pub const PROBE_TLS_DEADLINE: Duration = Duration::from_secs(5);

/// One plain request and the head of its answer.
pub const PROBE_HTTP_DEADLINE: Duration = Duration::from_secs(5);

/// The handshake with an MCP server, which may fetch its own config meanwhile (within 5 s, contract section 5).
pub const PROBE_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(8);

/// All pages of a server's list of tools.
pub const PROBE_TOOLS_DEADLINE: Duration = Duration::from_secs(6);

/// A look whether a server speaks the newer protocol too. It decides nothing, so little is waited for it.
pub const PROBE_SECOND_ERA_DEADLINE: Duration = Duration::from_secs(2);

/// Taking leave of a server; what it holds of us ends by itself.
pub const PROBE_LEAVE_DEADLINE: Duration = Duration::from_secs(1);

/// One credential tried at its provider: connect, TLS, login, one question.
pub const PROBE_CREDENTIAL_DEADLINE: Duration = Duration::from_secs(10);

/// Addresses of one host that are looked at. Large providers publish some eight.
pub const PROBE_ADDRESSES_MAX: usize = 16;

/// The part of a provider's answer that is read. What tells of a credential stands in its first lines.
pub const PROBE_BODY_BYTES_MAX: usize = 64 * 1024;

/// Pages in which a server may list them, so that one that pages for ever is left.
pub const TOOL_PAGES_MAX: usize = 50;

/// A tool's name, as the protocol recommends it.
pub const TOOL_NAME_BYTES_MAX: usize = 128;

/// Problems of one kind that are named one by one.
pub const PROBE_NAMED_MAX: usize = 5;

/// Instances of one server that its validation looks at, and connections of one instance whose credentials are tried.
pub const PROBE_SUBJECTS_MAX: usize = 20;

/// From here on a certificate that is about to end is worth a warning: renewals that run by themselves are done by then.
pub const CERTIFICATE_DAYS_WARNED: i64 = 14;
/// Versions of a server's schema and tools that are kept: one a week for two years.
pub const SERVER_VERSIONS_KEPT: i64 = 100;

/// Config keys of one server: the largest of the platform has seven.
pub const CONFIG_KEYS_MAX: usize = 200;

/// Tools of one server: more no model can choose from.
pub const SERVER_TOOLS_MAX: usize = 1000;

/// The tools of one server as JSON. The largest known, of some hundred tools with long schemas, take half of it.
pub const SERVER_TOOLS_BYTES_MAX: usize = 384 * 1024;

/// Servers whose tools stand on one page: together some MiB at worst.
pub const TOOLS_PAGE_SERVERS_MAX: usize = 20;

/// Scopes that a server requires.
pub const REQUIRED_SCOPES_MAX: usize = 50;
// The life of a connection.

/// How long the old version of a credential is kept beside the new one, unless the request says otherwise: a working day, and
/// the night of those who run at night.
pub const ROTATION_KEPT_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// The longest that it is. What is to be kept for longer is no rotation but a second connection.
pub const ROTATION_KEPT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a deleted connection can be restored; then its secret is destroyed.
pub const CONNECTION_RESTORABLE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often it is looked for rotations and deletions whose time is over: they end so much later at most. It costs the database a
/// connection for a minute, which a daemon at rest is not to hold.
pub const LIFECYCLE_INTERVAL: Duration = Duration::from_secs(300);

/// Rotations and deletions that are brought to their end at once; the others come with the next look.
pub const LIFECYCLE_BATCH: i64 = 1000;

/// How often it is written down which credentials were used: the last use of an old version is known by so much.
pub const USES_INTERVAL: Duration = Duration::from_secs(15);

/// The uses of one held answer within this time count as one, so that calls from memory pay nothing for being measured.
pub const USES_PRECISION: Duration = Duration::from_secs(1);

/// Uses that wait to be written: each connection of a large fleet, by a few instances. Others are noted with their next use.
pub const USES_WAITING_MAX: usize = 200_000;

/// Uses written by one statement; each takes four of its parameters, of which SQLite takes 32 766 and PostgreSQL 65 535.
pub const USES_PER_STATEMENT: usize = 250;

/// Uses written by one transaction: a tenth of a second, as other writers wait for it.
pub const USES_PER_TRANSACTION: usize = 2000;

/// How long a use is remembered: versions of secrets come and go, and who has not used one for a season does not use it.
pub const USES_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// How often it is written down when tokens were last used. Their rows are few and are read to verify callers, and whoever
/// asks wants to know whether a token is in use at all.
pub const TOKEN_USES_INTERVAL: Duration = Duration::from_secs(60);

/// Uses of one connection that are shown, the latest first.
pub const USES_SHOWN_MAX: i64 = 200;

/// Tokens of one name that are told apart to whoever revokes by name. Of more, these are enough to see that the id is wanted.
pub const TOKENS_CALLED_MAX: i64 = 20;
