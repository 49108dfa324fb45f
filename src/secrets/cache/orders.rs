//! Orders to read secrets anew, counted: what was read before an order is told from what was read after it by two numbers.
//!
//! An order is noted and judged by when a secret is next asked for. So it needs neither the entry nor a lock on it, and a
//! read under way when it comes cannot undo it, however late it ends.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use crate::limits;
use crate::model::id::ConnectionId;

#[derive(Default)]
pub(super) struct Orders {
    count: AtomicU64,
    /// What holds for every secret.
    all: [AtomicU64; 3],
    /// Whether there was an order to forget since this was last asked.
    has_forgotten: AtomicBool,
    of: RwLock<HashMap<ConnectionId, Order>>,
    /// The counts at which reads began that are under way, and how many of each.
    under_way: Mutex<BTreeMap<u64, usize>>,
}

/// A read that is under way until this is dropped, which is to be after its outcome can be seen.
pub(super) struct UnderWay<'a> {
    orders: &'a Orders,
    began: u64,
}

/// The last orders for one connection.
#[derive(Clone, Copy, Debug)]
struct Order {
    revalidated: u64,
    forgotten: u64,
}

/// What is to be told of one secret, as counts of orders: what began earlier is held back by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bars {
    /// A value read earlier is not current.
    pub revalidated: u64,
    /// A value read earlier is not served at all.
    pub forgotten: u64,
    /// A failure seen earlier says nothing any more.
    pub back: u64,
}

impl Bars {
    /// Whether a read that began when there were so many orders knows of all of them.
    pub(super) fn passed_by(self, began: u64) -> bool {
        began >= self.revalidated && began >= self.forgotten && began >= self.back
    }
}

const REVALIDATED: usize = 0;
const FORGOTTEN: usize = 1;
const BACK: usize = 2;

impl Orders {
    /// The number of orders so far, which a read notes before it begins.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) fn bars(&self, connection: ConnectionId) -> Bars {
        let of = self.of.read().unwrap_or_else(PoisonError::into_inner).get(&connection).copied();
        let all = |which: usize| self.all[which].load(Ordering::SeqCst);
        let (revalidated, forgotten) = of.map_or((0, 0), |order| (order.revalidated, order.forgotten));
        Bars {
            revalidated: all(REVALIDATED).max(revalidated),
            forgotten: all(FORGOTTEN).max(forgotten),
            back: all(BACK),
        }
    }

    pub(super) fn revalidate(&self, connection: ConnectionId) {
        let number = self.next();
        self.note(connection, Order { revalidated: number, forgotten: 0 });
    }

    pub(super) fn forget(&self, connection: ConnectionId) {
        let number = self.next();
        self.note(connection, Order { revalidated: number, forgotten: number });
        self.has_forgotten.store(true, Ordering::SeqCst);
    }

    pub(super) fn revalidate_all(&self) {
        self.all[REVALIDATED].fetch_max(self.next(), Ordering::SeqCst);
    }

    pub(super) fn store_is_back(&self) {
        self.all[BACK].fetch_max(self.next(), Ordering::SeqCst);
    }

    /// Whether there was an order to forget since this was last asked.
    pub(super) fn take_forgotten(&self) -> bool {
        self.has_forgotten.swap(false, Ordering::SeqCst)
    }

    /// Whether no orders are kept which [`Orders::prune`] might drop.
    pub(super) fn is_empty(&self) -> bool {
        self.of.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Notes a read before it begins.
    pub(super) fn begin(&self) -> UnderWay<'_> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let began = self.count();
        *under_way.entry(began).or_default() += 1;
        UnderWay { orders: self, began }
    }

    /// The number of orders that no read under way misses.
    pub(super) fn known_to_all(&self) -> u64 {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.keys().next().copied().unwrap_or_else(|| self.count())
    }

    /// Drops the orders that bar nothing any more: those up to `known`, without an entry that `is_needed` knows of. The number
    /// is to be taken before the entries are looked at: what is under way then may become an entry later.
    pub(super) fn prune(&self, known: u64, is_needed: impl Fn(ConnectionId) -> bool) {
        let mut of = self.of.write().unwrap_or_else(PoisonError::into_inner);
        of.retain(|connection, order| order.revalidated > known || is_needed(*connection));
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn note(&self, connection: ConnectionId, new: Order) {
        let mut of = self.of.write().unwrap_or_else(PoisonError::into_inner);
        if of.len() >= limits::SECRET_ORDERS_MAX {
            // One order for all takes the place of so many.
            let forgotten = of.values().map(|order| order.forgotten).max().unwrap_or(0);
            self.all[REVALIDATED].fetch_max(new.revalidated, Ordering::SeqCst);
            self.all[FORGOTTEN].fetch_max(forgotten, Ordering::SeqCst);
            of.clear();
        }
        let order = of.entry(connection).or_insert(new);
        order.revalidated = order.revalidated.max(new.revalidated);
        order.forgotten = order.forgotten.max(new.forgotten);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = self.orders.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = under_way.entry(self.began) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
