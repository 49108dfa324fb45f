//! A Vault that is down, sealed, silent or elsewhere: what callers hear, and that all heals by itself.

use std::sync::Mutex;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;

use super::*;

#[tokio::test]
async fn a_vault_that_is_down_at_the_start_is_waited_for() {
    let mut bao = Bao::own().await;
    let mount = bao.fresh_mount().await;
    bao.kill();
    let store = start(&settings(bao.url(), &mount, as_root(&bao)));
    let expected = format!("the secret store is unavailable: {} cannot be reached: Connection refused", bao.url());
    let text = shown(store.read(&an_address()).await);
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(shown(store.check().await), text);
    bao.restart().await;
    until_ready(&store).await;
    store.write(&an_address(), &fields(&[("k", "v")]), 0).await.unwrap();
}

#[tokio::test]
async fn a_killed_vault_is_used_again_once_it_is_back() {
    let mut bao = Bao::own().await;
    let store = start(&settings(bao.url(), &bao.fresh_mount().await, as_root(&bao)));
    let address = an_address();
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    bao.kill();
    assert!(shown(store.read(&address).await).contains("cannot be reached"));
    bao.restart().await;
    assert_eq!(store.read(&address).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_sealed_vault_is_named_and_used_again_once_unsealed() {
    let bao = Bao::own().await;
    let store = start(&settings(bao.url(), &bao.fresh_mount().await, as_root(&bao)));
    let (address, secret) = (an_address(), fields(&[("k", CANARY)]));
    store.write(&address, &secret, 0).await.unwrap();
    bao.seal().await;
    let sealed = format!("the secret store is unavailable: {} is sealed", bao.url());
    assert_eq!(shown(store.read(&address).await), sealed);
    assert_eq!(shown(store.write(&address, &secret, 1).await), sealed);
    assert_eq!(shown(store.check().await), sealed);
    bao.unseal().await;
    assert_eq!(store.read(&address).await.unwrap().version, 1);
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_silent_vault_costs_a_deadline_and_no_more() {
    let bao = Bao::own().await;
    let store = start(&settings(bao.url(), &bao.fresh_mount().await, as_root(&bao)));
    let address = an_address();
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    bao.pause();
    let read = tokio::time::timeout(std::time::Duration::from_secs(6), store.read(&address)).await;
    let expected = format!("the secret store is unavailable: {} did not answer within 5 s", bao.url());
    assert_eq!(shown(read.unwrap()), expected);
    bao.resume();
    assert_eq!(store.read(&address).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_vault_that_redirects_never_sees_the_token_a_second_time() {
    let (target, seen) = a_listener(|_| StatusCode::OK.into_response()).await;
    let (source, asked) = a_listener(move |uri| {
        (StatusCode::TEMPORARY_REDIRECT, [("location", format!("{target}{uri}"))]).into_response()
    })
    .await;
    let auth = VaultAuth::Token { token: CANARY.into() };
    let store = start(&settings(&source, "kv", auth));
    let text = shown(store.read(&an_address()).await);
    assert!(text.contains(&format!("{source} redirects elsewhere (HTTP 307)")), "{text}");
    assert_eq!(*asked.lock().unwrap(), [CANARY]);
    assert!(seen.lock().unwrap().is_empty(), "the token followed the redirect");
}

#[tokio::test]
async fn what_is_not_vault_is_named_so_without_its_text() {
    let (url, _) = a_listener(|_| format!("<html>{CANARY}</html>").into_response()).await;
    let store = start(&settings(&url, "kv", VaultAuth::Token { token: CANARY.into() }));
    let text = shown(store.read(&an_address()).await);
    assert!(text.ends_with("gave an answer that is not Vault's: is something else listening there?"), "{text}");
}

type Tokens = Arc<Mutex<Vec<String>>>;
type Answer = Arc<dyn Fn(Uri) -> axum::response::Response + Send + Sync>;

/// A server that answers everything by `answer` and notes the token of each request.
async fn a_listener(answer: impl Fn(Uri) -> axum::response::Response + Send + Sync + 'static) -> (String, Tokens) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let tokens = Tokens::default();
    let state: (Tokens, Answer) = (tokens.clone(), Arc::new(answer));
    let router = axum::Router::new().fallback(noted).with_state(state);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, tokens)
}

async fn noted(
    State((tokens, answer)): State<(Tokens, Answer)>,
    headers: HeaderMap,
    uri: Uri,
) -> axum::response::Response {
    let token = headers.get("x-vault-token").map(|token| token.to_str().unwrap().to_owned());
    tokens.lock().unwrap().push(token.unwrap_or_default());
    answer(uri)
}
