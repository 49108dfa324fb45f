//! Redis: AUTH if there is a password, SELECT if there is a database, and PING (RESP 2, which every version speaks).

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{STEP, Way, good, malformed, refused, untold};
use crate::limits;
use crate::model::secret::{ExposeSecret, SecretString};
use crate::probe::egress::Checked;
use crate::probe::reach::{self, Place};
use crate::probe::report::{Finding, Found, Kind, Run};

const DEFAULT_PORT: u16 = 6379;

pub(super) struct Login {
    /// `host:port`.
    pub address: SecretString,
    pub username: Option<SecretString>,
    pub password: Option<SecretString>,
    pub database: Option<SecretString>,
}

pub(super) async fn attempt(login: &Login, way: &Way<'_>, run: &mut Run) {
    let Some(place) = place(login.address.expose_secret()) else {
        let finding = malformed("its address is not of the form host:port", "correct the field in the connection");
        run.fail(Kind::Credential, finding);
        return;
    };
    let checked = reach::find(way.egress, &place, run).await;
    let asking = async {
        let checked = checked.ok_or_else(|| Finding::skipped("there is no address"))?;
        talk(login, &checked).await
    };
    run.check(Kind::Credential, STEP, asking).await;
}

fn place(address: &str) -> Option<Place> {
    match address.trim().rsplit_once(':') {
        // An IPv6 address without a port has colons of its own.
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => Place::parse(address, DEFAULT_PORT),
        Some((host, port)) if !address.trim().ends_with(']') => Place::parse(host, port.parse().ok()?),
        _ => Place::parse(address, DEFAULT_PORT),
    }
}

async fn talk(login: &Login, checked: &Checked) -> Found<()> {
    let mut stream = BufReader::new(reach::connect(checked).await?);
    if let Some(password) = &login.password {
        let mut words = vec!["AUTH"];
        words.extend(login.username.as_ref().map(ExposeSecret::expose_secret));
        words.push(password.expose_secret());
        match ask(&mut stream, &words).await?.as_str() {
            "+OK" => {}
            error if is_refusal(error) => return Err(refused(code(error))),
            // A server without a password lets everybody in, and says so.
            "-ERR" => return Ok(((), untold("the server takes no password"))),
            _ => return Ok(((), untold("the server answers AUTH with something else than yes or no"))),
        }
    }
    if let Some(database) = &login.database
        && ask(&mut stream, &["SELECT", database.expose_secret()]).await? != "+OK"
    {
        let reason = "it has no database of that number, or this user may not use it";
        return Err(Finding::fail("DATABASE_MISSING", reason, "correct the number of the database"));
    }
    match ask(&mut stream, &["PING"]).await?.as_str() {
        "+PONG" => Ok(((), good("PING"))),
        error if is_refusal(error) => Err(refused(code(error))),
        _ => Ok(((), untold("the server answers PING with an error"))),
    }
}

/// Sends one command; its answer's first word is all that is looked at, since the others may quote what was sent.
async fn ask(stream: &mut BufReader<TcpStream>, words: &[&str]) -> Result<String, Finding> {
    let mut command = zeroize::Zeroizing::new(format!("*{}\r\n", words.len()));
    for word in words {
        command.push_str(&format!("${}\r\n", word.len()));
        command.push_str(word);
        command.push_str("\r\n");
    }
    let broken = |_| Finding::fail("NOT_REDIS", "what answers there is no Redis", "correct host and port");
    stream.write_all(command.as_bytes()).await.map_err(broken)?;
    let mut line = Vec::new();
    let most = limits::PROBE_BODY_BYTES_MAX as u64;
    (&mut *stream).take(most).read_until(b'\n', &mut line).await.map_err(broken)?;
    let line = String::from_utf8_lossy(&line);
    match line.split_ascii_whitespace().next() {
        Some(word) if word.starts_with(['+', '-']) => Ok(word.to_owned()),
        _ => Err(Finding::fail("NOT_REDIS", "what answers there is no Redis", "correct host and port")),
    }
}

fn is_refusal(word: &str) -> bool {
    matches!(word, "-WRONGPASS" | "-NOAUTH" | "-NOPERM" | "-DENIED")
}

fn code(word: &str) -> &str {
    word.trim_start_matches('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port_or_get_the_usual_one() {
        let table = [
            ("127.0.0.1:6380", Some(("127.0.0.1", 6380))),
            ("cache.internal", Some(("cache.internal", 6379))),
            ("[::1]:7000", Some(("[::1]", 7000))),
            ("[::1]", Some(("[::1]", 6379))),
            ("::1", Some(("[::1]", 6379))),
            ("cache:no", None),
            ("redis://cache:1", None),
        ];
        for (text, expected) in table {
            let found = place(text).map(|place| (place.host.to_string(), place.port));
            assert_eq!(found.as_ref().map(|(host, port)| (host.as_str(), *port)), expected, "{text}");
        }
    }
}
