//! Every setting there is, by its path in the file. Names of environment variables and suggestions follow from this list.

/// One setting that file, environment and flags may give.
#[derive(Debug)]
pub(super) struct Known {
    pub path: &'static str,
    /// Whether its value must not be shown. Each such setting has a neighbour `…_file` that names a file holding it.
    pub is_secret: bool,
}

const fn plain(path: &'static str) -> Known {
    Known { path, is_secret: false }
}

const fn secret(path: &'static str) -> Known {
    Known { path, is_secret: true }
}

/// In the order in which people read them.
pub(super) const KNOWN: [Known; 54] = [
    plain("role"),
    plain("data_dir"),
    secret("database.url"),
    plain("database.url_file"),
    plain("secret_store.kind"),
    plain("secret_store.master_key_file"),
    plain("secret_store.vault.address"),
    plain("secret_store.vault.namespace"),
    plain("secret_store.vault.mount"),
    plain("secret_store.vault.prefix"),
    plain("secret_store.vault.ca_file"),
    plain("secret_store.vault.lease_paths"),
    plain("secret_store.vault.auth.method"),
    secret("secret_store.vault.auth.token"),
    plain("secret_store.vault.auth.token_file"),
    plain("secret_store.vault.auth.mount"),
    plain("secret_store.vault.auth.role_id"),
    plain("secret_store.vault.auth.secret_id_file"),
    plain("secret_store.vault.auth.role"),
    plain("secret_store.vault.auth.cert_file"),
    plain("secret_store.vault.auth.key_file"),
    plain("cache.secret_ttl"),
    plain("cache.max_stale"),
    plain("cache.policy"),
    plain(POLICIES),
    plain("cache.config_max_stale"),
    plain("cache.entries_max"),
    plain("cache.bytes_max"),
    plain("grpc.socket"),
    plain("grpc.socket_mode"),
    plain("grpc.socket_owner"),
    plain("grpc.socket_group"),
    plain("grpc.address"),
    plain("grpc.calls_in_flight_max"),
    plain("grpc.call_deadline"),
    plain("grpc.tls.cert_file"),
    plain("grpc.tls.key_file"),
    plain("grpc.tls.client_ca_file"),
    plain("http.address"),
    plain("http.quit"),
    plain("audit.file"),
    plain("audit.when_full"),
    plain("audit.bytes_max"),
    plain("templates.dir"),
    plain("catalogue.base_url"),
    plain("egress.allow"),
    plain("egress.ca_file"),
    plain("oauth.public_url"),
    plain("telemetry.log_level"),
    plain("telemetry.log_format"),
    plain("telemetry.otlp_endpoint"),
    plain("telemetry.trace_sample_ratio"),
    plain("shutdown.linger"),
    plain("shutdown.drain"),
];

/// The policies by template: a table in the file, `postgres=fidelity,…` elsewhere.
pub(super) const POLICIES: &str = "cache.policies";

/// The list of known callers, given in the file only: `[[callers]]`.
pub(super) const CALLERS: &str = "callers";

/// What one table of the list may hold.
pub(super) const CALLER_FIELDS: [&str; 6] = ["uid", "certificate_name", "tenant", "project", "role", "scopes"];

/// The clients of OAuth, given in the file only: `[oauth.clients.slack]`.
pub(super) const CLIENTS: &str = "oauth.clients";

/// What one client's table may hold.
pub(super) const CLIENT_FIELDS: [&str; 5] =
    ["client_id", "client_secret", "client_secret_file", "private_key_file", "key_id"];

/// The list of webhooks, given in the file only: `[[webhooks]]`.
pub(super) const WEBHOOKS: &str = "webhooks";

/// What one table of that list may hold.
pub(super) const WEBHOOK_FIELDS: [&str; 4] = ["url", "secret", "secret_file", "events"];

/// Variables of ours that are no settings: the command line reads them itself.
const OTHER_VARIABLES: [&str; 4] = ["CREDWAY_CONFIG", "CREDWAY_SERVER", "CREDWAY_TOKEN", "CREDWAY_PROJECT"];

