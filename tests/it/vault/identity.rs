//! Who we are to Vault: each way to log in, renewal, a token lost and replaced, and a right that is missing.

use std::path::PathBuf;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};

use super::*;
use crate::support::openbao::{ServerTls, fresh_name};

/// A role of AppRole whose policy allows what credway needs on `mount`, and no more.
async fn an_app_role(bao: &Bao, mount: &str, token: Value, dir: &tempfile::TempDir) -> VaultAuth {
    let (auth, policy) = (fresh_name("approle"), a_policy(bao, mount).await);
    bao.must("POST", &format!("sys/auth/{auth}"), json!({ "type": "approle" })).await;
    let mut role = json!({ "token_policies": [policy] });
    role.as_object_mut().unwrap().extend(token.as_object().unwrap().clone());
    bao.must("POST", &format!("auth/{auth}/role/credway"), role).await;
    let id = bao.must("GET", &format!("auth/{auth}/role/credway/role-id"), json!(null)).await;
    let secret = bao.must("POST", &format!("auth/{auth}/role/credway/secret-id"), json!({})).await;
    let secret_id_file = dir.path().join("secret-id");
    std::fs::write(&secret_id_file, format!("{}\n", secret["data"]["secret_id"].as_str().unwrap())).unwrap();
    VaultAuth::AppRole { mount: auth, role_id: id["data"]["role_id"].as_str().unwrap().to_owned(), secret_id_file }
}

async fn a_policy(bao: &Bao, mount: &str) -> String {
    let name = fresh_name("policy");
    let rules = format!(
        r#"path "{mount}/data/credway/*" {{ capabilities = ["create", "read", "update"] }}
           path "{mount}/metadata/credway/*" {{ capabilities = ["delete"] }}
           path "{mount}/destroy/credway/*" {{ capabilities = ["update"] }}"#
    );
    bao.must("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": rules })).await;
    name
}

fn logins(bao: &Bao, auth: &VaultAuth) -> usize {
    let VaultAuth::AppRole { mount, .. } = auth else { unreachable!("tests count logins of AppRole") };
    let path = format!("auth/{mount}/login");
    bao.count(|audited| audited.path == path)
}

/// Makes every token that the role gave out invalid, as an operator does after an incident.
async fn revoke_all(bao: &Bao, auth: &VaultAuth) {
    let VaultAuth::AppRole { mount, .. } = auth else { unreachable!("tests revoke tokens of AppRole") };
    bao.must("PUT", &format!("sys/leases/revoke-prefix/auth/{mount}/login"), json!({ "sync": true })).await;
}

#[tokio::test]
async fn an_app_role_with_the_least_rights_does_everything() {
    let (bao, dir) = (Bao::shared().await, tempfile::tempdir().unwrap());
    let mount = bao.fresh_mount().await;
    let auth = an_app_role(bao, &mount, json!({}), &dir).await;
    let store = start(&settings(bao.url(), &mount, auth.clone()));
    let (address, secret) = (an_address(), fields(&[("k", "v")]));
    store.write(&address, &secret, 0).await.unwrap();
    bao.must("DELETE", &format!("{mount}/data/credway/{address}"), json!(null)).await;
    store.write(&address, &secret, 0).await.unwrap();
    assert_eq!(store.read(&address).await.unwrap().version, 2);
    store.delete(&address).await.unwrap();
    store.check().await.unwrap();
    assert!(store.own_token_ttl().unwrap() > Duration::from_secs(60));
    assert_eq!(logins(bao, &auth), 1);
}

#[tokio::test]
async fn a_wrong_secret_id_is_named_and_not_shown() {
    let (bao, dir) = (Bao::shared().await, tempfile::tempdir().unwrap());
    let mount = bao.fresh_mount().await;
    let auth = an_app_role(bao, &mount, json!({}), &dir).await;
    let VaultAuth::AppRole { mount: auth_mount, secret_id_file, .. } = &auth else { unreachable!() };
    std::fs::write(secret_id_file, CANARY).unwrap();
    let store = start(&settings(bao.url(), &mount, auth.clone()));
    let expected = format!(
        "the secret store refuses access: {} refuses the AppRole login at auth/{auth_mount} (HTTP 400): \
         check the role id and the secret id in {}",
        bao.url(),
        secret_id_file.display()
    );
    assert_eq!(shown(store.read(&an_address()).await), expected);
    assert_eq!(store.own_token_ttl(), None);
}

