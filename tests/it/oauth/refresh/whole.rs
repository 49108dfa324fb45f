//! D5: nothing that a reply may say beside its tokens keeps them from being stored.

use std::time::Duration;

use futures_util::future::join_all;

use super::rig::{Site, provider};
use crate::support::gate::Fate;
use crate::support::openbao::{Bao, until};

/// What else stands in a reply: an ID token that is none, of somebody else, of no key and long ended; scopes that are fewer, none
/// or no scopes; types and lives that are no such thing.
const ODD: [(&str, &str); 8] = [
    ("1", r#"{"access_token":"at-odd-1","refresh_token":"rt-odd-1","expires_in":3600,"id_token":"no.token"}"#),
    (
        "2",
        // {"alg":"none"} and {"iss":"https://else.example","aud":"another","sub":"x","exp":1}
        r#"{"access_token":"at-odd-2","refresh_token":"rt-odd-2","expires_in":3600,"id_token":"eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2Vsc2UuZXhhbXBsZSIsImF1ZCI6ImFub3RoZXIiLCJzdWIiOiJ4IiwiZXhwIjoxfQ."}"#,
    ),
    ("3", r#"{"access_token":"at-odd-3","refresh_token":"rt-odd-3","expires_in":3600,"id_token":{"a":1}}"#),
    ("4", r#"{"access_token":"at-odd-4","refresh_token":"rt-odd-4","expires_in":3600,"scope":""}"#),
    ("5", r#"{"access_token":"at-odd-5","refresh_token":"rt-odd-5","expires_in":3600,"scope":{"no":["scope"]}}"#),
    ("6", r#"{"access_token":"at-odd-6","refresh_token":"rt-odd-6","expires_in":"3600","token_type":"mac"}"#),
    ("7", r#"{"access_token":"at-odd-7","refresh_token":"rt-odd-7","expires_in":"soon","token_type":7}"#),
    ("8", r#"{"access_token":"at-odd-8","refresh_token":"rt-odd-8","refresh_token_expires_in":-1,"account":[]}"#),
];

#[tokio::test]
async fn tokens_are_stored_whatever_else_the_reply_says() {
    let (oidc, bao) = (provider().await, Bao::shared().await);
    let site = Site::new(&oidc, bao, r#"{ kind = "old_dies" }"#, None, ODD.len()).await;
    site.tokens_live(Duration::from_secs(40)).await;
    let sidecar = site.sidecar(&[]).await;
    for ((_, reply), minted) in ODD.into_iter().zip(&site.minted) {
        site.gate.next_of(&minted.refresh_token, [Fate::Answer(reply)]);
    }
    let ids = site.ids().await;
    let served = join_all((0..ODD.len()).map(async |nth| sidecar.token_in_time(&format!("c{nth}")).await)).await;
    for (nth, (number, reply)) in ODD.iter().enumerate() {
        assert_eq!(served[nth], format!("at-odd-{number}"), "{reply}");
        until("the tokens are stored", async || {
            site.fields_of(&ids[nth]).await["refresh_token"] != *site.minted[nth].refresh_token
        })
        .await;
        let fields = site.fields_of(&ids[nth]).await;
        assert_eq!(fields["refresh_token"], format!("rt-odd-{number}"), "{reply}");
        assert_eq!(fields["access_token"], format!("at-odd-{number}"), "{reply}");
        assert_eq!(site.generation(&fields), Some(2), "{reply}");
    }
    assert_eq!(site.gate.requests(), ODD.len());
    assert_eq!(site.gate.reached(), 0);
}
