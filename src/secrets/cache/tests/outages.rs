//! A store that fails, hangs and comes back.

use super::*;

/// Moves in steps of a tenth of a second and asks in each, so that everything that may be read is read.
async fn ask_for(bench: &Bench, address: &SecretAddress, seconds: u64) -> u64 {
    let before = bench.reads();
    for _ in 0..seconds * 10 {
        bench.advance(0.1);
        let _ = bench.get(address).await;
        bench.settle().await;
    }
    bench.reads() - before
}

#[tokio::test]
async fn a3_a_failed_read_is_shared_by_all_who_wait_and_by_all_who_come_in_the_pause_after_it() {
    let (bench, address) = (Bench::new(), address());
    bench.turn(Mode::Down);
    for _ in 0..2 {
        let answers = join_all((0..1000).map(|_| bench.get(&address))).await;
        assert!(answers.iter().all(|answer| seen(answer) == "unavailable"));
        bench.advance(0.79);
    }
    assert_eq!(bench.reads(), 1);
}

#[tokio::test]
async fn a3_pauses_between_reads_double_up_to_half_a_minute() {
    // The pauses are 1, 2, 4, 8, 16 and then 30 seconds, each 20 % more or less.
    for is_cached in [false, true] {
        let (bench, address) = (Bench::new(), address());
        if is_cached {
            bench.get(&address).await.unwrap();
            bench.advance(30.0);
        }
        bench.turn(Mode::Down);
        assert!(ask_for(&bench, &address, 1).await <= 3);
        let first_minute = bench.reads() + ask_for(&bench, &address, 59).await;
        assert!((6..=9).contains(&first_minute), "{first_minute} reads");
        let next_five = ask_for(&bench, &address, 300).await;
        assert!((9..=13).contains(&next_five), "{next_five} reads");
        assert_eq!(bench.metric("credway_secrets_in_backoff"), 1.0);
    }
}

#[tokio::test]
async fn a3_a_store_that_is_back_is_read_at_once() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Down);
    bench.advance(30.0);
    ask_for(&bench, &address, 100).await;
    assert_eq!(bench.seen(&address).await, "stale 1");
    bench.turn(Mode::Up);
    bench.change();
    bench.cache.store_is_back();
    assert_eq!(bench.seen(&address).await, "fresh 2");
    bench.cache.sweep().await;
    assert_eq!(bench.metric("credway_secrets_in_backoff"), 0.0);
}

#[tokio::test]
async fn a3_a_pause_begins_anew_after_the_store_was_back() {
    let (bench, address) = (Bench::new(), address());
    bench.turn(Mode::Down);
    ask_for(&bench, &address, 100).await;
    bench.cache.store_is_back();
    assert_eq!(bench.seen(&address).await, "unavailable");
    let reads = bench.reads();
    bench.advance(1.21);
    assert_eq!(bench.seen(&address).await, "unavailable");
    assert_eq!(bench.reads(), reads + 1);
}

#[tokio::test(start_paused = true)]
async fn b2_served_stale_until_one_second_before_the_bound_and_refused_one_second_after() {
    for mode in [Mode::Down, Mode::Hang] {
        let (bench, address) = (Bench::new(), address());
        let fetched_at = bench.get(&address).await.unwrap().fetched_at;
        bench.turn(mode);
        bench.advance(30.0);
        bench.get(&address).await.unwrap();
        bench.settle().await;
        bench.advance(569.0);
        let stale = bench.get(&address).await.unwrap();
        let said = staleness(&stale);
        assert_eq!((said.age, said.deadline), (Duration::from_secs(599), fetched_at + Duration::from_secs(600)));
        assert!(said.cause.contains("sealed") || said.cause.contains("no answer within"), "{}", said.cause);
        bench.settle().await;
        bench.advance(2.0);
        assert_eq!(bench.seen(&address).await, "unavailable");
        assert!(bench.seen(&address).await == "unavailable");
    }
}

#[tokio::test]
async fn b2_an_answer_is_not_to_be_repeated_beyond_its_bound() {
    let (bench, address) = (Bench::new(), address());
    let clock = Clock::Manual(bench.clock.clone());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Down);
    bench.advance(599.7);
    let stale = bench.get(&address).await.unwrap();
    let repeatable = stale.recheck_at.since(clock.moment());
    assert!(repeatable <= Duration::from_millis(300), "{repeatable:?}");
    bench.advance(0.3);
    assert_eq!(bench.seen(&address).await, "unavailable");
}

#[tokio::test]
async fn b2_what_is_stale_is_counted_and_its_age_told() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Down);
    bench.advance(100.0);
    bench.get(&address).await.unwrap();
    bench.cache.sweep().await;
    assert_eq!(bench.metric("credway_secret_stale_served_total"), 1.0);
    assert_eq!(bench.metric("credway_secret_stale_age_max_seconds"), 100.0);
    bench.cache.sweep().await;
    assert_eq!(bench.metric("credway_secret_stale_age_max_seconds"), 0.0);
}

#[tokio::test]
async fn b6_for_fidelity_no_stale_value_is_ever_served() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Down);
    bench.advance(29.9);
    assert_eq!(seen(&bench.get_right(&address).await), "cached 1");
    bench.settle().await;
    for _ in 0..3 {
        bench.advance(0.2);
        assert_eq!(seen(&bench.get_right(&address).await), "unavailable");
    }
    // The other policy would have it.
    assert_eq!(bench.seen(&address).await, "stale 1");
}

#[tokio::test(start_paused = true)]
async fn b2_a_secret_that_is_gone_is_refused_soon_while_the_store_hangs() {
    let (bench, address) = (Bench::new(), address());
    bench.turn(Mode::Hang);
    assert_eq!(bench.seen(&address).await, "unavailable");
    bench.advance(1.3);
    let before = tokio::time::Instant::now();
    assert_eq!(bench.seen(&address).await, "unavailable");
    assert_eq!(before.elapsed(), limits::SECRET_PATIENCE);
    assert_eq!(bench.seen(&address).await, "unavailable");
    assert_eq!(before.elapsed(), limits::SECRET_PATIENCE);
}

#[tokio::test]
async fn b8_an_hour_on_the_wall_clock_changes_no_verdict() {
    for hours in [-1, 1] {
        let (bench, address) = (Bench::new(), address());
        bench.get(&address).await.unwrap();
        bench.turn(Mode::Down);
        bench.clock.jump(jiff::SignedDuration::from_hours(hours));
        bench.advance(17.0);
        assert_eq!((bench.seen(&address).await, bench.reads()), ("cached 1".into(), 1));
        bench.advance(582.0);
        assert_eq!(bench.seen(&address).await, "stale 1");
        bench.advance(1.0);
        assert_eq!(bench.seen(&address).await, "unavailable");
    }
}

#[tokio::test]
async fn b8_a_suspend_counts_as_age() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Down);
    // The clock of ages runs through it, whatever the timers of the process did meanwhile.
    bench.advance(3600.0);
    assert_eq!(bench.seen(&address).await, "unavailable");
}
