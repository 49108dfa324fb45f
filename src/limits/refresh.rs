//! Bounds of the refresh of OAuth tokens. Those that must fit each other are held to it at the end of this file.

use std::time::Duration;

use super::{MIN_TOKEN_TTL_DEFAULT, TOKEN_ANSWER_DEADLINE, TOKEN_DEADLINE};

/// For how long one daemon asks the others to keep off a connection whose tokens it refreshes. One that dies meanwhile holds
/// them up for no longer, which is within the shortest grace that providers give (30 s, Okta).
pub const REFRESH_LEASE: Duration = Duration::from_secs(20);

/// From the beginning of the write that says "this refresh token is about to be sent" to the sending. Whoever was stopped for
/// longer begins anew: the others may have given it up. A write takes milliseconds, at a store that is overloaded some seconds.
pub const INTENT_FRESH: Duration = Duration::from_secs(4);

/// How long whoever wrote that may still be waiting for the provider's answer.
pub const INTENT_BUSY: Duration = Duration::from_secs(15);

/// How long a refresh token that may be spent is left alone before it is tried once more, where trying may end the grant:
/// whoever has the new one may come back with it, as a daemon that was restarted does.
pub const INTENT_HOLD_OFF: Duration = Duration::from_secs(60);

/// How often a refresh token that may be spent is tried once more at that pace. Each time nothing else is left, and a provider that
/// answers settles it; for one that does not the pause doubles with each further try, up to `REFRESH_PAUSE_ANSWERED_MAX`. It never
/// ends the grant that a provider is silent: only the provider's word does.
pub const INTENT_PROBES_SOON: u32 = 3;

/// The most by which the clocks of two daemons are thought to differ.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);

/// The shortest time for which a provider that gives any takes the old refresh token besides the new one (Okta's default).
/// Where it is less, a token in doubt may come too late for it, and is treated as if there were none.
pub const GRACE_SHORTEST: Duration = Duration::from_secs(30);

/// The life that an access token has left, at least, when its refresh begins: time for one that dies on the way, and for
/// another after it. Lives too short for that are refreshed at their half.
pub const REFRESH_RESERVE: Duration = Duration::from_secs(160);

/// The pause after a provider answered that it cannot, or gave a token that ends no later than the one before. It doubles with
/// each further failure.
pub const REFRESH_PAUSE_ANSWERED: Duration = Duration::from_secs(30);

/// The longest such pause, unless the provider asks for a longer one.
pub const REFRESH_PAUSE_ANSWERED_MAX: Duration = Duration::from_secs(900);

/// The pause after a provider could not be reached, or did not answer. It doubles too.
pub const REFRESH_PAUSE_SILENT: Duration = Duration::from_secs(2);

/// The longest such pause: how late it is noticed that a provider is back.
pub const REFRESH_PAUSE_SILENT_MAX: Duration = Duration::from_secs(60);

/// After a grant was found dead the provider is not asked again for so long, whatever became of the news.
pub const REFRESH_PAUSE_DEAD: Duration = Duration::from_secs(3600);

/// How often a provider refuses a refresh, in words that say nothing of the grant, before a person is asked to reconnect, once the
/// access token has ended too. With the pauses in between that is three quarters of an hour: enough for whoever broke something to
/// mend it.
pub const REFRESH_REFUSALS_MAX: u32 = 8;

/// How often it is looked for grants that would end because nobody uses them. The shortest such time that is known is 60 days (Box).
pub const REFRESH_IDLE_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Of these, the ones of one provider that are refreshed in one round; the others come with the next.
pub const REFRESH_IDLE_BATCH: usize = 1000;

/// The pause while the secret store cannot be written: without it nothing is sent. It doubles as long as the store is read and
/// takes no intent, for each try connects to the provider.
pub const REFRESH_PAUSE_STORE: Duration = Duration::from_secs(2);

/// The longest such pause: how late it is noticed that the store takes writes again.
pub const REFRESH_PAUSE_STORE_MAX: Duration = Duration::from_secs(30);

/// Refreshes under way in one daemon. Each holds a connection to a provider for up to `TOKEN_DEADLINE`.
pub const REFRESHES_MAX: usize = 64;

/// Of these, the ones at one provider, so that one that hangs leaves room for the others.
pub const REFRESHES_PER_PROVIDER_MAX: usize = 16;

/// Providers whose places are remembered: those of which somebody waits for one are beyond that.
pub const REFRESH_QUEUES_REMEMBERED: usize = 1000;

