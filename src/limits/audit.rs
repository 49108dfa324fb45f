//! Bounds of the record of every resolve.

use std::time::Duration;

use super::NAME_BYTES_MAX;

/// Audit records that wait to be written: at 100 000 calls a second, more than two seconds of them, so that what an interval
/// brings leaves half of it free, and their thread need not hurry. Memory is taken only as far as it is filled.
pub const AUDIT_QUEUE_ENTRIES: usize = 262_144;

/// Parts of that queue, each with its lock, so that those who answer at once seldom meet.
pub const AUDIT_QUEUE_SHARDS: usize = 8;

/// How often audit records are written: what a killed daemon has not written yet. Answers that are repeated within it share a
/// line, so a shorter one costs more work and more disk.
pub const AUDIT_BATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Times that share one line of the audit, so that no line grows without end: some 3 KiB.
pub const AUDIT_TIMES_PER_LINE: usize = 100;

/// Text of the audit that is appended at once: some tens of microseconds.
pub const AUDIT_WRITE_BYTES: usize = 32 * 1024;

/// After so many lines of the audit their thread pauses: calls that are answered on the same CPU wait no longer than for these.
pub const AUDIT_LINES_AT_ONCE: u32 = 64;

/// That pause. A full queue of other lines is written within a fraction of a second all the same.
pub const AUDIT_PAUSE: Duration = Duration::from_micros(500);

/// Text of the audit that waits for a disk that takes nothing: some 20 000 records. More are lost, or their calls refused.
pub const AUDIT_WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A text in the audit that callers chose. Ours are shorter; what a process sends may be as long as its request.
pub const AUDIT_TEXT_BYTES_MAX: usize = NAME_BYTES_MAX;

/// How often it is logged that audit records are lost or cannot be written.
pub const AUDIT_COMPLAINT_INTERVAL: Duration = Duration::from_secs(30);

/// Writing what is left of the audit when a daemon stops.
pub const AUDIT_FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// When who is refused for want of an audit may ask again: the file is tried once in an interval.
pub const AUDIT_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The audit file, and as much again for its predecessor: some millions of resolves, and no disk is filled by it unseen.
pub const AUDIT_FILE_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

/// The least that may be configured: a smaller file would be replaced with every batch.
pub const AUDIT_FILE_BYTES_MIN: u64 = 64 * 1024;