#[tokio::test]
async fn a_token_is_revoked_when_the_store_ends() {
    let (bao, dir) = (Bao::shared().await, tempfile::tempdir().unwrap());
    let mount = bao.fresh_mount().await;
    let auth = an_app_role(bao, &mount, json!({}), &dir).await;
    let VaultAuth::AppRole { mount: auth_mount, .. } = &auth else { unreachable!() };
    let store = start(&settings(bao.url(), &mount, auth.clone()));
    until_ready(&store).await;
    let leases = format!("sys/leases/lookup/auth/{auth_mount}/login");
    assert_eq!(bao.request("LIST", &leases, json!(null)).await.0, 200);
    store.end().await;
    assert_eq!(bao.request("LIST", &leases, json!(null)).await.0, 404);
}

#[tokio::test]
async fn a_given_token_is_not_revoked_when_the_store_ends() {
    let bao = Bao::shared().await;
    let mount = bao.fresh_mount().await;
    let store = start(&settings(bao.url(), &mount, as_root(bao)));
    until_ready(&store).await;
    store.end().await;
    bao.must("GET", "auth/token/lookup-self", json!(null)).await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let (bao, dir) = (Bao::shared().await, tempfile::tempdir().unwrap());
    let mount = bao.fresh_mount().await;
    let auth = an_app_role(bao, &mount, json!({ "token_ttl": "2s", "token_max_ttl": "1h" }), &dir).await;
    let store = start(&settings(bao.url(), &mount, auth.clone()));
    let address = an_address();
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    // Only a renewal makes the life that is left longer.
    let mut least = store.own_token_ttl().unwrap();
    until("the token was renewed", async || {
        let left = store.own_token_ttl().unwrap();
        let is_renewed = left > least;
        least = left;
        is_renewed
    })
    .await;
    store.read(&address).await.unwrap();
    assert_eq!(logins(bao, &auth), 1);
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_replaced_before_it_ends() {
    let (bao, dir) = (Bao::shared().await, tempfile::tempdir().unwrap());
    let mount = bao.fresh_mount().await;
    let auth = an_app_role(bao, &mount, json!({ "token_ttl": "2s", "token_type": "batch" }), &dir).await;
    let store = start(&settings(bao.url(), &mount, auth.clone()));
    let address = an_address();
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    until("it logged in again", async || {
        store.read(&address).await.unwrap();
        logins(bao, &auth) >= 2
    })
    .await;
}

#[tokio::test]
async fn c2_a_revoked_token_is_replaced_by_one_login_however_many_read() {
    let (bao, dir) = (Bao::shared().await, tempfile::tempdir().unwrap());
    let mount = bao.fresh_mount().await;
    let auth = an_app_role(bao, &mount, json!({}), &dir).await;
    let store = start(&settings(bao.url(), &mount, auth.clone()));
    let address = an_address();
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    for round in 2..5 {
        revoke_all(bao, &auth).await;
        let reads = futures_util::future::join_all((0..50).map(|_| store.read(&address)));
        let results = tokio::time::timeout(Duration::from_secs(2), reads).await.unwrap();
        assert!(results.iter().all(|result| result.is_ok()), "{results:?}");
        assert_eq!(logins(bao, &auth), round);
    }
}

#[tokio::test]
async fn a_missing_right_is_told_from_a_dead_token() {
    let (bao, dir) = (Bao::shared().await, tempfile::tempdir().unwrap());
    let mount = bao.fresh_mount().await;
    let auth = an_app_role(bao, &mount, json!({}), &dir).await;
    let mut elsewhere = settings(bao.url(), &mount, auth.clone());
    elsewhere.prefix = "other".to_owned();
    let (store, address) = (start(&elsewhere), an_address());
    until_ready(&store).await;
    let text = |verbs: &str, kind: &str, list: &str| {
        format!(
            "the secret store refuses access: our token is alive, but no policy lets it {verbs} {mount}/{kind}/other/{address}: \
             grant [{list}] on \"{mount}/{kind}/other/*\""
        )
    };
    assert_eq!(shown(store.read(&address).await), text("read", "data", "\"read\""));
    let write = store.write(&address, &fields(&[("k", CANARY)]), 0).await;
    assert_eq!(shown(write), text("create or update", "data", "\"create\", \"update\""));
    assert_eq!(shown(store.delete(&address).await), text("delete", "metadata", "\"delete\""));
    assert_eq!(logins(bao, &auth), 1);
}

#[tokio::test]
async fn a_token_file_is_read_again_when_its_token_dies() {
    let (bao, dir) = (Bao::shared().await, tempfile::tempdir().unwrap());
    let mount = bao.fresh_mount().await;
    let policy = a_policy(bao, &mount).await;
    let path = dir.path().join("token");
    let a_token = async || {
        let created = bao.must("POST", "auth/token/create", json!({ "policies": [policy], "ttl": "10m" })).await;
        let token = created["auth"]["client_token"].as_str().unwrap().to_owned();
        std::fs::write(&path, format!("{token}\n")).unwrap();
        token
    };
    let first = a_token().await;
    let store = start(&settings(bao.url(), &mount, VaultAuth::TokenFile { path: path.clone() }));
    let address = an_address();
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    assert!(store.own_token_ttl().unwrap() > Duration::from_secs(300), "it was not renewed when it was adopted");

    let second = a_token().await;
    bao.must("POST", "auth/token/revoke", json!({ "token": first })).await;
    store.read(&address).await.unwrap();

    bao.must("POST", "auth/token/revoke", json!({ "token": second })).await;
    let text = shown(store.read(&address).await);
    assert!(text.contains(&format!("does not accept the token in {}", path.display())), "{text}");
    assert!(!text.contains(&second));
    a_token().await;
    until_ready(&store).await;
    store.read(&address).await.unwrap();
}

#[tokio::test]
async fn a_root_token_is_used_as_it_is() {
    let bao = Bao::shared().await;
    let store = start(&settings(bao.url(), &bao.fresh_mount().await, as_root(bao)));
    until_ready(&store).await;
    assert_eq!(store.own_token_ttl(), None);
}

#[tokio::test]
async fn a_client_certificate_logs_in_over_tls_of_a_private_authority() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (cert, key) = authority.issue("127.0.0.1");
    let tls = ServerTls {
        cert_file: &write("server.pem", &cert),
        key_file: &write("server.key", &key),
        authority_pem: &authority.pem,
    };
    let bao = Bao::own_with_tls(&tls).await;
    let mount = bao.fresh_mount().await;
    let policy = a_policy(&bao, &mount).await;
    bao.must("POST", "sys/auth/cert", json!({ "type": "cert" })).await;
    let role = json!({ "certificate": authority.pem, "allowed_dns_sans": "credway.test", "token_policies": [policy] });
    bao.must("POST", "auth/cert/certs/credway", role).await;

    let (cert, key) = authority.issue("credway.test");
    let auth = |role: &str, cert_file: PathBuf| VaultAuth::Certificate {
        mount: "cert".to_owned(),
        role: Some(role.to_owned()),
        cert_file,
        key_file: write("client.key", &key),
    };
    let cert_file = write("client.pem", &cert);
    let mut tls_settings = settings(bao.url(), &mount, auth("credway", cert_file.clone()));
    tls_settings.ca_file = Some(write("ca.pem", &authority.pem));
    let (store, address) = (start(&tls_settings), an_address());
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    assert_eq!(store.read(&address).await.unwrap().version, 1);
    store.end().await;

    tls_settings.auth = auth("another", cert_file);
    let text = shown(start(&tls_settings).read(&address).await);
    assert!(text.contains("refuses the certificate login at auth/cert (HTTP 400): check the role"), "{text}");

    tls_settings.ca_file = Some(write("other-ca.pem", &Authority::new().pem));
    let text = shown(start(&tls_settings).read(&address).await);
    assert!(text.contains("cannot be reached: invalid peer certificate"), "{text}");

    tls_settings.ca_file = Some(dir.path().join("nowhere.pem"));
    let refused = VaultStore::start(&tls_settings, Clock::System, CancellationToken::new(), &TaskTracker::new());
    assert!(refused.err().unwrap().to_string().contains("nowhere.pem cannot be read"));
}

