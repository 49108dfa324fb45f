//! The way to a host: its checked addresses, TLS on them, and an HTTP client that knows no other address.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::{Host, Url};

use super::egress::{Checked, Egress, NoWay};
use super::outside::server_name;
use super::report::{Finding, Found, Kind, Run};
use crate::limits;
use crate::model::address::crosses_a_network_in_the_clear;

/// A host and port that somebody named.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub host: Host<String>,
    pub port: u16,
}

impl Place {
    /// Where a URL leads; `None` for one without host or known port.
    pub(super) fn of(url: &Url) -> Option<Self> {
        Some(Self { host: url.host()?.to_owned(), port: url.port_or_known_default()? })
    }

    /// Where `host:port` leads.
    pub(super) fn parse(host: &str, port: u16) -> Option<Self> {
        let host = Host::parse(host.trim()).or_else(|_| Host::parse(&format!("[{}]", host.trim()))).ok()?;
        Some(Self { host, port })
    }

    pub(super) fn borrowed(&self) -> Host<&str> {
        match &self.host {
            Host::Domain(name) => Host::Domain(name),
            Host::Ipv4(address) => Host::Ipv4(*address),
            Host::Ipv6(address) => Host::Ipv6(*address),
        }
    }
}

/// The first two checks: whether the host has addresses, and whether they may be reached.
pub(super) async fn find(egress: &Egress, place: &Place, run: &mut Run) -> Option<Checked> {
    let is_name = matches!(place.host, Host::Domain(_));
    let (found, took) = run.timed(egress.find(&place.borrowed(), place.port)).await;
    let (address, dns) = match found {
        Ok(checked) => {
            let dns = if is_name { Finding::pass(numbered(&checked)) } else { Finding::skipped("it is an address") };
            (Ok((checked, Finding::pass("it may be reached"))), Ok(((), dns)))
        }
        Err(NoWay::Inner(inner)) => (Err(not_allowed(inner.word())), Ok(((), Finding::pass("it has an address")))),
        Err(NoWay::Unknown) => (
            Ok((Checked { addresses: Vec::new() }, Finding::skipped("DNS failed"))),
            Err(Finding::fail("DNS_FAILED", "the host has no address", "check its name, and the DNS of this machine")),
        ),
        Err(NoWay::Silent) => (
            Ok((Checked { addresses: Vec::new() }, Finding::skipped("DNS failed"))),
            Err(Finding::fail("DNS_FAILED", "DNS gave no answer in time", "check the DNS of this machine")),
        ),
    };
    let checked = run.settle(Kind::Address, Duration::ZERO, address);
    run.settle(Kind::Dns, took, dns).and(checked)
}

fn numbered(checked: &Checked) -> String {
    match checked.addresses.len() {
        1 => "it has 1 address".to_owned(),
        several => format!("it has {several} addresses"),
    }
}

fn not_allowed(word: &str) -> Finding {
    let remedy =
        "use a public address; or, if it is meant to be reached, name its network or host in the setting egress.allow";
    Finding::fail("ADDRESS_NOT_ALLOWED", format!("it is {word}, to which nothing is sent"), remedy)
}

/// Connects to the first address that answers.
pub(super) async fn connect(checked: &Checked) -> Result<TcpStream, Finding> {
    let mut last = None;
    for address in &checked.addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error.kind()),
        }
    }
    Err(unreachable(last == Some(std::io::ErrorKind::ConnectionRefused)))
}

pub(super) fn unreachable(is_refused: bool) -> Finding {
    match is_refused {
        true => Finding::fail("UNREACHABLE", "nothing listens at its port", "start it, or correct the port"),
        false => Finding::fail("UNREACHABLE", "it cannot be reached", "check that it runs, and the network between"),
    }
}

/// The check of TLS: the handshake, and how long the certificate is good for. Nothing to do for `http`.
pub(super) async fn tls(url: &Url, checked: &Checked, config: Arc<ClientConfig>, now: Timestamp) -> Found<()> {
    if url.scheme() != "https" {
        return Ok(((), in_the_clear(url)));
    }
    let host = url.host().ok_or_else(|| unreachable(false))?;
    let stream = handshake(connect(checked).await?, &host, config).await?;
    let (_, session) = stream.get_ref();
    let ends = session.peer_certificates().and_then(|chain| chain.first()).and_then(not_after);
    Ok(((), ends.map_or_else(|| Finding::pass("the certificate is good"), |ends| lifetime(ends, now))))
}

