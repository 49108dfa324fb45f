//! The decision alone, as a table, and whatever must hold for all of what it may be made of.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::limits;
use crate::model::oauth::{Intent, Rotation, TokenState};
use crate::refresh::decide::{Cause, Facts, Means, Seen, Send, Sender, Verdict, Wait, Want, decide, due_in};

const DIES: Rotation = Rotation::OldDies;
const GRACE: Rotation = Rotation::Grace { seconds: 30, kills_access: false };

fn start() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn state() -> TokenState {
    let expires_at = Some(start() + Duration::from_secs(3600));
    TokenState { generation: 4, obtained_at: start(), expires_at, ..TokenState::none() }
}

fn intent(at: u64) -> Intent {
    let (id, owner, token) = ("i".to_owned(), "other".to_owned(), "t".to_owned());
    Intent { id, owner, token, started_at: start() + Duration::from_secs(at), first_at: None, probes: 0 }
}

/// What is to be done at `now` seconds, with an intent written then that was first seen `since` seconds ago.
fn verdict(rotation: Rotation, now: u64, intent: Option<Intent>, since: u64, sender: Sender, want: Want) -> Verdict {
    let state = TokenState { intent, ..state() };
    decide(&Facts {
        state: &state,
        means: Means::RefreshToken,
        rotation,
        token: "t",
        now: start() + Duration::from_secs(now),
        seen: Seen { since: Duration::from_secs(since), sender },
        want,
        chance: 0.5,
    })
}

fn shown(verdict: Verdict) -> String {
    match verdict {
        Verdict::Enough => "enough".into(),
        Verdict::Send(send) => format!("send {send:?}"),
        Verdict::Expired => "expired".into(),
        Verdict::Wait(Wait { pause, cause }) => format!("wait {} {cause:?}", pause.as_secs()),
    }
}

#[test]
fn a_token_in_doubt_is_sent_only_where_that_ends_no_grant() {
    let (ahead, life) = (Want::Ahead, Want::Life(Duration::from_secs(60)));
    let (unknown, gone) = (Sender::Unknown, Sender::Gone);
    let probed = |times, at| Some(Intent { probes: times, ..intent(at) });
    let long_ago = Some(Intent { first_at: Some(start() + Duration::from_secs(2400)), ..intent(2500) });
    #[rustfmt::skip]
    let table = [
        ("not due", DIES, 1000, None, 0, unknown, ahead, "enough"),
        ("due", DIES, 2500, None, 0, unknown, ahead, "send First"),
        ("another one just wrote it", Rotation::None, 2501, Some(intent(2500)), 0, unknown, ahead, "wait 15 Other"),
        ("it had time enough", Rotation::None, 2516, Some(intent(2500)), 15, unknown, ahead, "send TakeOver"),
        ("it did by the wall clock", Rotation::OldStays, 2530, Some(intent(2500)), 0, unknown, ahead, "send TakeOver"),
        ("it was us", Rotation::None, 2501, Some(intent(2500)), 1, gone, ahead, "send TakeOver"),
        ("in the grace", GRACE, 2521, Some(intent(2500)), 15, unknown, ahead, "send TakeOver"),
        ("too late for the grace", GRACE, 2526, Some(intent(2500)), 26, unknown, ahead, "wait 34 Unknown"),
        ("the first was too long ago", GRACE, 2501, long_ago, 1, gone, ahead, "wait 59 Unknown"),
        ("no grace, in flight", DIES, 2505, Some(intent(2500)), 5, unknown, ahead, "wait 10 Other"),
        ("no grace, held off", DIES, 2520, Some(intent(2500)), 20, unknown, ahead, "wait 40 Unknown"),
        ("held off by our clock alone", DIES, 3590, Some(intent(2500)), 20, unknown, life, "wait 40 Unknown"),
        ("the old one works still", DIES, 3000, Some(intent(2500)), 500, unknown, ahead, "wait 540 Unknown"),
        ("for some seconds yet", DIES, 3530, Some(intent(2500)), 500, unknown, ahead, "wait 10 Unknown"),
        ("nobody gets it any more", DIES, 3541, Some(intent(2500)), 500, unknown, life, "send Probe"),
        ("whoever says that it is rejected", DIES, 3000, Some(intent(2500)), 500, unknown, Want::Rejected(4), "wait 540 Unknown"),
        ("unless the refresh ends it", Rotation::OldDiesWithAccess, 3000, Some(intent(2500)), 500, unknown, Want::Rejected(4), "send Probe"),
        ("once more", DIES, 3600, probed(3, 3540), 60, unknown, life, "send Probe"),
        ("then more seldom", DIES, 3600, probed(4, 3540), 60, unknown, life, "wait 60 Unknown"),
        ("and more seldom yet", DIES, 3600, probed(99, 3540), 60, unknown, life, "wait 840 Unknown"),
        ("but never for the last time", DIES, 4500, probed(99, 3540), 60, unknown, life, "send Probe"),
        ("it is about another token", DIES, 2501, Some(Intent { token: "old".into(), ..intent(2500) }), 1, unknown, ahead, "send First"),
        ("an old rejection", DIES, 20, None, 0, unknown, Want::Rejected(3), "enough"),
        ("rejected at once", DIES, 4, None, 0, unknown, Want::Rejected(4), "wait 6 Fresh"),
        ("rejected later", DIES, 10, None, 0, unknown, Want::Rejected(4), "send First"),
        ("asked for more than there is", DIES, 100, None, 0, unknown, Want::Life(Duration::from_secs(3600)), "wait 2330 Fresh"),
    ];
    for (what, rotation, now, intent, since, sender, want, expected) in table {
        assert_eq!(shown(verdict(rotation, now, intent, since, sender, want)), expected, "{what}");
    }
}

