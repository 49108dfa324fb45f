//! How each kind of setting is written. What is wrong with one is said without quoting it: it may be a misplaced secret.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use secrecy::SecretString;
use url::Url;

use super::{CachePolicy, Database, EgressRule, LogFormat, ServeRole, WhenFull};
use crate::limits;
use crate::model::address::crosses_a_network_in_the_clear;
use crate::model::name::Slug;
use crate::model::secret::LeasePattern;
use crate::model::server::CanonicalUrl;

/// What is wrong with a value, continuing a sentence about the setting, and how to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub problem: &'static str,
    pub remedy: &'static str,
}

const fn wrong(problem: &'static str, remedy: &'static str) -> Wrong {
    Wrong { problem, remedy }
}

/// A listener that may be turned off by the word `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listener<T> {
    Off,
    On(T),
}

pub(super) fn text(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() {
        return Err(wrong("is empty", "give it a value or leave it out"));
    }
    Ok(text.to_owned())
}

pub(super) fn secret(value: &str) -> Result<SecretString, Wrong> {
    text(value.trim()).map(SecretString::from)
}

pub(super) fn path(value: &str) -> Result<PathBuf, Wrong> {
    text(value).map(PathBuf::from)
}

/// A path, or the word `off`.
pub(super) fn path_or_off(value: &str) -> Result<Option<PathBuf>, Wrong> {
    if value == "off" { Ok(None) } else { path(value).map(Some) }
}

/// `30s`, `500ms`, `2m`, `1h 30m`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let parsed = SignedDuration::from_str(text).ok().and_then(|span| Duration::try_from(span).ok());
    parsed.ok_or(wrong("is not a duration", r#"write it like "30s", "500ms" or "2m""#))
}

pub(super) fn role(text: &str) -> Result<ServeRole, Wrong> {
    let role = ServeRole::ALL.into_iter().find_map(|(role, name)| (name == text).then_some(role));
    role.ok_or(wrong("is not a role", r#"write "all" (the default), "sidecar" or "control""#))
}

/// Bytes as a number, or with a unit: `256MiB`.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, bytes) = unit.unwrap_or((text, 1));
    let size = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(bytes));
    size.ok_or(wrong("is not a size", r#"write bytes as a number, or with a unit like "64KiB", "256MiB" or "1GiB""#))
}

/// A size as people write it.
pub(super) fn size_text(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{}MiB", bytes >> 20) } else { bytes.to_string() }
}

pub(super) fn count(text: &str) -> Result<u64, Wrong> {
    text.parse().map_err(|_| wrong("is not a whole number", "write it in digits, like 4096"))
}

pub(super) fn ratio(text: &str) -> Result<f64, Wrong> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or(wrong("is not a share between 0 and 1", "write 0.01 for one call in a hundred"))
}

pub(super) fn flag(text: &str) -> Result<bool, Wrong> {
    text.parse().map_err(|_| wrong("is neither true nor false", "write true or false"))
}

pub(super) fn tcp_listener(text: &str) -> Result<Listener<SocketAddr>, Wrong> {
    if text == "off" {
        return Ok(Listener::Off);
    }
    let address = text.parse().map(Listener::On);
    address
        .map_err(|_| wrong("is not an address", r#"write IP and port like "127.0.0.1:8421" or "[::1]:8421", or "off""#))
}

pub(super) fn socket_listener(text: &str) -> Result<Listener<PathBuf>, Wrong> {
    if text == "off" {
        return Ok(Listener::Off);
    }
    if text.len() > limits::UNIX_SOCKET_PATH_BYTES_MAX {
        return Err(wrong("is longer than the 107 bytes that the system allows", "choose a shorter path"));
    }
    path(text).map(Listener::On)
}

/// Permission bits in octal: `0660`.
pub(super) fn mode(text: &str) -> Result<u32, Wrong> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or(wrong("is not a file mode", r#"write permission bits in octal, like "0660""#))
}

pub(super) fn database(text: &str) -> Result<Database, Wrong> {
    const FORMS: &str = r#"write "postgres://user@host/database" or "sqlite:/path/to/credway.db""#;
    if let Some(rest) = text.strip_prefix("sqlite:") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path == ":memory:" || path.contains('?') {
            return Err(wrong(
                "is not the path of a SQLite file",
                r#"write "sqlite:/path/to/credway.db", without parameters"#,
            ));
        }
        return Ok(Database::Sqlite { path: PathBuf::from(path) });
    }
    let url = Url::parse(text).map_err(|_| wrong("is not a database URL", FORMS))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(wrong("names a database that is neither PostgreSQL nor SQLite", FORMS));
    }
    Ok(Database::Postgres { url: text.into() })
}

/// An http or https address without user and password: settings like it are shown.
pub(super) fn web_url(text: &str) -> Result<Url, Wrong> {
    const FORM: &str = r#"write it like "https://vault.example.com:8200""#;
    let url = Url::parse(text).map_err(|_| wrong("is not a URL", FORM))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("is not an http or https URL", FORM));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("holds a user or password, which are not used there", "leave them out"));
    }
    Ok(url)
}