#[tokio::test]
async fn a_service_account_of_kubernetes_logs_in() {
    let (bao, dir) = (Bao::shared().await, tempfile::tempdir().unwrap());
    let mount = bao.fresh_mount().await;
    let (auth, policy) = (fresh_name("kubernetes"), a_policy(bao, &mount).await);
    bao.must("POST", &format!("sys/auth/{auth}"), json!({ "type": "kubernetes" })).await;
    let config = json!({
        "kubernetes_host": a_token_reviewer().await,
        "kubernetes_ca_cert": Authority::new().pem,
        "token_reviewer_jwt": REVIEWER,
        "disable_local_ca_jwt": true,
    });
    bao.must("POST", &format!("auth/{auth}/config"), config).await;
    let role = json!({
        "bound_service_account_names": "credway",
        "bound_service_account_namespaces": "default",
        "token_policies": [policy],
    });
    bao.must("POST", &format!("auth/{auth}/role/credway"), role).await;

    let token_file = dir.path().join("jwt");
    std::fs::write(&token_file, service_account_jwt("credway")).unwrap();
    let login = VaultAuth::Kubernetes { mount: auth, role: "credway".to_owned(), token_file: token_file.clone() };
    let kubernetes = settings(bao.url(), &mount, login);
    let (store, address) = (start(&kubernetes), an_address());
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    assert_eq!(store.read(&address).await.unwrap().version, 1);

    std::fs::write(&token_file, service_account_jwt(CANARY)).unwrap();
    let text = shown(start(&kubernetes).read(&address).await);
    assert!(text.contains("refuses the Kubernetes login"), "{text}");
}

