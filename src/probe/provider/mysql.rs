//! MySQL and its kin: a login, and a ping. Nothing of this machine goes into it: no file, variable or client certificate.

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError};
use sqlx::{ConnectOptions, Connection};

use super::{STEP, Way, good, malformed, refused, untold};
use crate::model::secret::{ExposeSecret, SecretString};
use crate::probe::egress::Checked;
use crate::probe::reach::{self, Place};
use crate::probe::report::{Finding, Found, Kind, Run};

pub(super) struct Login {
    pub host: SecretString,
    pub port: SecretString,
    pub user: SecretString,
    pub password: SecretString,
    pub database: SecretString,
}

pub(super) async fn attempt(login: &Login, way: &Way<'_>, run: &mut Run) {
    let port = login.port.expose_secret().trim().parse().ok();
    let Some(place) = port.and_then(|port| Place::parse(login.host.expose_secret(), port)) else {
        let finding = malformed("host and port are not of the right form", "correct the fields in the connection");
        run.fail(Kind::Credential, finding);
        return;
    };
    let checked = reach::find(way.egress, &place, run).await;
    let asking = async {
        let checked = checked.ok_or_else(|| Finding::skipped("there is no address"))?;
        log_in(login, &checked).await
    };
    run.check(Kind::Credential, STEP, asking).await;
}

/// Tries the addresses in turn, as long as nobody answers.
async fn log_in(login: &Login, checked: &Checked) -> Found<()> {
    let mut last = reach::unreachable(false);
    for address in &checked.addresses {
        let options = MySqlConnectOptions::new()
            .host(&address.ip().to_string())
            .port(address.port())
            .username(login.user.expose_secret())
            .password(login.password.expose_secret())
            .database(login.database.expose_secret())
            .disable_statement_logging();
        let mut connection = match MySqlConnection::connect_with(&options).await {
            Ok(connection) => connection,
            Err(error @ sqlx::Error::Io(_)) => {
                last = finding(&error);
                continue;
            }
            Err(error) => return Err(finding(&error)),
        };
        connection.ping().await.map_err(|error| finding(&error))?;
        // The answer is in: a leave that is not taken changes nothing.
        let _ = connection.close().await;
        return Ok(((), good("login")));
    }
    Err(last)
}

fn finding(error: &sqlx::Error) -> Finding {
    match error {
        sqlx::Error::Database(error) => match error.try_downcast_ref().map(MySqlDatabaseError::number) {
            // Access denied: for the user, for the database, or because the user comes in another way than by a password.
            Some(number @ (1044 | 1045 | 1698)) => refused(&number.to_string()),
            Some(1049) => {
                Finding::fail("DATABASE_MISSING", "the server has no such database", "correct the database's name")
            }
            Some(number) => untold(&format!("the server answers with error {number}")),
            None => untold("the server answers with an error"),
        },
        sqlx::Error::Io(error) => reach::unreachable(error.kind() == std::io::ErrorKind::ConnectionRefused),
        sqlx::Error::Tls(_) => {
            Finding::fail("TLS_FAILED", "the TLS handshake failed", "see the server's certificate, and its log")
        }
        _ => untold("the server speaks in another way than expected"),
    }
}
