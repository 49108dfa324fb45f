//! G10: what a daemon at rest costs those behind it: connections and transactions of the database, requests to Vault.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::daemon;
use crate::kv::Bao;
use crate::load;
use crate::peers;
use crate::postgres::Postgres;
use crate::report::{Report, Target};
use crate::site::Site;

/// How long the daemon rests.
#[derive(Clone, Copy)]
pub(crate) struct Rest {
    /// Until what its start and its last call left behind is gone: uses are written down within a minute, and a database
    /// connection that idles for a minute is closed within the next.
    pub settle: Duration,
    pub window: Duration,
}

/// Polls may be ten seconds apart and no closer.
const PER_MINUTE_MAX: f64 = 6.0;

pub(crate) async fn measure(
    bao: &Bao,
    postgres: &Postgres,
    dir: std::path::PathBuf,
    rest: Rest,
    report: &mut Report,
) -> Result<()> {
    let url = postgres.database().await;
    let vault = Counted::before(bao.address.clone()).await?;
    let site = Arc::new(Site::served(dir, &peers::stores(&vault.address, &url), 1).await?);
    let mut database = Watched::connect(&url).await?;
    // Beside this runtime, on which its way to Vault is.
    let started = Arc::clone(&site);
    let daemon = tokio::task::spawn_blocking(move || daemon::start(&started)).await??;
    let step = site.steps.first().context("a site without instances")?;
    load::answer_of(&daemon.unix, &daemon::request(step), site.token.expose()).await?;

    eprintln!("G10: {} s of rest, after {} s", rest.window.as_secs(), rest.settle.as_secs());
    tokio::time::sleep(rest.settle).await;
    let before = (vault.requests(), database.transactions().await?);
    tokio::time::sleep(rest.window).await;
    let after = (vault.requests(), database.transactions().await?);
    let connections = database.connections().await?;

    let per_minute = |count: u64| (count as f64 * 60.0 / rest.window.as_secs_f64()).round();
    let most = Target::AtMost(PER_MINUTE_MAX);
    report.counted("G10", "database connections of a daemon at rest", connections as f64, Target::AtMost(1.0));
    let transactions = per_minute(after.1.saturating_sub(before.1));
    report.counted("G10", "database statements per minute of a daemon at rest", transactions, most);
    report.counted("G10", "Vault requests per minute of a daemon at rest", per_minute(after.0 - before.0), most);
    tokio::task::spawn_blocking(move || daemon.server.stop()).await?
}

/// A database as its server sees it, from another one.
struct Watched {
    server: PgConnection,
    database: String,
}

impl Watched {
    async fn connect(url: &str) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)?;
        let database = options.get_database().context("the URL names a database")?.to_owned();
        let mut server = options.database("postgres").connect().await?;
        // The server's own housekeeping would be counted with ours.
        sqlx::raw_sql("ALTER SYSTEM SET autovacuum = off").execute(&mut server).await?;
        sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut server).await?;
        Ok(Self { server, database })
    }

    /// A statement outside a transaction is one of its own. A session tells of its transactions within a second or, at rest,
    /// ten; those of one window lie about as long before it as others after it.
    async fn transactions(&mut self) -> Result<u64> {
        let count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
        let count: i64 = sqlx::query_scalar(count).bind(&self.database).fetch_one(&mut self.server).await?;
        Ok(count.cast_unsigned())
    }

    async fn connections(&mut self) -> Result<i64> {
        let count = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'credway'";
        Ok(sqlx::query_scalar(count).bind(&self.database).fetch_one(&mut self.server).await?)
    }
}

/// A way to an HTTP/1.1 server on which requests are counted: its own log leaves out the looks at its health.
struct Counted {
    address: String,
    requests: Arc<AtomicU64>,
}

impl Counted {
    async fn before(server: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, counter) = (server.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    // A connection that breaks is told by what is asked on it.
                    let _ = relay(client, &server, &counter).await;
                });
            }
        });
        Ok(Self { address, requests })
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn relay(mut client: TcpStream, server: &str, requests: &AtomicU64) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let there = async {
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let read = from_client.read(&mut chunk).await?;
            if read == 0 {
                return to_server.shutdown().await;
            }
            // Each request of ours is one write, so its first line is never cut.
            let heads = chunk[..read].windows(HEAD.len()).filter(|window| *window == HEAD).count();
            requests.fetch_add(heads as u64, Ordering::Relaxed);
            to_server.write_all(&chunk[..read]).await?;
        }
    };
    let back = async { tokio::io::copy(&mut from_server, &mut to_client).await.map(drop) };
    tokio::try_join!(there, back).map(drop)
}

/// How the first line of a request ends.
const HEAD: &[u8] = b" HTTP/1.1\r\n";
