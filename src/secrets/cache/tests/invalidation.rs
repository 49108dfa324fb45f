//! Orders to read anew and to forget, and reads that come too late for them.

use super::*;

/// A read is under way that took version 1; the secret is at version 2 by now.
async fn overtaken(bench: &Bench, address: &SecretAddress) -> (Arc<Semaphore>, tokio::task::JoinHandle<String>) {
    let gate = Arc::new(Semaphore::new(0));
    bench.turn(Mode::Slow(Arc::clone(&gate)));
    let (cache, asked, before) = (bench.cache.clone(), address.clone(), bench.reads());
    let caller = tokio::spawn(async move { seen(&cache.get(&asked, CachePolicy::Availability).await) });
    while bench.reads() == before {
        tokio::task::yield_now().await;
    }
    bench.change();
    bench.turn(Mode::Up);
    (gate, caller)
}

#[tokio::test]
async fn b1_a_secret_that_was_called_wrong_is_read_anew_at_once() {
    for order in 0..3 {
        let (bench, address) = (Bench::new(), address());
        bench.get(&address).await.unwrap();
        bench.change();
        assert_eq!(bench.seen(&address).await, "cached 1");
        match order {
            0 => bench.cache.revalidate(address.connection),
            1 => bench.cache.revalidate_all(),
            _ => bench.cache.forget(address.connection),
        }
        assert_eq!(bench.seen(&address).await, "fresh 2");
        assert_eq!(bench.seen(&address).await, "cached 2");
    }
}

#[tokio::test]
async fn an_order_for_one_secret_is_none_for_another() {
    let bench = Bench::new();
    let (one, other) = (address(), address());
    bench.get(&one).await.unwrap();
    bench.get(&other).await.unwrap();
    bench.cache.revalidate(one.connection);
    assert_eq!(bench.seen(&other).await, "cached 1");
}

#[tokio::test]
async fn no_late_load_resurrects_what_was_called_wrong() {
    for forget in [false, true] {
        let (bench, address) = (Bench::new(), address());
        let (gate, caller) = overtaken(&bench, &address).await;
        if forget {
            bench.cache.forget(address.connection);
        } else {
            bench.cache.revalidate(address.connection);
        }
        gate.add_permits(1);
        assert_eq!(caller.await.unwrap(), "fresh 1", "it came before the order");
        assert_eq!(bench.seen(&address).await, "fresh 2");
        assert_eq!(bench.seen(&address).await, "cached 2");
    }
}

#[tokio::test]
async fn who_joins_a_read_after_the_order_gets_a_newer_one() {
    let (bench, address) = (Bench::new(), address());
    let (gate, caller) = overtaken(&bench, &address).await;
    bench.cache.revalidate(address.connection);
    let late = async {
        tokio::task::yield_now().await;
        gate.add_permits(1);
    };
    let (answers, ()) = tokio::join!(join_all((0..100).map(|_| bench.seen(&address))), late);
    assert!(answers.iter().all(|answer| answer == "fresh 2"), "{answers:?}");
    assert_eq!(caller.await.unwrap(), "fresh 1");
    assert_eq!(bench.reads(), 2);
}

#[tokio::test]
async fn an_answer_from_before_the_order_is_not_to_be_repeated_after_it() {
    let (bench, address) = (Bench::new(), address());
    let gate = Arc::new(Semaphore::new(0));
    bench.turn(Mode::Slow(Arc::clone(&gate)));
    let order = async {
        while bench.reads() == 0 {
            tokio::task::yield_now().await;
        }
        bench.cache.revalidate(address.connection);
        gate.add_permits(1);
    };
    let (fetched, ()) = tokio::join!(bench.get(&address), order);
    assert_eq!(fetched.unwrap().recheck_at, Clock::Manual(bench.clock.clone()).moment());
}

#[tokio::test]
async fn b2_what_was_called_wrong_is_still_served_stale_while_the_store_is_down_and_no_longer_than_before() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Down);
    bench.cache.revalidate_all();
    assert_eq!(bench.seen(&address).await, "stale 1");
    assert_eq!(seen(&bench.get_right(&address).await), "unavailable");
    bench.advance(599.0);
    bench.cache.revalidate(address.connection);
    assert_eq!(bench.seen(&address).await, "stale 1");
    bench.advance(1.0);
    assert_eq!(bench.seen(&address).await, "unavailable");
}

#[tokio::test(start_paused = true)]
async fn what_was_called_wrong_is_served_stale_when_the_store_says_nothing_for_a_second_and_a_half() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Hang);
    bench.cache.revalidate(address.connection);
    let before = tokio::time::Instant::now();
    assert_eq!(bench.seen(&address).await, "stale 1");
    assert_eq!(before.elapsed(), limits::SECRET_REVALIDATION_PATIENCE);
}

#[tokio::test]
async fn what_was_forgotten_is_not_served_even_while_the_store_is_down() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.turn(Mode::Down);
    bench.cache.forget(address.connection);
    assert_eq!(bench.seen(&address).await, "unavailable");
}

#[tokio::test]
async fn what_was_forgotten_leaves_the_memory_with_the_next_sweep() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    bench.cache.sweep().await;
    assert_eq!(bench.held().0, 1);
    bench.cache.forget(address.connection);
    bench.cache.sweep().await;
    assert_eq!(bench.held(), (0, 0));
}

#[tokio::test]
async fn orders_are_remembered_as_long_as_something_was_read_before_them_and_no_longer() {
    let (bench, address) = (Bench::new(), address());
    let orders = &bench.cache.0.orders;
    bench.get(&address).await.unwrap();
    bench.change();
    bench.cache.revalidate(address.connection);
    let later = || {
        bench.advance(31.0);
        bench.cache.sweep()
    };
    later().await;
    assert!(!orders.is_empty(), "version 1 is still held");
    let (gate, caller) = overtaken(&bench, &address).await;
    bench.cache.revalidate(address.connection);
    later().await;
    assert!(!orders.is_empty(), "a read of before is still under way");
    gate.add_permits(1);
    caller.await.unwrap();
    assert_eq!(bench.seen(&address).await, "fresh 3");
    bench.settle().await;
    later().await;
    assert!(orders.is_empty());
}

#[tokio::test]
async fn too_many_orders_are_one_for_all() {
    let (bench, address) = (Bench::new(), address());
    bench.get(&address).await.unwrap();
    for _ in 0..=limits::SECRET_ORDERS_MAX {
        bench.cache.revalidate(ConnectionId::generate());
    }
    bench.change();
    assert_eq!(bench.seen(&address).await, "fresh 2");
}
