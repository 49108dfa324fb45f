//! The stores that a command works on directly, opened as the daemon opens them.

use std::time::Duration;

use secrecy::SecretString;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::failure::{Exit, Failure};
use crate::app::backends::{self, Backends};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::Control;
use crate::templates::Catalogue;

/// How long a command waits for the stores to answer before it says that they don't.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// Open stores, and the operations on them. Ends with `close`, which gives our own token back.
pub(super) struct Workspace {
    pub control: Control,
    tasks: TaskTracker,
    stop: CancellationToken,
}