#[test]
fn without_a_refresh_token_there_is_only_an_end() {
    let state = state();
    let at = |now: u64, want| {
        let now = start() + Duration::from_secs(now);
        let (means, seen) = (Means::Nothing, Seen::NOW);
        shown(decide(&Facts { state: &state, means, rotation: DIES, token: "", now, seen, want, chance: 0.0 }))
    };
    assert_eq!(at(3599, Want::Ahead), "enough");
    assert_eq!(at(3000, Want::Life(Duration::from_secs(60))), "enough");
    assert_eq!(at(3590, Want::Life(Duration::from_secs(60))), "wait 10 Fresh");
    assert_eq!(at(3600, Want::Life(Duration::from_secs(60))), "expired");
}

/// The longest pause that a provider may ask for, by the clock of another daemon.
const PAUSE_LONGEST: Duration = Duration::from_secs(3605);

#[test]
fn a_pause_that_nobody_can_have_meant_is_none() {
    let paused = |left: Duration| {
        let now = start() + Duration::from_secs(2500);
        let state = TokenState { retry_at: Some(now + left), ..state() };
        let (means, seen, want) = (Means::RefreshToken, Seen::NOW, Want::Ahead);
        shown(decide(&Facts { state: &state, means, rotation: DIES, token: "t", now, seen, want, chance: 0.5 }))
    };
    assert_eq!(paused(Duration::from_secs(3600)), "wait 3600 Pause");
    assert_eq!(paused(PAUSE_LONGEST), "wait 3605 Pause");
    // B8: by a clock that was an hour ahead, or lost.
    for left in [3606, 3630, 400 * 24 * 3600] {
        assert_eq!(paused(Duration::from_secs(left)), "send First", "{left}");
    }
}

#[test]
fn refreshes_are_spread_and_leave_time_for_one_that_dies() {
    let due = |life: u64, rotation: Rotation, chance: f64| {
        let state = TokenState { expires_at: Some(start() + Duration::from_secs(life)), ..state() };
        due_in(&state, rotation, start(), chance).unwrap().as_secs_f64()
    };
    for (chance, part) in [(0.0, 0.60), (0.5, 0.675), (1.0, 0.75)] {
        assert!((due(3600, DIES, chance) - 3600.0 * part).abs() < 0.01);
    }
    let kills = Rotation::OldDiesWithAccess;
    let (first, last) = (due(28800, kills, 1.0), due(28800, kills, 0.0));
    assert!((first - (28800.0 - 240.0)).abs() < 0.01 && (last - (28800.0 - 160.0)).abs() < 0.01, "{first} {last}");
    assert!((due(300, DIES, 1.0) - 150.0).abs() < 0.01, "short lives are refreshed at their half");
    let endless = TokenState { expires_at: None, ..state() };
    assert_eq!(due_in(&endless, DIES, start(), 0.5), None);
}

/// SplitMix64: numbers that can be had again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % count
    }
}

