//! The pure part: what chance and time make of a secret.

use super::super::state::{backoff, deadline, refusal_ttl};
use super::*;

const CHANCES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 0.999_999];

#[test]
fn a3_the_pauses_are_as_agreed() {
    let table = [
        (1, 0.8, 1.2),
        (2, 1.6, 2.4),
        (3, 3.2, 4.8),
        (4, 6.4, 9.6),
        (5, 12.8, 19.2),
        (6, 24.0, 30.0),
        (1000, 24.0, 30.0),
    ];
    for (failures, least, most) in table {
        for chance in CHANCES {
            let pause = backoff(failures, chance).as_secs_f64();
            assert!((least..=most).contains(&pause), "{pause} s after {failures} failures");
        }
    }
}

#[test]
fn b3_a_refusal_is_remembered_for_one_to_five_seconds() {
    for chance in CHANCES {
        assert!((1.0..5.0).contains(&refusal_ttl(chance).as_secs_f64()));
    }
}

#[test]
fn b2_the_deadline_is_the_credentials_end_or_the_bound_whichever_comes_first() {
    let second = |second: i64| Timestamp::from_second(1000 + second).unwrap();
    let table = [
        // time to live, bound on stale answers, end of the credential, deadline
        (30, 600, None, 600),
        (30, 600, Some(100), 100),
        (30, 600, Some(10), 10),
        (30, 600, Some(6000), 600),
        (30, 600, Some(-5), -5),
        (30, 0, None, 30),
        (3600, 600, None, 3600),
        (0, 600, None, 0),
    ];
    for (ttl, max_stale, end, expected) in table {
        let terms = Terms { ttl: Duration::from_secs(ttl), max_stale: Duration::from_secs(max_stale) };
        assert_eq!(deadline(second(0), terms, end.map(second)), second(expected), "{terms:?}, end {end:?}");
    }
}