const REVIEWER: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXZpZXdlciJ9.c2ln";

/// The API server of Kubernetes, as far as Vault calls it: it knows the service account `credway` and nothing else.
async fn a_token_reviewer() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
        .with_state(service_account_jwt("credway"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    host
}

async fn review(
    State(known): State<String>,
    headers: HeaderMap,
    Json(asked): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let is_reviewer = headers.get("authorization").is_some_and(|bearer| bearer == &format!("Bearer {REVIEWER}"));
    if !is_reviewer {
        return (StatusCode::UNAUTHORIZED, Json(json!({ "kind": "Status", "status": "Failure", "code": 401 })));
    }
    let user = json!({
        "username": "system:serviceaccount:default:credway",
        "uid": ACCOUNT_UID,
        "groups": ["system:serviceaccounts", "system:serviceaccounts:default"],
    });
    let status = if asked["spec"]["token"] == json!(known) {
        json!({ "authenticated": true, "user": user })
    } else {
        json!({ "authenticated": false, "error": "unknown token" })
    };
    let review = json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status });
    (StatusCode::CREATED, Json(review))
}

const ACCOUNT_UID: &str = "9a1c2d8e-0000-4000-8000-000000000001";

fn service_account_jwt(account: &str) -> String {
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": format!("system:serviceaccount:default:{account}"),
        "iat": 1_700_000_000,
        "nbf": 1_700_000_000,
        "exp": 4_102_444_800_u64,
        "kubernetes.io": { "namespace": "default", "serviceaccount": { "name": account, "uid": ACCOUNT_UID } },
    });
    let part = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
    format!("{}.{}.{}", part(r#"{"alg":"RS256","typ":"JWT"}"#), part(&claims.to_string()), part("signature"))
}

/// A certificate authority of one test.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority of a test");
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// A certificate for `name`, for servers and clients, with its key.
    fn issue(&self, name: &str) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}
