//! Who refreshes a connection's tokens: a courtesy among daemons, by the clock of their database.

use std::time::Duration;

use credway::config;
use credway::model::id::ConnectionId;
use credway::model::secret::ExposeSecret;
use sqlx::{Connection, PgConnection};

use super::Fresh;

const SPAN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_for_one_daemon_until_it_is_over_or_cannot_be_true() {
    let fresh = Fresh::postgres().await;
    let connection = ConnectionId::generate();
    let take = async |owner: &str| fresh.store.refresh_lease_take(connection, owner, SPAN).await.unwrap();
    assert!(take("a").await && take("a").await);
    assert!(!take("b").await);
    fresh.store.refresh_lease_release(connection, "b").await.unwrap();
    assert!(!take("b").await, "it is a's to release");
    fresh.store.refresh_lease_release(connection, "a").await.unwrap();
    assert!(take("b").await);
    set_end(&fresh.database, "0").await;
    assert!(take("a").await, "it is over");
    // Whoever took it had a clock of its own that is an hour ahead, and is gone.
    set_end(&fresh.database, "ends_at + 3600000000").await;
    assert!(take("b").await, "no lease is that long");
}

async fn set_end(database: &config::Database, end: &'static str) {
    let config::Database::Postgres { url } = database else { panic!("{database:?}") };
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    let statement = format!("UPDATE refresh_leases SET ends_at = {end}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
}
