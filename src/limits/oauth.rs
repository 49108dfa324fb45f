//! Bounds of OAuth: token endpoints, connect flows, refreshes.

use std::time::Duration;

// The client of providers.

/// The way to a token endpoint: DNS, TCP and TLS. What fails until then was not sent, so little is lost by giving up early.
pub const TOKEN_CONNECT_DEADLINE: Duration = Duration::from_secs(4);

/// From the first byte of a token request to the last of its answer. Providers answer within a second; some take several.
pub const TOKEN_ANSWER_DEADLINE: Duration = Duration::from_secs(6);

/// A token request as a whole. Leases and hold-offs are longer than this by construction.
pub const TOKEN_DEADLINE: Duration = TOKEN_CONNECT_DEADLINE.saturating_add(TOKEN_ANSWER_DEADLINE);

/// The body of a token reply. Tokens with many claims are some KiB, an ID token with groups some tens.
pub const TOKEN_BODY_BYTES_MAX: usize = 256 * 1024;

/// The longest pause that a provider is believed to mean by Retry-After.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The longest life of a token that is believed: ten years stand for ever.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long an assertion that we sign is good for: the clocks of both sides may differ by a minute or two, and providers refuse more
/// than an hour.
pub const ASSERTION_LIFE: Duration = Duration::from_secs(300);

/// By how much an assertion says to be older than it is. Providers that refuse what was signed in their future mostly allow for no
/// difference of the clocks at all; half a minute is more than a host with NTP is off.
pub const ASSERTION_BACKDATED: Duration = Duration::from_secs(30);

/// An error word of a provider, as RFC 6749 and its relatives have them.
pub const OAUTH_WORD_BYTES_MAX: usize = 64;

/// The id or label of an account: addresses and names of people.
pub const ACCOUNT_TEXT_BYTES_MAX: usize = 256;
