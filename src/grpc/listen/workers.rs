//! The threads on which connections are served: one for each CPU, each with a runtime of its own. A call that is answered from
//! memory then never leaves its thread, and waking another would cost more than answering it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The workers of one daemon. Clones share them.
#[derive(Clone, Debug)]
pub struct Workers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    runtimes: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts one for each CPU that we may use. They end at `stop`, with whatever is still on them.
    pub fn start(stop: &CancellationToken) -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let runtimes = (0..count).map(|number| start_one(number, stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self(Arc::new(Shared { runtimes, next: AtomicUsize::new(0) })))
    }

    /// The one whose turn it is.
    pub(super) fn next(&self) -> &Handle {
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        &self.0.runtimes[turn % self.0.runtimes.len()]
    }
}

fn start_one(number: usize, stop: CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(format!("grpc-{number}")).spawn(move || runtime.block_on(stop.cancelled()))?;
    Ok(handle)
}
