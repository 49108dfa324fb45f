//! Addresses that secrets are sent to, and which of them people decide.

use url::{Host, Url};

use super::pattern::{Filled, Pattern};
use super::secret::{ExposeSecret, SecretFields};

/// Why there is no address to send something to. Names fields, never their values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    #[error("the connection has no field {0:?}")]
    FieldMissing(String),
    #[error("the field {0:?} cannot be a part of the address")]
    FieldOdd(String),
    #[error("what its fields make of the address is no http or https URL")]
    NotUrl,
}

/// Where a pattern leads. It may hold a secret, so it is not to be logged.
///
/// What people type cannot send the credential to another host than the pattern says: a field inside of it adds letters,
/// digits and a few marks; only one that starts it may be a URL of its own.
pub fn address(pattern: &Pattern, fields: &SecretFields) -> Result<Url, NoAddress> {
    let mut text = String::new();
    let mut parts = pattern.parts().peekable();
    while let Some(part) = parts.next() {
        let name = match part {
            Filled::Text(literal) => {
                text.push_str(literal);
                continue;
            }
            Filled::Field(name) => name,
        };
        let value = fields.get(name).ok_or_else(|| NoAddress::FieldMissing(name.to_owned()))?.expose_secret();
        let is_last = parts.peek().is_none();
        let fits = if text.is_empty() { is_base_url(value, is_last) } else { is_plain(value) };
        if !fits {
            return Err(NoAddress::FieldOdd(name.to_owned()));
        }
        text.push_str(if text.is_empty() && !is_last { value.trim_end_matches('/') } else { value });
    }
    let url = Url::parse(&text).map_err(|_| NoAddress::NotUrl)?;
    if is_http(&url) { Ok(url) } else { Err(NoAddress::NotUrl) }
}

/// The fields that choose the host: one that starts the pattern, and one inside of the host behind which stands no domain of
/// the pattern's own. `https://{shop}.example.com/…` has none.
pub fn host_fields(pattern: &Pattern) -> Vec<&str> {
    let mut chosen = Vec::new();
    let mut before = String::new();
    let mut parts = pattern.parts().peekable();
    while let Some(part) = parts.next() {
        match part {
            Filled::Text(literal) => before.push_str(literal),
            Filled::Field(name) => {
                let behind = match parts.peek() {
                    Some(Filled::Text(literal)) => literal.split(['/', '?', '#']).next().unwrap_or_default(),
                    _ => "",
                };
                let is_beneath_a_domain = behind.starts_with('.') && behind.matches('.').count() > 1;
                let is_in_host = before.split_once("://").is_none_or(|(_, rest)| !rest.contains('/'));
                if is_in_host && (before.is_empty() || !is_beneath_a_domain) {
                    chosen.push(name);
                }
                before.push('x');
            }
        }
    }
    chosen
}

fn is_base_url(value: &str, is_whole: bool) -> bool {
    let fits = |url: Url| is_http(&url) && url.fragment().is_none() && (is_whole || url.query().is_none());
    Url::parse(value).is_ok_and(fits)
}

fn is_http(url: &Url) -> bool {
    let has_login = !url.username().is_empty() || url.password().is_some();
    matches!(url.scheme(), "http" | "https") && url.has_host() && !has_login
}

/// Nothing by which a URL's host or path could end, and not a step upwards.
fn is_plain(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-' | b':');
    value.bytes().all(inner) && value.bytes().any(|byte| byte != b'.')
}

/// Whether what is sent to `url` leaves this machine unencrypted.
pub fn crosses_a_network_in_the_clear(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => true,
    };
    url.scheme() == "http" && !is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_chooses_the_host_unless_a_domain_stands_behind_it() {
        let table: [(&str, &[&str]); 9] = [
            ("https://api.example.com/token", &[]),
            ("https://{shop}.example.com/token", &[]),
            ("https://login.example.com/{tenant}/token", &[]),
            ("{base_url}/token", &["base_url"]),
            ("{token_url}", &["token_url"]),
            ("https://{host}/token", &["host"]),
            ("https://{name}.com/token", &["name"]),
            ("https://{name}.{domain}/token", &["name", "domain"]),
            ("https://example.com:{port}/token", &["port"]),
        ];
        for (text, expected) in table {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(host_fields(&pattern), expected, "{text}");
        }
    }

    #[test]
    fn a_field_that_is_the_whole_address_is_taken_as_it_is() {
        let table = [
            ("https://idp.example/token/", Some("https://idp.example/token/")),
            ("https://idp.example/token?tenant=1", Some("https://idp.example/token?tenant=1")),
            ("https://idp.example/token#x", None),
            ("idp.example/token", None),
        ];
        let pattern: Pattern = "{token_url}".parse().unwrap();
        for (value, expected) in table {
            let fields = SecretFields::from([("token_url".to_owned(), value.into())]);
            assert_eq!(address(&pattern, &fields).ok().as_ref().map(Url::as_str), expected, "{value}");
        }
    }

    #[test]
    fn only_plain_http_to_another_machine_does() {
        let table = [
            ("http://vault.example.com:8200", true),
            ("http://10.0.0.1", true),
            ("http://[fe80::1]", true),
            ("https://vault.example.com", false),
            ("http://127.0.0.1:8200", false),
            ("http://[::1]:1", false),
            ("http://localhost", false),
            ("unix:/run/credway.sock", false),
        ];
        for (url, expected) in table {
            assert_eq!(crosses_a_network_in_the_clear(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
