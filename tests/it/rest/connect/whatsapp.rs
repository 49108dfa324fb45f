//! WhatsApp accounts: by the code of Meta's embedded signup, or by a token that somebody made; both looked at first.

use serde_json::{Value, json};

use super::{Rig, SERVED};
use crate::support::cast::World;
use crate::support::meta::{NUMBERS, TOKEN, WABA, WEAK_TOKEN};

const COMPLETE: &str = "/v1/connections/whatsapp/complete";
const MANUAL: &str = "/v1/connections/whatsapp/manual";

async fn an_account_is_signed_up(rig: Rig) {
    let config = rig.ask("GET", "/v1/connections/whatsapp/config", None).await.ok();
    assert_eq!((&config["enabled"], &config["app_id"]), (&json!(true), &json!("8400")));
    let code = rig.providers.meta.code();
    let signup = json!({ "display_name": "Shop", "code": code, "waba_id": WABA, "phone_number_id": NUMBERS[0] });
    let saved = rig.ask("POST", COMPLETE, Some(&signup)).await;
    assert_eq!(saved.status.as_u16(), 201, "{saved:?}");
    let saved = saved.ok();
    assert_eq!((&saved["status"], &saved["account_label"]), (&json!("active"), &json!("Acme Shop")));
    assert_eq!(saved["business"]["phone_numbers"][0]["display_phone_number"], "+44 20 7946 0321");
    assert!(!saved.to_string().contains("canary"), "the token is told: {saved}");
    let (fields, _) = rig.secret(saved["id"].as_str().unwrap()).await;
    assert!(fields["access_token"].starts_with("EAAcanary"));
    assert_eq!((fields["business_account_id"].as_str(), fields["phone_number_id"].as_str()), (WABA, NUMBERS[0]));
    // The same code once more.
    let again = json!({ "display_name": "Shop 2", "code": code, "waba_id": WABA });
    let no = rig.ask("POST", COMPLETE, Some(&again)).await;
    assert!(no.status.is_client_error() && !no.body.to_string().contains("canary"), "{no:?}");
    rig.api.sidecar.stop().await;
}

#[tokio::test]
async fn an_account_is_signed_up_on_sqlite() {
    an_account_is_signed_up(Rig::embedded().await).await;
}

#[tokio::test]
async fn an_account_is_signed_up_on_postgres_and_openbao() {
    an_account_is_signed_up(Rig::of(World::postgres_and_openbao(SERVED).await).await).await;
}

#[tokio::test]
async fn a_token_is_looked_at_before_it_is_saved() {
    let rig = Rig::embedded().await;
    let manual = |name: &str, token: &str, account: &str, number: Option<&str>| {
        let mut body = json!({ "display_name": name, "access_token": token, "business_account_id": account });
        if let Some(number) = number {
            body["phone_number_id"] = json!(number);
        }
        body
    };
    let wrong: [(Value, &str); 5] = [
        (manual("A", "canary-expired", WABA, None), "/access_token"),
        (manual("A", WEAK_TOKEN, WABA, None), "/access_token"),
        (manual("A", TOKEN, NUMBERS[0], None), "/business_account_id"),
        (manual("A", TOKEN, WABA, Some("442079460321")), "/phone_number_id"),
        (manual("A", TOKEN, "../me", None), "/business_account_id"),
    ];
    for (body, pointer) in wrong {
        let no = rig.ask("POST", MANUAL, Some(&body)).await.problem(422, "INVALID_REQUEST");
        assert_eq!(no["errors"][0]["pointer"], pointer, "{no}");
        assert!(!no.to_string().contains("canary"), "{no}");
    }
    rig.providers.meta.is_down(true);
    rig.ask("POST", MANUAL, Some(&manual("A", TOKEN, WABA, None))).await.problem(503, "PROVIDER_UNAVAILABLE");
    rig.providers.meta.is_down(false);
    // The only number is the one that is meant; of two, none is.
    let saved = rig.ask("POST", MANUAL, Some(&manual("One", TOKEN, WABA, None))).await.ok();
    assert!(saved["credential_keys"].as_array().unwrap().contains(&json!("phone_number_id")), "{saved}");
    rig.providers.meta.numbers(2);
    let saved = rig.ask("POST", MANUAL, Some(&manual("Two", TOKEN, WABA, None))).await.ok();
    assert_eq!(saved["business"]["phone_numbers"].as_array().unwrap().len(), 2);
    assert!(!saved["credential_keys"].as_array().unwrap().contains(&json!("phone_number_id")), "{saved}");
    rig.ask("POST", MANUAL, Some(&manual("Two", TOKEN, WABA, None))).await.problem(409, "ALREADY_EXISTS");
}

#[tokio::test]
async fn without_a_client_a_token_can_be_given_all_the_same() {
    let rig = Rig::with_clients(World::sqlite(SERVED).await, false).await;
    let config = rig.ask("GET", "/v1/connections/whatsapp/config", None).await.ok();
    assert_eq!((&config["enabled"], &config["reason"]), (&json!(false), &json!("MISSING_CLIENT_ID")));
    let signup = json!({ "display_name": "Shop", "code": "x", "waba_id": WABA });
    rig.ask("POST", COMPLETE, Some(&signup)).await.problem(409, "CONNECT_OFF");
    let manual = json!({ "display_name": "Shop", "access_token": TOKEN, "business_account_id": WABA });
    assert_eq!(rig.ask("POST", MANUAL, Some(&manual)).await.status.as_u16(), 201);
}