/// What every variable of ours starts with.
const PREFIX: &str = "CREDWAY_";

/// The setting at `path`.
pub(super) fn find(path: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.path == path)
}

/// Whether `path` is a table that holds settings.
pub(super) fn is_section(path: &str) -> bool {
    KNOWN.iter().any(|known| known.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The environment variable that gives the setting at `path`: `grpc.address` is `CREDWAY_GRPC_ADDRESS`.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Whether a variable has our prefix and should therefore be a setting.
pub(super) fn is_ours(name: &str, value: &str) -> bool {
    name.starts_with(PREFIX)
        && !OTHER_VARIABLES.contains(&name)
        && !name.starts_with("CREDWAY_TEST_")
        && !is_service_link(name, value)
}

/// Kubernetes tells every pod where services are: one named `credway` or `credway-http` looks like settings of ours.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let has_protocol = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| name.contains(protocol));
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT_") && has_protocol)
        || (name.ends_with("_PORT") && is_address)
}

/// The setting or section that the writer of the unknown `path` probably meant.
pub(super) fn nearest_path(path: &str) -> Option<&'static str> {
    let last = path.rsplit('.').next().unwrap_or(path);
    let misplaced = || {
        let mut same_name = KNOWN.iter().filter(|known| known.path.rsplit('.').next() == Some(last));
        same_name.next().filter(|_| same_name.next().is_none()).map(|known| known.path)
    };
    nearest(path, KNOWN.iter().map(|known| known.path).chain(sections())).or_else(misplaced)
}

/// The variable that the writer of the unknown `name` probably meant.
pub(super) fn nearest_variable(name: &str) -> Option<String> {
    let variables: Vec<String> = KNOWN.iter().map(|known| variable(known.path)).collect();
    nearest(name, variables.iter().map(String::as_str)).map(str::to_owned)
}

/// The candidate most like `text`, if one is like it at all.
pub(super) fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.7;
    let scored = candidates.map(|candidate| (strsim::normalized_damerau_levenshtein(text, candidate), candidate));
    scored.filter(|(score, _)| *score >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

fn sections() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().filter_map(|known| known.path.rsplit_once('.').map(|(section, _)| section))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_has_a_variable_of_its_own() {
        let variables: BTreeSet<String> = KNOWN.iter().map(|known| variable(known.path)).collect();
        assert_eq!(variables.len(), KNOWN.len());
        assert!(variables.iter().all(|name| is_ours(name, "")), "a variable of a setting is ignored");
    }

    #[test]
    fn every_secret_can_be_given_in_a_file_of_its_own() {
        for known in KNOWN.iter().filter(|known| known.is_secret) {
            assert!(find(&format!("{}_file", known.path)).is_some(), "{} has no …_file", known.path);
        }
    }

    #[test]
    fn where_kubernetes_says_services_are_is_no_setting() {
        let table = [
            ("CREDWAY_SERVICE_HOST", "10.0.0.1"),
            ("CREDWAY_SERVICE_PORT_HTTP", "8420"),
            ("CREDWAY_PORT", "tcp://10.0.0.1:8420"),
            ("CREDWAY_HTTP_PORT_8420_TCP_ADDR", "10.0.0.1"),
        ];
        for (name, value) in table {
            assert!(!is_ours(name, value), "{name} was taken for a setting");
        }
        assert!(is_ours("CREDWAY_HTTP_PORT", "8420"), "a person's guess must be answered");
    }

    #[test]
    fn a_slip_finds_what_was_meant() {
        assert_eq!(nearest_path("grpc.adress"), Some("grpc.address"));
        assert_eq!(nearest_path("grcp"), Some("grpc"));
        assert_eq!(nearest_path("log_level"), Some("telemetry.log_level"), "right name, wrong section");
        assert_eq!(nearest_path("mount"), None, "two sections have it");
        assert_eq!(nearest_path("colour"), None);
        assert_eq!(nearest_variable("CREDWAY_GRPC_ADRESS").as_deref(), Some("CREDWAY_GRPC_ADDRESS"));
    }
}
