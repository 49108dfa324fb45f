//! PostgreSQL and MySQL: a login, and a ping. Only what the credential itself says goes into it: no file, variable or client
//! certificate of this machine, which a connection string could otherwise ask to be used.

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use url::Url;

use super::{STEP, Way, good, malformed, refused, untold};
use crate::model::secret::{ExposeSecret, SecretString};
use crate::probe::egress::Checked;
use crate::probe::reach::{self, Place};
use crate::probe::report::{Finding, Found, Kind, Run};

const POSTGRES_PORT: u16 = 5432;

/// A login in parts.
pub(super) struct Login {
    pub host: SecretString,
    pub port: SecretString,
    pub user: SecretString,
    pub password: SecretString,
    pub database: SecretString,
}

/// What a connection string says.
struct Dsn {
    place: Place,
    user: String,
    password: SecretString,
    database: String,
    mode: PgSslMode,
}

pub(super) async fn postgres(dsn: &SecretString, way: &Way<'_>, run: &mut Run) {
    let dsn = match Dsn::parse(dsn.expose_secret()) {
        Ok(dsn) => dsn,
        Err(finding) => {
            run.fail(Kind::Credential, finding);
            return;
        }
    };
    let checked = reach::find(way.egress, &dsn.place, run).await;
    let asking = async {
        let checked = checked.ok_or_else(|| Finding::skipped("there is no address"))?;
        // The server is told by its address, which no certificate names.
        if matches!(dsn.mode, PgSslMode::VerifyFull) && matches!(dsn.place.host, url::Host::Domain(_)) {
            return Ok(((), Finding::skipped("sslmode=verify-full is not supported by this build")));
        }
        log_in_to_postgres(&dsn, &checked).await
    };
    run.check(Kind::Credential, STEP, asking).await;
}

impl Dsn {
    fn parse(text: &str) -> Result<Self, Finding> {
        let odd = |what: &str| malformed(what, "write it like postgres://user:password@host:5432/database");
        let url = Url::parse(text.trim()).map_err(|_| odd("the connection string is no URL"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(odd("the connection string is no postgres:// URL"));
        }
        // Hosts of unknown schemes are kept as they are written: `parse` knows numbers that are addresses.
        let host = url.host_str().map(decoded).filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| odd("the connection string names no host"))?;
        let place = Place::parse(&host, url.port().unwrap_or(POSTGRES_PORT));
        let place = place.ok_or_else(|| odd("the connection string names no host that could be reached by TCP"))?;
        let parameter =
            |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        if ["host", "hostaddr", "port"].into_iter().any(|name| parameter(name).is_some()) {
            return Err(odd("the connection string names its host twice"));
        }
        let user = Some(decoded(url.username())).filter(|user| !user.is_empty()).or_else(|| parameter("user"));
        let user = user.ok_or_else(|| odd("the connection string names no user"))?;
        let password = url.password().map(decoded).or_else(|| parameter("password")).unwrap_or_default();
        let database = decoded(url.path().trim_start_matches('/'));
        let database = Some(database).filter(|name| !name.is_empty()).or_else(|| parameter("dbname"));
        let mode = parameter("sslmode").map(|mode| mode.parse()).transpose();
        let mode = mode.map_err(|_| odd("the connection string has an unknown sslmode"))?.unwrap_or(PgSslMode::Prefer);
        let database = database.unwrap_or_else(|| user.clone());
        Ok(Self { place, user, password: SecretString::from(password), database, mode })
    }
}

/// Percent-encoding taken off, as connection strings have it.
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

async fn log_in_to_postgres(dsn: &Dsn, checked: &Checked) -> Found<()> {
    let address = checked.addresses.first().ok_or_else(|| reach::unreachable(false))?;
    // What is not set here is taken from the environment of this process: all that could be is set.
    let options = PgConnectOptions::new_without_pgpass()
        .host(&address.ip().to_string())
        .port(address.port())
        .username(&dsn.user)
        .password(dsn.password.expose_secret())
        .database(&dsn.database)
        .application_name("credway")
        .ssl_mode(dsn.mode)
        .disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await.map_err(|error| postgres_finding(&error))?;
    connection.ping().await.map_err(|error| postgres_finding(&error))?;
    // The answer is in: a leave that is not taken changes nothing.
    let _ = connection.close().await;
    Ok(((), good("login")))
}