/// TLS with `host`, whatever address it was reached at: a name is told to the server, and looked for in its certificate.
pub(super) async fn handshake<S>(
    stream: S,
    host: &Host<&str>,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<S>, Finding>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = server_name(host).ok_or_else(|| unreachable(false))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| untrusted(&error))
}

fn in_the_clear(url: &Url) -> Finding {
    match crosses_a_network_in_the_clear(url) {
        true => {
            Finding::warning("there is none: all that is sent crosses a network in the clear", "serve it with https")
        }
        false => Finding::skipped("it is on this machine, without TLS"),
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

/// What is said of a good certificate that ends then.
fn lifetime(ends: Timestamp, now: Timestamp) -> Finding {
    let days = ends.duration_since(now).as_hours() / 24;
    let reason = format!("the certificate is good for {days} more days");
    match days < limits::CERTIFICATE_DAYS_WARNED {
        true => Finding::warning(reason, "renew it before it ends"),
        false => Finding::pass(reason),
    }
}

fn untrusted(error: &std::io::Error) -> Finding {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let fail = |reason: &str, remedy: &str| Finding::fail("TLS_FAILED", reason, remedy);
    match cause {
        Some(rustls::Error::InvalidCertificate(fault)) => match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                let on = ended(fault).map(|ends| format!(" on {}", ends.strftime("%Y-%m-%d"))).unwrap_or_default();
                fail(&format!("its certificate ended{on}"), "renew the certificate")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                fail("its certificate is not good yet", "check the clocks of both machines")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                fail("its certificate is for another name", "correct the URL, or give it a certificate for this name")
            }
            CertificateError::UnknownIssuer => fail(
                "its certificate is signed by nobody who is trusted here",
                "send the whole chain; or name the authority in the setting egress.ca_file",
            ),
            _ => fail("its certificate cannot be verified", "give it another certificate"),
        },
        _ => fail("the TLS handshake failed", "see whether it speaks TLS 1.2 or 1.3 at this port"),
    }
}

fn ended(fault: &CertificateError) -> Option<Timestamp> {
    let CertificateError::ExpiredContext { not_after, .. } = fault else { return None };
    Timestamp::from_second(i64::try_from(not_after.as_secs()).ok()?).ok()
}

/// An HTTP client that connects to the checked addresses of `place`, whatever DNS says then, and follows no redirect.
pub(super) fn client(
    place: &Place,
    checked: &Checked,
    tls: &ClientConfig,
    deadline: Duration,
) -> Result<reqwest::Client, Finding> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("credway/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(limits::PROBE_TLS_DEADLINE)
        .timeout(deadline)
        .tls_backend_preconfigured(tls.clone());
    if let Host::Domain(name) = &place.host {
        builder = builder.resolve_to_addrs(name, &checked.addresses);
    }
    builder.build().map_err(|_| Finding::fail("INTERNAL", "no HTTP client could be made", "see credway's log"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::report::Outcome;

    #[test]
    fn a_certificate_is_warned_of_before_it_ends() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let table = [
            ("2026-01-20T12:00:00Z", Outcome::Pass, "the certificate is good for 19 more days"),
            ("2026-01-15T12:00:00Z", Outcome::Pass, "the certificate is good for 14 more days"),
            ("2026-01-15T11:00:00Z", Outcome::Warning, "the certificate is good for 13 more days"),
            ("2026-01-01T13:00:00Z", Outcome::Warning, "the certificate is good for 0 more days"),
        ];
        for (ends, outcome, reason) in table {
            let found = lifetime(ends.parse().unwrap(), now);
            assert_eq!((found.outcome, found.reason.as_str()), (outcome, reason));
        }
    }

    #[test]
    fn places_are_read_from_names_and_addresses_of_both_kinds() {
        let table = [
            ("db.internal", Some("db.internal")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("::1", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            // Numbers that resolvers take for addresses are addresses here too.
            ("2130706433", Some("127.0.0.1")),
            ("0x7f.1", Some("127.0.0.1")),
            ("", None),
            ("a b", None),
        ];
        for (text, expected) in table {
            let place = Place::parse(text, 1).map(|place| place.host.to_string());
            assert_eq!(place.as_deref(), expected, "{text}");
        }
    }
}
