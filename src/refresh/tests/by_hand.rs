//! Tokens that a person brought: nobody knows how old they are.

use std::time::Duration;

use super::rig::{DUE, Fault, LIFE, Rig, attempt};
use crate::model::oauth::{TokenState, field};
use crate::model::secret::{ExposeSecret, SecretAddress};
use crate::oauth::TokenErrorKind;
use crate::refresh::attempt::Attempted;
use crate::refresh::decide::Want;
use crate::secrets::SecretStore;

/// A connection as it is after somebody saved its tokens.
async fn brought(rig: &Rig, template: &str, life: Option<Duration>) -> SecretAddress {
    let address = rig.connect(template).await;
    let held = rig.secrets.inner.read(&address).await.unwrap();
    let mut fields = held.fields;
    let expires_at = life.map(|life| rig.now() + life);
    TokenState { generation: 1, expires_at, ..TokenState::none() }.put(&mut fields);
    rig.secrets.inner.write(&address, &fields, held.version).await.unwrap();
    address
}

#[tokio::test]
async fn they_are_refreshed_at_their_next_use_and_served_until_then() {
    let rig = Rig::new().await;
    let daemon = rig.daemon("a").await;
    for (template, life) in [("dies", None), ("none", None), ("dies", Some(LIFE)), ("none", Some(LIFE))] {
        let address = brought(&rig, template, life).await;
        // Who asks for one that lives gets what is there.
        assert!(matches!(
            daemon.0.engine.attempt(&address, Want::Life(Duration::from_secs(60))).await,
            Attempted::Done { generation: 1, .. }
        ));
        rig.idp.expect([Fault::Answer(TokenErrorKind::Busy, None)]);
        assert!(matches!(attempt(&daemon, &address).await, Attempted::Later(_)));
        rig.clock.advance(Duration::from_secs(60));
        assert!(
            matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }),
            "{template} {life:?}"
        );
        let (state, fields) = (rig.state(&address).await, rig.fields(&address).await);
        assert_eq!(fields[field::ACCESS_TOKEN].expose_secret(), "at 2");
        assert_eq!((state.expires_at, rig.status(&address).await.as_str()), (Some(rig.now() + LIFE), "active"));
        // From now on they are like all others.
        assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }));
        rig.clock.advance(DUE);
        assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 3, .. }));
    }
}

#[tokio::test]
async fn a_wrong_refresh_token_is_told_at_once() {
    let rig = Rig::new().await;
    let daemon = rig.daemon("a").await;
    let address = brought(&rig, "dies", None).await;
    rig.idp.revoke(&address);
    assert_eq!(attempt(&daemon, &address).await, Attempted::Reconnect);
    assert_eq!(rig.status(&address).await, "reconnect GRANT_REVOKED");
}

#[tokio::test]
async fn a_refresh_token_alone_brings_an_access_token_before_anything_is_served() {
    let rig = Rig::new().await;
    let daemon = rig.daemon("a").await;
    let address = brought(&rig, "dies", None).await;
    let held = rig.secrets.inner.read(&address).await.unwrap();
    let mut fields = held.fields;
    fields.remove(field::ACCESS_TOKEN);
    TokenState { generation: 1, ..TokenState::none() }.put(&mut fields);
    rig.secrets.inner.write(&address, &fields, held.version).await.unwrap();
    daemon.ensure(&address, Duration::from_secs(60)).await.unwrap();
    assert_eq!(rig.fields(&address).await[field::ACCESS_TOKEN].expose_secret(), "at 2");
}
