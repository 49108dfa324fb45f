//! PostgreSQL: a login, and an empty query. Only what the connection string says goes into it: nothing of this process's
//! environment (`PGOPTIONS`, `PGSSLCERT`), and no file of this machine that the string names.
//!
//! TLS is done here and not by the driver, so that the connection goes to the checked address and the certificate is still
//! held against the host's name.

use std::str::FromStr;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_postgres::{Config, NoTls};
use url::Url;

use super::{STEP, Way, good, malformed, refused, untold};
use crate::model::secret::{ExposeSecret, SecretString};
use crate::probe::egress::Checked;
use crate::probe::reach::{self, Place};
use crate::probe::report::{Finding, Found, Kind, Run};
use crate::probe::tls::Tls;

const DEFAULT_PORT: u16 = 5432;

/// What a connection string says.
struct Dsn {
    place: Place,
    user: String,
    password: SecretString,
    database: String,
    encryption: Encryption,
}

/// What `sslmode` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    /// `disable`; and `allow`, which asks for TLS only if the server insists.
    Never,
    /// `prefer`, which is what is meant if nothing is said.
    IfOffered,
    /// `require`, whatever the certificate is.
    Unverified,
    /// `verify-ca`.
    Signed,
    /// `verify-full`.
    Named,
}

impl FromStr for Encryption {
    type Err = ();

    fn from_str(mode: &str) -> Result<Self, ()> {
        Ok(match mode {
            "disable" | "allow" => Self::Never,
            "prefer" => Self::IfOffered,
            "require" => Self::Unverified,
            "verify-ca" => Self::Signed,
            "verify-full" => Self::Named,
            _ => return Err(()),
        })
    }
}

impl Encryption {
    /// How the server's certificate is judged; `None` where there is no TLS.
    fn config(self, tls: &Tls) -> Option<Arc<ClientConfig>> {
        let config = match self {
            Self::Never => return None,
            Self::IfOffered | Self::Unverified => &tls.any,
            Self::Signed => &tls.signed,
            Self::Named => &tls.named,
        };
        Some(Arc::clone(config))
    }
}

pub(super) async fn attempt(dsn: &SecretString, way: &Way<'_>, run: &mut Run) {
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
        let stream = open(&dsn, &checked, way.tls).await?;
        log_in(&dsn, stream).await
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
        let place = Place::parse(&host, url.port().unwrap_or(DEFAULT_PORT));
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
        let encryption = parameter("sslmode").map_or(Ok(Encryption::IfOffered), |mode| mode.parse());
        let encryption = encryption.map_err(|()| odd("the connection string has an unknown sslmode"))?;
        let database = database.unwrap_or_else(|| user.clone());
        Ok(Self { place, user, password: SecretString::from(password), database, encryption })
    }
}

/// Percent-encoding taken off, as connection strings have it.
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A connection, with TLS on it or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects, and asks for TLS as the protocol has it: by a message of its own, which the server answers with one letter.
async fn open(dsn: &Dsn, checked: &Checked, tls: &Tls) -> Result<Box<dyn Stream>, Finding> {
    const ASK_FOR_TLS: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let mut stream = reach::connect(checked).await?;
    let Some(config) = dsn.encryption.config(tls) else { return Ok(Box::new(stream)) };
    let stranger = |_| Finding::fail("NOT_POSTGRES", "what answers there is no PostgreSQL", "correct host and port");
    stream.write_all(&ASK_FOR_TLS).await.map_err(stranger)?;
    match stream.read_u8().await.map_err(stranger)? {
        b'S' => Ok(Box::new(reach::handshake(stream, &dsn.place.borrowed(), config).await?)),
        b'N' if dsn.encryption == Encryption::IfOffered => Ok(Box::new(stream)),
        b'N' => {
            let reason = "the server does without TLS, which the connection string asks for";
            Err(Finding::fail("TLS_FAILED", reason, "switch TLS on at the server, or correct sslmode"))
        }
        _ => Err(stranger(std::io::ErrorKind::InvalidData.into())),
    }
}

async fn log_in(dsn: &Dsn, stream: Box<dyn Stream>) -> Found<()> {
    let mut config = Config::new();
    config.user(&dsn.user).password(dsn.password.expose_secret()).dbname(&dsn.database).application_name("credway");
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(|error| finding(&error))?;
    let ask = async move { client.simple_query("").await };
    // It ends when the client is gone. How it does changes nothing: the answer is in.
    let (asked, _) = tokio::join!(ask, connection);
    asked.map_err(|error| finding(&error))?;
    Ok(((), good("login")))
}

fn finding(error: &tokio_postgres::Error) -> Finding {
    match error.code().map(|state| state.code()) {
        Some(code @ ("28000" | "28P01" | "42501")) => refused(code),
        Some("3D000") => {
            Finding::fail("DATABASE_MISSING", "the server has no such database", "correct the connection string")
        }
        Some(code) => untold(&format!("the server answers with SQLSTATE {code}")),
        None => untold("the server speaks in another way than expected"),
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
        assert_eq!(dsn.encryption, Encryption::Unverified);
        let short = Dsn::parse("postgresql://u@[::1]").unwrap();
        assert_eq!(
            (short.place.host.to_string().as_str(), short.place.port, short.database.as_str()),
            ("[::1]", 5432, "u")
        );
        assert_eq!(short.encryption, Encryption::IfOffered);
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