/// Connections whose refresh is under way or was put off, as one daemon remembers them. Who comes beyond is asked to come back.
pub const REFRESH_FLIGHTS_MAX: usize = 20_000;

/// How long a refresh waits in memory for its next try. For longer pauses the next reader of the token begins anew.
pub const REFRESH_NAP_MAX: Duration = Duration::from_secs(5);

/// The pauses between two looks at a token that another daemon is refreshing, unless the change log tells of it before: the
/// first, and the longest.
pub const REFRESH_LOOKS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// How long the answer "not now" is given again without looking.
pub const REFRESH_REST: Duration = Duration::from_secs(1);

/// How often the intent is written anew within one refresh, as the secret was changed meanwhile.
pub const REFRESH_TRIES: usize = 4;

/// The pause before new tokens that could not be stored are tried again; it doubles up to the second.
pub const SPOOL_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Connections whose new tokens are tried to be stored at once: a daemon that was cut off from the store has many, and a store that
/// comes back is not to be run over.
pub const SPOOL_STORES_MAX: usize = 8;

/// One operation on the spool. A disk takes milliseconds for it, one that is overloaded a second; behind one that hangs, the secret
/// store still gets the new tokens.
pub const SPOOL_DEADLINE: Duration = Duration::from_secs(2);

/// The same at the start, when all that was left is read, and nothing else is done yet.
pub const SPOOL_OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// Operations on the spool at once: a disk that hangs is not to hold all threads of the process.
pub const SPOOL_THREADS_MAX: usize = 16;

/// A half written file of the spool is cleared when it is so old: before, another daemon of this machine may be writing it.
pub const SPOOL_DRAFTS_KEPT: Duration = Duration::from_secs(3600);

/// One file of the spool: tokens with many claims and the fields beside them.
pub const SPOOL_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Tokens that somebody else's were found in the place of are kept beside the spool for so long, for people.
pub const SPOOL_SPARES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Connections whose metadata is remembered, so that they are refreshed while the database is down.
pub const REFRESH_ROWS_REMEMBERED: usize = 20_000;

/// How long a daemon that ends waits for the answer to a refresh token that is spent, and for that answer to be on the disk, however
/// little time its calls in flight are given.
pub const REFRESH_CLOSE_DEADLINE: Duration = Duration::from_secs(12);

// F2: who ends hears the answer to what it sent, and spools it: nothing is begun after the end was, not even an intent.
const _: () = assert!(
    REFRESH_CLOSE_DEADLINE.as_secs()
        >= INTENT_FRESH.as_secs() + TOKEN_ANSWER_DEADLINE.as_secs() + SPOOL_DEADLINE.as_secs()
);
// D10: a lease outlives the request it is taken for.
const _: () = assert!(REFRESH_LEASE.as_secs() > TOKEN_DEADLINE.as_secs() + INTENT_FRESH.as_secs());
// Nobody is given up who may still be waiting for the provider.
const _: () = assert!(INTENT_BUSY.as_secs() > TOKEN_DEADLINE.as_secs() + INTENT_FRESH.as_secs());
// Where the old token works for a while, a token in doubt is taken over within the shortest of those: after the lease of whoever
// died, and one look, by a clock that may be wrong.
const _: () =
    assert!(REFRESH_LEASE.as_secs() + REFRESH_LOOKS.1.as_secs() + CLOCK_SKEW_MAX.as_secs() < GRACE_SHORTEST.as_secs());
const _: () =
    assert!(INTENT_BUSY.as_secs() + REFRESH_LOOKS.1.as_secs() + CLOCK_SKEW_MAX.as_secs() < GRACE_SHORTEST.as_secs());
// A token that may be spent is left alone for three requests, and longer than any of them is leased.
const _: () = assert!(INTENT_HOLD_OFF.as_secs() >= 3 * TOKEN_DEADLINE.as_secs());
const _: () = assert!(INTENT_HOLD_OFF.as_secs() > REFRESH_LEASE.as_secs() + INTENT_BUSY.as_secs());
// One refresh that dies, and one after it, before callers are refused the old token.
const _: () = assert!(
    REFRESH_RESERVE.as_secs()
        >= MIN_TOKEN_TTL_DEFAULT.as_secs()
            + INTENT_HOLD_OFF.as_secs()
            + REFRESH_LEASE.as_secs()
            + 2 * TOKEN_DEADLINE.as_secs()
);
