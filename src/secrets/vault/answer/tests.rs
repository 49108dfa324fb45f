//! Answers as OpenBao 2.7.2 gives them, and what is made of each.

use super::*;
use crate::model::id::ConnectionId;
use crate::model::secret::SecretSource;

const CAS: &str = r#"{"errors":["check-and-set parameter did not match the current version"]}"#;
const SOFT_DELETED: &str =
    r#"{"data":{"data":null,"metadata":{"deletion_time":"2026-11-22T10:43:30.2Z","destroyed":false,"version":3}}}"#;
const DENIED: &str = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
const NO_ROUTE: &str = r#"{"errors":["no handler for route \"nope/data/a\". route entry not found."]}"#;
const SEALED: &str = r#"{"errors":["Vault is sealed"]}"#;
const UPGRADING: &str = r#"{"errors":["Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly."]}"#;

fn address() -> SecretAddress {
    SecretAddress {
        tenant: "acme".parse().unwrap(),
        project: "main".parse().unwrap(),
        connection: "conn_0199a6b2f3e07c4d8a1b2c3d4e5f6071".parse::<ConnectionId>().unwrap(),
        source: SecretSource::Stored,
    }
}

fn place(secret: &SecretAddress) -> Place<'_> {
    Place { vault: "https://vault:8200", mount: "kv", prefix: "credway", secret }
}

