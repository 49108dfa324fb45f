//! G3: a resolve against what it spares its callers, a read from OpenBao.

use std::path::Path;
use std::rc::Rc;

use anyhow::Result;

use crate::kv::{self, Bao};
use crate::load::{Calls, Client, Load, Shape};
use crate::process::{Pinned, Side};
use crate::report::{Report, Target};
use crate::rounds::{Contest, Contestant, Pace};
use crate::wire::{CLIENT_CPU, MANY, ONE, SERVER_CPU};

const DAEMON: usize = 0;
const BAO: usize = 1;

/// The daemon over its Unix socket, as an executor reaches it; OpenBao over loopback, as everyone does.
pub(crate) async fn compare(
    daemon: &Side,
    calls: &Rc<Calls>,
    bao: &Bao,
    pace: Pace,
    report: &mut Report,
) -> Result<()> {
    bao.fill().await?;
    let many = contest(daemon, calls, bao, (MANY, CLIENT_CPU), pace).await?;
    let requests = many.ratio(DAEMON, BAO, |score| score.requests_per_second);
    report.measured("G3", "requests / OpenBao KV v2 read, 64 in flight", requests, "x", Target::AtLeast(18.0));
    let one = contest(daemon, calls, bao, (ONE, SERVER_CPU), pace).await?;
    let p50 = one.ratio(DAEMON, BAO, |score| score.p50);
    report.measured("G3", "p50 / OpenBao KV v2 read, 1 in flight", p50, "x", Target::None);
    Ok(())
}

/// What of G3 this bench has no peer for.
pub(crate) fn skip_others(report: &mut Report) {
    report.skipped("G3", "requests / cached read of the OpenBao proxy", "no proxy is started");
    report.skipped("G3", "requests and p50 / \"3 SQL + 1 KV\"", "no server that works so is there");
}

async fn contest(
    daemon: &Side,
    calls: &Rc<Calls>,
    bao: &Bao,
    (shape, client_cpu): (Shape, usize),
    pace: Pace,
) -> Result<Contest> {
    let in_flight = shape.connections * shape.streams;
    eprintln!("G3: {in_flight} in flight");
    let _pinned = Pinned::to(client_cpu)?;
    daemon.server.pin(SERVER_CPU)?;
    bao.server.pin(SERVER_CPU)?;
    let resolves = Client::connect(&daemon.unix, shape, Rc::clone(calls)).await?;
    resolves.each_once().await?;
    let reads = kv::reader(&bao.address, in_flight).await?;
    let side = |server, client: Box<dyn Load>| Contestant { server, client };
    let mut contestants = [side(&daemon.server, Box::new(resolves)), side(&bao.server, Box::new(reads))];
    Contest::run(&mut contestants, pace).await
}

/// Whether there is a PostgreSQL to start; where, `tests/it/support/postgres.rs` knows.
pub(crate) fn has_postgres() -> bool {
    std::env::var_os("CREDWAY_TEST_PG_BIN").is_some() || Path::new("/usr/lib/postgresql").is_dir()
}

/// The part of a config file that names the OpenBao at `bao` and a PostgreSQL database as stores.
pub(crate) fn stores(bao: &str, database_url: &str) -> String {
    format!(
        "[database]\nurl = {database_url:?}\n[secret_store]\nkind = \"vault\"\n[secret_store.vault]\n\
         address = \"http://{bao}\"\nmount = \"secret\"\nprefix = \"credway\"\n\
         [secret_store.vault.auth]\nmethod = \"token\"\ntoken = {:?}\n",
        kv::ROOT_TOKEN
    )
}
