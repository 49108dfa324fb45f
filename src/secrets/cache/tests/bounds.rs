//! How much is held, for how long, and how much is read at once.

use super::*;

#[tokio::test]
async fn a9_the_bytes_of_all_secrets_stay_within_their_bound() {
    let settings = config::Cache { bytes_max: 100_000, ..config::Cache::default() };
    let bench = Bench::with(10_000, &settings);
    bench.fill(100).await;
    let (entries, bytes) = bench.held();
    assert!((5..10).contains(&entries) && bytes <= 100_000, "{entries} secrets of {bytes} bytes");
}

#[tokio::test]
async fn a9_the_number_of_secrets_stays_within_its_bound_however_small_they_are() {
    let settings = config::Cache { entries_max: 10, ..config::Cache::default() };
    let bench = Bench::with(1, &settings);
    bench.fill(100).await;
    let (entries, _) = bench.held();
    assert!((5..=10).contains(&entries), "{entries} secrets");
}

#[tokio::test]
async fn what_is_not_there_takes_no_more_room_than_what_is() {
    let settings = config::Cache { entries_max: 10, ..config::Cache::default() };
    let bench = Bench::with(1, &settings);
    for mode in [Mode::Missing, Mode::Down] {
        bench.turn(mode);
        for address in addresses(100) {
            bench.get(&address).await.unwrap_err();
        }
        bench.cache.sweep().await;
        assert!(bench.held().0 <= 10);
    }
}

#[tokio::test]
async fn a_secret_larger_than_the_whole_cache_is_served_and_not_kept() {
    let settings = config::Cache { bytes_max: 1000, ..config::Cache::default() };
    let bench = Bench::with(2000, &settings);
    bench.fill(3).await;
    assert_eq!(bench.held(), (0, 0));
}

#[tokio::test]
async fn secrets_that_nobody_asks_for_again_leave_the_memory() {
    let short = Duration::from_millis(20);
    let settings = config::Cache { secret_ttl: short, max_stale: short, ..config::Cache::default() };
    let bench = Bench::with(10, &settings);
    bench.fill(10).await;
    let emptied = async {
        while bench.held() != (0, 0) {
            tokio::task::yield_now().await;
            bench.cache.sweep().await;
        }
    };
    timeout(Duration::from_secs(10), emptied).await.unwrap();
}

#[tokio::test]
async fn a1_all_who_ask_at_once_share_one_read() {
    let bench = Bench::new();
    let address = address();
    let answers = join_all((0..1000).map(|_| bench.get(&address))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(bench.reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a2_a_caller_that_leaves_takes_the_read_from_nobody() {
    let (bench, address, gate) = (Bench::new(), address(), Arc::new(Semaphore::new(0)));
    bench.turn(Mode::Slow(Arc::clone(&gate)));
    timeout(Duration::from_millis(100), bench.get(&address)).await.expect_err("it was answered");
    gate.add_permits(1);
    assert_eq!(bench.seen(&address).await, "fresh 1");
    assert_eq!(bench.reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a4_a_black_hole_behind_many_secrets_holds_up_neither_hits_nor_refreshes_of_others() {
    let bench = Bench::new();
    let (stuck, well) = (addresses(100), address());
    for address in stuck.iter().chain([&well]) {
        bench.get(address).await.unwrap();
    }
    let hung = stuck.iter().map(|address| (address.connection, Mode::Hang));
    bench.store.modes.lock().unwrap().extend(hung);
    for _ in 0..10 {
        bench.advance(25.0);
        for _ in 0..10 {
            bench.advance(0.1);
            let before = tokio::time::Instant::now();
            assert_eq!(bench.seen(&well).await, "cached 1");
            assert_eq!(before.elapsed(), Duration::ZERO, "a hit waited");
            // Those that are too old wait for half a second, until they have failed.
            let answers = join_all(stuck.iter().map(|address| bench.get(address))).await;
            assert!(answers.iter().all(Result::is_ok));
        }
        let under_way = bench.store.under_way.load(Ordering::SeqCst);
        assert!(under_way <= (limits::SECRET_REFRESHES_MAX + limits::SECRET_FETCHES_MAX) as u64, "{under_way}");
        bench.settle().await;
    }
    assert!(bench.store.under_way_max.load(Ordering::SeqCst) >= limits::SECRET_RETRIES_MAX as u64);
}

#[tokio::test(start_paused = true)]
async fn a4_retries_leave_places_for_refreshes() {
    let bench = Bench::new();
    let (stuck, well) = (addresses(limits::SECRET_REFRESHES_MAX), address());
    for address in stuck.iter().chain([&well]) {
        bench.get(address).await.unwrap();
    }
    let hung = stuck.iter().map(|address| (address.connection, Mode::Hang));
    bench.store.modes.lock().unwrap().extend(hung);
    bench.advance(25.0);
    join_all(stuck.iter().map(|address| bench.get(address))).await;
    bench.settle().await;
    // Every retry is due, and each would take a place for seconds.
    bench.advance(2.0);
    bench.change();
    join_all(stuck.iter().map(|address| bench.get(address))).await;
    bench.get(&well).await.unwrap();
    while bench.seen(&well).await != "cached 2" {
        tokio::task::yield_now().await;
        assert!(bench.store.under_way.load(Ordering::SeqCst) > 0, "the retries were over first");
    }
}

#[tokio::test(start_paused = true)]
async fn a5_ten_thousand_secrets_of_one_second_are_read_again_evenly() {
    let bench = Bench::new();
    bench.cache.reseed(1);
    let secrets = addresses(10_000);
    for address in &secrets {
        bench.get(address).await.unwrap();
    }
    bench.advance(17.0);
    let mut buckets = Vec::new();
    for _ in 0..8 {
        let before = bench.reads();
        bench.advance(1.0);
        for address in &secrets {
            assert_eq!(bench.get(address).await.unwrap().freshness, Freshness::Cached);
            bench.settle().await;
        }
        buckets.push(bench.reads() - before);
    }
    let busy: Vec<u64> = buckets.iter().copied().filter(|reads| *reads > 0).collect();
    let mean = busy.iter().sum::<u64>() / busy.len() as u64;
    assert!(busy.iter().all(|reads| *reads <= 2 * mean), "{buckets:?} is not even");
    assert_eq!((busy.len(), busy.iter().sum::<u64>()), (6, 10_000), "{buckets:?}");
}

#[tokio::test(start_paused = true)]
async fn a5_eight_secrets_at_most_are_read_in_the_background_at_once() {
    let (bench, secrets) = (Bench::new(), addresses(100));
    for address in &secrets {
        bench.get(address).await.unwrap();
    }
    let gate = Arc::new(Semaphore::new(0));
    bench.turn(Mode::Slow(Arc::clone(&gate)));
    bench.advance(25.0);
    for address in &secrets {
        assert_eq!(bench.seen(address).await, "cached 1");
    }
    tokio::task::yield_now().await;
    assert_eq!((bench.store.under_way_max.load(Ordering::SeqCst), bench.reads()), (8, 108));
    gate.add_permits(100);
    bench.settle().await;
    assert_eq!(bench.metric("credway_secret_cache_refreshes_total"), 8.0);
}
