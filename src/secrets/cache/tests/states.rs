//! Fresh, soft, old, and answers that are no values.

use super::*;

#[tokio::test]
async fn a5_a_secret_that_will_soon_be_too_old_is_served_at_once_and_read_once_in_the_background() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.change();
    bench.advance(17.9);
    assert_eq!((bench.seen(&address).await, bench.reads()), ("cached 1".into(), 1));
    bench.advance(6.1);
    for _ in 0..10 {
        assert_eq!(bench.seen(&address).await, "cached 1");
    }
    bench.settle().await;
    assert_eq!((bench.seen(&address).await, bench.reads()), ("cached 2".into(), 2));
}

#[tokio::test(start_paused = true)]
async fn a6_in_the_soft_window_no_caller_waits_for_a_store_that_hangs() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Hang);
    let before = tokio::time::Instant::now();
    for _ in 0..5 {
        bench.advance(5.9);
        assert_eq!(bench.seen(&address).await, "cached 1");
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn b1_a_changed_secret_is_served_when_its_time_to_live_is_over_at_the_latest() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.change();
    bench.advance(30.0);
    assert_eq!(bench.seen(&address).await, "fresh 2");
}

#[tokio::test]
async fn b1_age_counts_from_when_the_read_began() {
    let (bench, address, gate) = (Bench::new(), address(), Arc::new(Semaphore::new(0)));
    bench.turn(Mode::Slow(Arc::clone(&gate)));
    let began = bench.clock.clone();
    let slow = async {
        while bench.reads() == 0 {
            tokio::task::yield_now().await;
        }
        began.advance(Duration::from_secs(4));
        gate.add_permits(1);
    };
    let (fetched, ()) = tokio::join!(bench.get(&address), slow);
    let fetched = fetched.unwrap();
    let age = Clock::Manual(bench.clock.clone()).now().duration_since(fetched.fetched_at);
    assert_eq!(age.as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn b6_past_its_time_to_live_patience_is_half_a_second_for_availability_and_endless_for_fidelity() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Hang);
    bench.advance(31.0);
    let before = tokio::time::Instant::now();
    let (available, right) = tokio::join!(async { (bench.seen(&address).await, before.elapsed()) }, async {
        (seen(&bench.get_right(&address).await), before.elapsed())
    },);
    assert_eq!(available, ("stale 1".into(), limits::SECRET_PATIENCE));
    assert_eq!(right, ("unavailable".into(), limits::SECRET_FETCH_DEADLINE));
    assert_eq!(bench.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn b6_one_caller_loses_its_patience_and_no_other_need_do_so() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Hang);
    bench.advance(31.0);
    assert_eq!(bench.seen(&address).await, "stale 1");
    let before = tokio::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(bench.seen(&address).await, "stale 1");
    }
    assert_eq!((before.elapsed(), bench.reads()), (Duration::ZERO, 2));
    bench.turn(Mode::Up);
    bench.settle().await;
    bench.advance(1.3);
    bench.seen(&address).await;
    bench.settle().await;
    assert_eq!(bench.seen(&address).await, "cached 1");
}

#[tokio::test]
async fn b6_past_its_time_to_live_both_policies_get_what_the_store_has() {
    let (bench, address) = (Bench::new(), address());
    for policy in [CachePolicy::Availability, CachePolicy::Fidelity] {
        bench.change();
        bench.advance(31.0);
        let fetched = bench.cache.get(&address, policy).await.unwrap();
        let version = bench.store.version.load(Ordering::SeqCst);
        assert_eq!((fetched.freshness, fetched.document.version), (Freshness::Fresh, version));
    }
}

#[tokio::test]
async fn b3_that_a_secret_is_missing_or_denied_evicts_it_at_once_and_is_remembered_for_one_to_five_seconds() {
    for (mode, told) in [(Mode::Missing, "missing"), (Mode::Denied, "denied")] {
        let (bench, address) = (Bench::new(), address());
        bench.get(&address).await.unwrap();
        bench.turn(mode);
        bench.advance(25.0);
        assert_eq!(bench.seen(&address).await, "cached 1");
        bench.settle().await;
        for (passes, least, most) in [(0.0, 2, 2), (0.999, 2, 2), (4.01, 3, 3)] {
            bench.advance(passes);
            assert_eq!(bench.seen(&address).await, told);
            assert!((least..=most).contains(&bench.reads()), "{} reads after {passes}", bench.reads());
        }
        // Nor is it brought back by an outage.
        bench.turn(Mode::Down);
        bench.advance(5.0);
        assert_eq!(bench.seen(&address).await, "unavailable");
    }
}

#[tokio::test]
async fn b7_addresses_that_differ_in_any_field_share_nothing() {
    let bench = Bench::new();
    let one = address();
    let others = [
        SecretAddress { tenant: "other".parse().unwrap(), ..one.clone() },
        SecretAddress { project: "other".parse().unwrap(), ..one.clone() },
        SecretAddress { connection: ConnectionId::generate(), ..one.clone() },
    ];
    bench.get(&one).await.unwrap();
    for (position, other) in others.iter().enumerate() {
        assert_eq!(bench.seen(other).await, "fresh 1");
        assert_eq!(bench.reads(), 2 + position as u64);
    }
}

#[tokio::test]
async fn with_no_time_to_live_every_answer_is_read_anew_and_none_is_ever_stale() {
    let settings = config::Cache { secret_ttl: Duration::ZERO, ..config::Cache::default() };
    let (bench, address) = (Bench::with(10, &settings), address());
    let now = Clock::Manual(bench.clock.clone()).moment();
    for reads in 1..=3 {
        let fetched = bench.get(&address).await.unwrap();
        assert_eq!((fetched.freshness, bench.reads()), (Freshness::Fresh, reads));
        assert_eq!(fetched.recheck_at, now);
    }
    bench.turn(Mode::Down);
    assert_eq!(bench.seen(&address).await, "unavailable");
}

#[tokio::test]
async fn an_answer_may_be_repeated_until_its_soft_end_and_a_soft_one_for_a_second() {
    let (bench, address) = (Bench::new(), address());
    let clock = Clock::Manual(bench.clock.clone());
    let began = clock.moment();
    let fresh = bench.get(&address).await.unwrap();
    let soft = fresh.recheck_at.since(began).as_secs_f64();
    assert!((18.0..24.0).contains(&soft), "{soft}");
    assert_eq!(fresh.refresh_after.duration_since(fresh.fetched_at).as_secs(), 30);
    bench.turn(Mode::Hang);
    bench.advance(24.0);
    assert_eq!(bench.get(&address).await.unwrap().recheck_at, clock.moment() + Duration::from_secs(1));
    bench.advance(5.5);
    assert_eq!(bench.get(&address).await.unwrap().recheck_at, clock.moment() + Duration::from_millis(500));
}