/// Where browsers reach this daemon. Codes and cookies go there, so it is https, or on this machine.
pub(super) fn public_url(text: &str) -> Result<Url, Wrong> {
    let url = web_url(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("holds a query or fragment", r#"write it like "https://credway.example.com""#));
    }
    if crosses_a_network_in_the_clear(&url) {
        return Err(wrong("is http, and not on this machine", "serve it with https"));
    }
    Ok(url)
}

/// A URL below which servers are reached.
pub(super) fn server_url(text: &str) -> Result<CanonicalUrl, Wrong> {
    const FORM: &str = r#"write it like "https://mcp.example.com": no user, password, query or fragment"#;
    text.parse().map_err(|_| wrong("is not the URL of a server", FORM))
}

/// A path inside Vault: `secret`, `team/secret`.
pub(super) fn vault_path(text: &str) -> Result<String, Wrong> {
    let is_plain = |part: &str| {
        let characters = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        !part.is_empty() && characters && !matches!(part, "." | "..")
    };
    if !text.split('/').all(is_plain) {
        return Err(wrong(
            "is not a path in Vault",
            r#"write it like "secret" or "team/secret": no slash at either end"#,
        ));
    }
    Ok(text.to_owned())
}

/// Patterns of the paths that credentials may be leased from.
pub(super) fn lease_paths(text: &str) -> Result<Vec<LeasePattern>, Wrong> {
    const FORM: &str = r#"write them like ["database/creds/{tenant}_*"]: paths with at most a * at the end; {tenant} and {project} are followed by /, _ or ., or by nothing"#;
    let patterns = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::parse);
    patterns.collect::<Result<_, _>>().map_err(|_| wrong("is not a list of paths in Vault", FORM))
}

/// What the log shows: a level, or levels by target.
pub(super) fn log_level(text: &str) -> Result<String, Wrong> {
    if is_log_filter(text) {
        return Ok(text.to_owned());
    }
    Err(wrong(
        "is not a log filter",
        r#"write a level (error, warn, info, debug, trace), or levels by target like "info,credway=debug""#,
    ))
}

/// Whether tracing-subscriber reads `text` as it was meant: a mistyped level alone would be taken for a target.
pub fn is_log_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |part: &str| LEVELS.contains(&part.to_ascii_lowercase().as_str());
    let is_directive = |part: &str| part.contains(['=', '[']) || is_level(part.trim());
    let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
    text.split(',').all(is_directive) && parsed.is_ok()
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, Wrong> {
    match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err(wrong("is not a log format", r#"write "json" or "text""#)),
    }
}

/// The kind of the secret store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreKind {
    Sealed,
    Vault,
}

pub(super) fn store_kind(text: &str) -> Result<StoreKind, Wrong> {
    match text {
        "sealed" => Ok(StoreKind::Sealed),
        "vault" => Ok(StoreKind::Vault),
        _ => Err(wrong(
            "is not a kind of secret store",
            r#"write "sealed" (the default), or "vault" for Vault or OpenBao"#,
        )),
    }
}

/// The word for a way to log in to Vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthMethod {
    Token,
    TokenFile,
    AppRole,
    Kubernetes,
    Cert,
}

pub(super) fn auth_method(text: &str) -> Result<AuthMethod, Wrong> {
    match text {
        "token" => Ok(AuthMethod::Token),
        "token_file" => Ok(AuthMethod::TokenFile),
        "approle" => Ok(AuthMethod::AppRole),
        "kubernetes" => Ok(AuthMethod::Kubernetes),
        "cert" => Ok(AuthMethod::Cert),
        _ => Err(wrong(
            "is not a way to log in to Vault",
            r#"write "token", "token_file", "approle", "kubernetes" or "cert""#,
        )),
    }
}