#[test]
fn every_answer_to_a_read_has_its_error() {
    let secret = address();
    let numbers = r#"{"data":{"data":{"key":"canary","port":424242},"metadata":{"version":1}}}"#;
    let table = [
        (404, r#"{"errors":[]}"#, "there is no secret at acme/main/connections/conn_0199a6b2f3e07c4d8a1b2c3d4e5f6071"),
        (404, SOFT_DELETED, "there is no secret at acme/main/connections/conn_0199a6b2f3e07c4d8a1b2c3d4e5f6071"),
        (404, NO_ROUTE, "the secret store is unavailable: there is no mount kv at https://vault:8200"),
        (
            404,
            r#"{"errors":["namespace not found"]}"#,
            "the secret store is unavailable: the namespace does not exist at https://vault:8200",
        ),
        (
            403,
            DENIED,
            "the secret store refuses access: our token is alive, but no policy lets it read \
             kv/data/credway/acme/main/connections/conn_0199a6b2f3e07c4d8a1b2c3d4e5f6071: grant [\"read\"] on \"kv/data/credway/*\"",
        ),
        (503, SEALED, "the secret store is unavailable: https://vault:8200 is sealed"),
        (502, "<html>canary</html>", "the secret store is unavailable: https://vault:8200 fails (HTTP 502)"),
        (400, UPGRADING, "the secret store is unavailable: https://vault:8200 is upgrading the mount to KV version 2"),
        (
            200,
            numbers,
            "the secret at acme/main/connections/conn_0199a6b2f3e07c4d8a1b2c3d4e5f6071 cannot be read: field \"port\" is not a string",
        ),
        (
            200,
            "canary",
            "the secret store is unavailable: https://vault:8200 gave an answer that is not Vault's: is something else listening there?",
        ),
        (
            200,
            r#"{"data":{"data":null,"metadata":{"version":1}}}"#,
            "the secret at acme/main/connections/conn_0199a6b2f3e07c4d8a1b2c3d4e5f6071 cannot be read: it is not a flat object of strings",
        ),
    ];
    for (status, body, expected) in table {
        let error = secret_read(&Reply::of(status, body), &place(&secret)).unwrap_err();
        assert_eq!(error.to_string(), expected, "{status} {body}");
        assert!(!format!("{error:?}").contains("canary") && !format!("{error:?}").contains("424242"));
    }
}

#[test]
fn a_secret_is_read_with_its_version() {
    let body = r#"{"data":{"data":{"api_key":"k"},"metadata":{"version":7,"destroyed":false}},"lease_id":""}"#;
    let document = secret_read(&Reply::of(200, body), &place(&address())).unwrap();
    assert_eq!(document.version, 7);
    assert_eq!(document.fields.keys().collect::<Vec<_>>(), ["api_key"]);
}

#[test]
fn c5_a_write_conflicts_by_status_and_text_only() {
    let secret = address();
    let write = |status, body| secret_written(&Reply::of(status, body), &place(&secret), 2);
    assert_eq!(write(200, r#"{"data":{"version":3}}"#).unwrap(), 3);
    assert!(matches!(write(400, CAS), Err(SecretError::Conflict { previous: 2, .. })));
    assert!(matches!(write(412, CAS), Err(SecretError::Unavailable { .. })));
    assert!(matches!(write(400, r#"{"errors":["no data provided"]}"#), Err(SecretError::Unavailable { .. })));
    assert!(matches!(write(403, DENIED), Err(SecretError::Denied { .. })));
    assert!(matches!(write(200, "{}"), Err(SecretError::Unavailable { .. })));
}

#[test]
fn what_was_deleted_tells_the_version_to_follow() {
    assert_eq!(deleted_version(&Reply::of(404, SOFT_DELETED)), Some(3));
    let destroyed = r#"{"data":{"data":null,"metadata":{"deletion_time":"","destroyed":true,"version":2}}}"#;
    assert_eq!(deleted_version(&Reply::of(404, destroyed)), Some(2));
    assert_eq!(deleted_version(&Reply::of(404, r#"{"errors":[]}"#)), None);
    assert_eq!(deleted_version(&Reply::of(200, SOFT_DELETED)), None);
}

#[test]
fn c5_only_a_kv_mount_of_version_2_is_accepted() {
    let check = |status, body| mount_verified(&Reply::of(status, body), "https://vault:8200", "kv");
    assert!(check(200, r#"{"data":{"type":"kv","options":{"version":"2"}}}"#).is_ok());
    let refusals = [
        (200, r#"{"data":{"type":"kv","options":{"version":"1"}}}"#, "is KV version 1"),
        (200, r#"{"data":{"type":"kv","options":null}}"#, "`bao kv enable-versioning kv`"),
        (200, r#"{"data":{"type":"pki","options":null}}"#, "is no KV mount"),
        (403, r#"{"errors":["preflight capability check returned 403"]}"#, "cannot be seen by our token"),
        (503, SEALED, "is sealed"),
        (200, "<html>", "not Vault's"),
    ];
    for (status, body, expected) in refusals {
        let error = check(status, body).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn redirects_and_outages_are_told_apart_from_refusals() {
    let text = |status, body| outage(&Reply::of(status, body), "https://vault:8200").map(|error| error.to_string());
    assert!(text(307, "").unwrap().contains("redirects elsewhere (HTTP 307)"));
    assert!(text(429, "").unwrap().contains("limits our rate"));
    assert!(text(503, SEALED).unwrap().ends_with("is sealed"));
    assert!(text(503, "").unwrap().ends_with("fails (HTTP 503)"));
    assert_eq!(text(403, DENIED), None);
    assert_eq!(text(200, ""), None);
}

#[test]
fn a_grant_is_read_and_never_printed() {
    let login = r#"{"auth":{"client_token":"s.canary","lease_duration":60,"renewable":true,"accessor":"a"}}"#;
    let grant = granted(&Reply::of(200, login)).unwrap();
    assert_eq!((grant.ttl, grant.renewable), (Some(Duration::from_secs(60)), true));
    assert!(!format!("{grant:?}").contains("canary"));
    let root = r#"{"auth":{"client_token":"s.canary","lease_duration":0,"renewable":false}}"#;
    assert_eq!(granted(&Reply::of(200, root)).unwrap().ttl, None);
    assert!(granted(&Reply::of(200, r#"{"auth":null}"#)).is_none());
    assert!(granted(&Reply::of(403, login)).is_none());
}

#[test]
fn a_token_is_dead_only_when_vault_says_so() {
    let look = |status, body| looked_up(&Reply::of(status, body), "https://vault:8200");
    assert_eq!(look(200, r#"{"data":{"renewable":true,"ttl":7}}"#).unwrap(), Looked::Alive { renewable: true });
    assert_eq!(look(200, r#"{"data":{"ttl":0}}"#).unwrap(), Looked::Alive { renewable: false });
    assert_eq!(look(403, DENIED).unwrap(), Looked::Dead);
    assert!(look(503, SEALED).is_err() && look(500, "").is_err() && look(200, "<html>").is_err());
}
