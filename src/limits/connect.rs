//! Bounds of connect flows: people who are sent to a provider, and come back.

use std::time::Duration;

/// How long a link works, and with it the whole sign-in: people find their password, and a second factor, in some minutes.
pub const CONNECT_LIFE: Duration = Duration::from_secs(10 * 60);

/// How long the code of a sign-in is worked on at most: two questions to the provider, and what is written. After it, the process
/// that did so is taken to be dead, and its browser may try again.
pub const CONNECT_FINISH_MAX: Duration = Duration::from_secs(60);

/// The form of the page that asks whether to go on: one key.
pub const CONNECT_FORM_BYTES_MAX: usize = 1024;

/// How long that form may take to come: it is one packet. Whoever sends it need not be known, and a place is held meanwhile.
pub const CONNECT_FORM_DEADLINE: Duration = Duration::from_secs(3);

/// Pages of sign-ins that are answered at once, beside the requests of those who are known. A code is worked on for a second or
/// two, so this is some ten people a second.
pub const CONNECT_PAGES_MAX: usize = 16;

/// How long a sign-in is remembered after its end, so that who comes too late is told so.
pub const CONNECT_REMEMBERED: Duration = Duration::from_secs(3600);

/// How long a connection waits for its first sign-in before it is deleted.
pub const CONNECT_PENDING_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Sign-ins of one project that are neither finished nor expired: each holds a secret of its own, and there are only so many people.
pub const CONNECTS_OPEN_MAX: i64 = 200;

/// Scopes that are asked for at once. Google's whole list has some hundreds, and no account is asked for all.
pub const CONNECT_SCOPES_MAX: usize = 100;

/// One scope; the longest are URLs.
pub const SCOPE_BYTES_MAX: usize = 256;

/// A code, a state or an address that somebody ended on, as it is handed in. Codes of some providers are JWTs of a few KiB.
pub const CONNECT_TEXT_BYTES_MAX: usize = 16 * 1024;

/// Attempts to save what a provider granted while others write to the same connection.
pub const CONNECT_SAVES_MAX: usize = 5;

/// Numbers of one WhatsApp account that Meta lists on one page.
pub const WHATSAPP_NUMBERS_MAX: usize = 25;
