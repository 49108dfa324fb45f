//! Bounds of webhooks.

use std::time::Duration;

/// Webhooks of one daemon: a few systems that want to know.
pub const WEBHOOKS_MAX: usize = 20;

/// The shortest key that bodies are signed with, as Standard Webhooks has it.
pub const WEBHOOK_KEY_BYTES_MIN: usize = 24;

/// The longest, as Standard Webhooks has it.
pub const WEBHOOK_KEY_BYTES_MAX: usize = 64;

/// One delivery: DNS, TCP, TLS, the request and the head of its answer. Receivers are to answer first and work then.
pub const WEBHOOK_DEADLINE: Duration = Duration::from_secs(10);

/// For how long a daemon that delivers something keeps others from it: longer than a delivery and writing down how it ended.
pub const WEBHOOK_CLAIM: Duration = Duration::from_secs(60);

/// Deliveries to one webhook at once: one receiver that is slow costs no more connections than that.
pub const WEBHOOK_DELIVERIES_AT_ONCE: usize = 4;

/// The pause after the first delivery that failed. It doubles with each.
pub const WEBHOOK_PAUSE_FIRST: Duration = Duration::from_secs(5);

/// The longest pause, also if a receiver asks for a longer one: some twenty tries in the last two days.
pub const WEBHOOK_PAUSE_MAX: Duration = Duration::from_secs(4 * 3600);

/// How long something is delivered again and again, until nobody can want to know it any more: over a weekend.
pub const WEBHOOK_TRIED: Duration = Duration::from_secs(3 * 24 * 3600);

/// How long events are kept, delivered or not: as long as the last delivery may take, and a day.
pub const EVENTS_KEPT: Duration = Duration::from_secs(4 * 24 * 3600);

/// Events and deliveries are looked for so often, though daemons hear of changes: for those that another left behind.
pub const EVENTS_SWEEP: Duration = Duration::from_secs(30);

/// Old events are looked for so often. It costs the database one statement.
pub const EVENTS_PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// Events that are spread over the webhooks by one transaction, for each of which it writes a row for each webhook.
pub const EVENTS_PER_TRANSACTION: i64 = 200;

/// Events forgotten by one statement: below a tenth of a second.
pub const EVENTS_PRUNED_AT_ONCE: i64 = 2000;