/// Facts as they could never come about are among them: damaged states, wrong clocks.
#[test]
fn whatever_the_facts_the_rule_of_it_all_holds() {
    let seed: u64 = getrandom::u64().unwrap();
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let rotations = [Rotation::None, Rotation::OldStays, GRACE, DIES, Rotation::OldDiesWithAccess];
    for nth in 0..200_000 {
        let rotation = rotations[usize::try_from(chance.below(5)).unwrap()];
        let at = |chance: &mut Chance| {
            start() + SignedDuration::from_secs(i64::try_from(chance.below(9000)).unwrap() - 1000)
        };
        let token = ["t", "u"][usize::try_from(chance.below(2)).unwrap()];
        let intent = (chance.below(4) > 0).then(|| Intent {
            started_at: at(&mut chance),
            first_at: (chance.below(2) == 0).then(|| at(&mut chance)),
            probes: u32::try_from(chance.below(5)).unwrap(),
            ..intent(0)
        });
        let state = TokenState {
            generation: chance.below(6),
            obtained_at: at(&mut chance),
            expires_at: (chance.below(5) > 0).then(|| at(&mut chance)),
            retry_at: (chance.below(3) == 0).then(|| at(&mut chance)),
            intent: intent.clone(),
            ..state()
        };
        let sender = [Sender::Unknown, Sender::Gone][usize::try_from(chance.below(2)).unwrap()];
        let seen = Seen { since: Duration::from_secs(chance.below(120)), sender };
        let want = match chance.below(3) {
            0 => Want::Ahead,
            1 => Want::Life(Duration::from_secs(chance.below(4000))),
            _ => Want::Rejected(chance.below(6)),
        };
        let means = [Means::RefreshToken, Means::RefreshToken, Means::Mint, Means::Nothing]
            [usize::try_from(chance.below(4)).unwrap()];
        let now = at(&mut chance);
        let spread = f64::from(u32::try_from(chance.below(1000)).unwrap()) / 1000.0;
        let facts = Facts { state: &state, means, rotation, token, now, seen, want, chance: spread };
        let verdict = decide(&facts);
        let told = format!("{nth} of seed {seed}: {verdict:?} of {facts:?}");
        match verdict {
            Verdict::Send(send) => may_be_sent(&facts, intent.as_ref(), send, &told),
            Verdict::Wait(Wait { pause, cause }) => {
                let most = limits::TOKEN_LIFE_MAX;
                assert!(pause > Duration::ZERO && pause < most, "{told}");
                assert!(cause != Cause::Store, "{told}");
            }
            Verdict::Expired => assert_eq!(means, Means::Nothing, "{told}"),
            Verdict::Enough => match want {
                Want::Rejected(generation) => {
                    assert!(state.generation > generation || means == Means::Nothing, "{told}")
                }
                Want::Life(least) => {
                    let lives = state.life_left(now).is_none_or(|left| left >= least);
                    assert!(lives && (state.generation > 0 || means == Means::Nothing), "{told}");
                }
                Want::Ahead => {}
            },
        }
    }
}

/// A refresh token that may have been spent is sent where that is harmless, or as the last thing to try.
fn may_be_sent(facts: &Facts<'_>, intent: Option<&Intent>, send: Send, told: &str) {
    assert!(facts.means != Means::Nothing, "{told}");
    let is_paused = |at: Timestamp| at > facts.now && at <= facts.now + PAUSE_LONGEST;
    assert!(!facts.state.retry_at.is_some_and(is_paused), "{told}");
    let doubt = intent.filter(|intent| intent.token == facts.token);
    let Some(doubt) = doubt else { return assert_eq!(send, Send::First, "{told}") };
    let is_left_alone = facts.seen.sender != Sender::Unknown
        || facts.seen.since >= limits::INTENT_BUSY
        || facts.now.duration_since(doubt.started_at).as_secs() >= 20;
    assert!(is_left_alone, "{told}");
    match send {
        Send::First => panic!("{told}"),
        Send::TakeOver => {
            let since = facts.now.duration_since(doubt.in_doubt_since()).as_secs();
            let is_in_grace = facts.rotation.grace().is_some() && (-5..25).contains(&since);
            assert!(facts.means == Means::Mint || facts.rotation.may_repeat() || is_in_grace, "{told}");
        }
        Send::Probe => {
            assert!(facts.seen.since >= limits::INTENT_HOLD_OFF, "{told}");
            // 5.4 (c): the access token has ended, which a report alone does not show unless the refresh ends it.
            let is_rejected = matches!(facts.want, Want::Rejected(_));
            let has_ended = match facts.state.expires_at {
                Some(end) => end <= facts.now + limits::MIN_TOKEN_TTL_DEFAULT,
                None => is_rejected,
            };
            assert!(has_ended || (is_rejected && facts.rotation.kills_access()), "{told}");
        }
    }
}