fn postgres_finding(error: &sqlx::Error) -> Finding {
    let Some(code) = error.as_database_error().and_then(|error| error.code()) else { return transport(error) };
    match code.as_ref() {
        "28000" | "28P01" => refused(&code),
        "3D000" => {
            Finding::fail("DATABASE_MISSING", "the server has no such database", "correct the connection string")
        }
        "42501" => refused(&code),
        code => untold(&format!("the server answers with SQLSTATE {code}")),
    }
}

pub(super) async fn mysql(login: &Login, way: &Way<'_>, run: &mut Run) {
    let port = login.port.expose_secret().trim().parse().ok();
    let Some(place) = port.and_then(|port| Place::parse(login.host.expose_secret(), port)) else {
        let finding = malformed("host and port are not of the right form", "correct the fields in the connection");
        run.fail(Kind::Credential, finding);
        return;
    };
    let checked = reach::find(way.egress, &place, run).await;
    let asking = async {
        let checked = checked.ok_or_else(|| Finding::skipped("there is no address"))?;
        log_in_to_mysql(login, &checked).await
    };
    run.check(Kind::Credential, STEP, asking).await;
}

async fn log_in_to_mysql(login: &Login, checked: &Checked) -> Found<()> {
    let address = checked.addresses.first().ok_or_else(|| reach::unreachable(false))?;
    let options = MySqlConnectOptions::new()
        .host(&address.ip().to_string())
        .port(address.port())
        .username(login.user.expose_secret())
        .password(login.password.expose_secret())
        .database(login.database.expose_secret())
        .disable_statement_logging();
    let mut connection = MySqlConnection::connect_with(&options).await.map_err(|error| mysql_finding(&error))?;
    connection.ping().await.map_err(|error| mysql_finding(&error))?;
    let _ = connection.close().await;
    Ok(((), good("login")))
}

fn mysql_finding(error: &sqlx::Error) -> Finding {
    let database_error = error.as_database_error();
    let number = database_error.and_then(|error| error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>());
    match number.map(sqlx::mysql::MySqlDatabaseError::number) {
        // Access denied, for the user or for the database.
        Some(number @ (1044 | 1045 | 1698)) => refused(&number.to_string()),
        Some(1049) => {
            Finding::fail("DATABASE_MISSING", "the server has no such database", "correct the database's name")
        }
        Some(number) => untold(&format!("the server answers with error {number}")),
        None => transport(error),
    }
}

fn transport(error: &sqlx::Error) -> Finding {
    match error {
        sqlx::Error::Io(error) => reach::unreachable(error.kind() == std::io::ErrorKind::ConnectionRefused),
        sqlx::Error::Tls(_) => {
            Finding::fail("TLS_FAILED", "the TLS handshake failed", "see the server's certificate, and sslmode")
        }
        _ => untold("the server speaks in another way than expected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_says_only_where_and_who() {
        let dsn = Dsn::parse("postgres://u%40x:p%2Fw@db.example:6432/shop?sslmode=require&sslkey=/etc/shadow").unwrap();
        assert_eq!((dsn.place.host.to_string().as_str(), dsn.place.port), ("db.example", 6432));
        assert_eq!((dsn.user.as_str(), dsn.password.expose_secret(), dsn.database.as_str()), ("u@x", "p/w", "shop"));
        assert!(matches!(dsn.mode, PgSslMode::Require));
        let short = Dsn::parse("postgresql://u@[::1]").unwrap();
        assert_eq!(
            (short.place.host.to_string().as_str(), short.place.port, short.database.as_str()),
            ("[::1]", 5432, "u")
        );
        // Numbers that stand for addresses are addresses.
        assert_eq!(Dsn::parse("postgres://u@2130706433/").unwrap().place.host.to_string(), "127.0.0.1");
    }

    #[test]
    fn connection_strings_that_lead_elsewhere_are_refused() {
        for text in [
            "host=db user=u",
            "mysql://u:canary@db/x",
            "postgres:///x",
            "postgres://%2Fvar%2Frun%2Fpostgresql/x",
            "postgres://u:canary@db/x?host=/tmp",
            "postgres://u:canary@db/x?hostaddr=169.254.169.254",
            "postgres://u:canary@db/x?sslmode=odd",
            "postgres://db/x",
        ] {
            let finding = Dsn::parse(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(!format!("{finding:?}").contains("canary"), "{finding:?}");
        }
    }
}