pub(super) fn cache_policy(text: &str) -> Result<CachePolicy, Wrong> {
    let policy = CachePolicy::ALL.into_iter().find_map(|(policy, name)| (name == text).then_some(policy));
    policy.ok_or(wrong("is not a policy", r#"write "availability" (the default) or "fidelity""#))
}

pub(super) fn when_full(text: &str) -> Result<WhenFull, Wrong> {
    let policy = WhenFull::ALL.into_iter().find_map(|(policy, name)| (name == text).then_some(policy));
    policy.ok_or(wrong("does not say what to do", r#"write "drop" (the default) or "refuse""#))
}

/// `postgres=fidelity,github=availability`.
pub(super) fn cache_policies(text: &str) -> Result<BTreeMap<String, CachePolicy>, Wrong> {
    const FORM: &str = r#"write lines like postgres = "fidelity" below [cache.policies]"#;
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
    };
    let pair = |pair: &str| {
        let (template, policy) = pair.split_once('=').map(|(template, policy)| (template.trim(), policy.trim()))?;
        is_name(template).then_some((template.to_owned(), cache_policy(policy).ok()?))
    };
    let pairs = text.split(',').filter(|part| !part.trim().is_empty());
    let pairs: Option<BTreeMap<_, _>> = pairs.map(pair).collect();
    pairs.ok_or(wrong("does not give templates availability or fidelity", FORM))
}

/// Networks, addresses and host names, with commas between: `10.0.0.0/8, db.internal`.
pub(super) fn egress_rules(text: &str) -> Result<Vec<EgressRule>, Wrong> {
    let rules = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(egress_rule);
    let rules: Option<Vec<_>> = rules.collect();
    rules.ok_or(wrong(
        "holds something that is neither a network nor a host name",
        r#"write it like "10.0.0.0/8, 192.168.1.7, db.internal""#,
    ))
}

fn egress_rule(text: &str) -> Option<EgressRule> {
    if let Ok(network) = text.parse::<ipnet::IpNet>() {
        return Some(EgressRule::Network(network.trunc()));
    }
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Some(EgressRule::Network(address.into()));
    }
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    // Numbers alone are addresses in disguise, which nothing here would ever match.
    let is_host = is_name(text) && text.bytes().any(|b| b.is_ascii_alphabetic());
    is_host.then(|| EgressRule::Host(text.trim_end_matches('.').to_ascii_lowercase()))
}

pub(super) fn slug(text: &str) -> Result<Slug, Wrong> {
    text.parse().map_err(|_| {
        wrong(
            "cannot be a name",
            "use 1 to 63 lower-case letters, digits and dashes, starting and ending with a letter or digit",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_direction_forward() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for text in ["30", "-30s", "30s ago", "", "s", "soon", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text:?} was taken for a duration");
        }
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        assert_eq!(size("1024"), Ok(1024));
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("1 GiB"), Ok(1 << 30));
        assert_eq!(size(&size_text(limits::SECRET_CACHE_BYTES)), Ok(limits::SECRET_CACHE_BYTES));
        for text in ["256MB", "-1", "MiB", "1.5GiB", "99999999999999GiB"] {
            assert!(size(text).is_err(), "{text:?} was taken for a size");
        }
    }

    #[test]
    fn a_mistyped_level_is_not_taken_for_a_target() {
        for text in ["info", "WARN", "info,credway=debug", "off"] {
            assert!(is_log_filter(text), "{text:?} was refused");
        }
        for text in ["inof", "info,credway:debug", "credway=loud", "", "info,"] {
            assert!(!is_log_filter(text), "{text:?} was taken");
        }
    }

    #[test]
    fn policies_are_given_by_template() {
        let policies = cache_policies("postgres=fidelity, github = availability,").unwrap();
        let expected = [("github", CachePolicy::Availability), ("postgres", CachePolicy::Fidelity)];
        assert!(policies.iter().map(|(template, policy)| (template.as_str(), *policy)).eq(expected));
        assert_eq!(cache_policies(""), Ok(BTreeMap::new()));
        for text in ["postgres", "postgres=", "=fidelity", "postgres=strict", "a b=fidelity", "a=b=fidelity"] {
            assert!(cache_policies(text).is_err(), "{text:?} was taken for policies");
        }
    }

    #[test]
    fn modes_are_octal_permission_bits() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("0o600"), Ok(0o600));
        for text in ["0860", "7777", "rw-rw----", ""] {
            assert!(mode(text).is_err(), "{text:?} was taken for a mode");
        }
    }
}
