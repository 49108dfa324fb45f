//! WhatsApp accounts: by the code of Meta's embedded signup, or by a token that somebody made; both looked at first.

use serde_json::{Value, json};

use super::{Rig, SERVED};
use crate::support::cast::World;
use crate::support::meta::{CLIENT, HOST, NUMBERS, OTHER_WABA, TOKEN, WABA, WEAK_TOKEN};
use crate::support::openbao::until;

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

/// What lies in the secret store of its token.
async fn token_of(rig: &Rig, id: &str) -> (String, Value) {
    let (fields, _) = rig.secret(id).await;
    (fields["access_token"].clone(), fields.get("credway.tokens").map_or(Value::Null, |state| state.parse().unwrap()))
}

#[tokio::test]
async fn an_account_is_connected_again_by_the_way_it_was_and_keeps_its_id() {
    let rig = Rig::embedded().await;
    rig.providers.meta.life(5_184_000);
    let signup = json!({ "display_name": "Shop", "code": rig.providers.meta.code(), "waba_id": WABA });
    let saved = rig.ask("POST", COMPLETE, Some(&signup)).await.ok();
    let id = saved["id"].as_str().unwrap();
    let (first, state) = token_of(&rig, id).await;
    assert!(state["expires_at"].is_string(), "its end is known: {state}");
    // Not by a consent of Facebook's own: that token would be a person's.
    for path in [format!("/v1/connections/{id}/reconnect"), "/v1/connections/oauth/whatsapp/authorize-url".to_owned()] {
        let body = path.ends_with("url").then(|| json!({ "connection_id": id }));
        let no = rig.ask("POST", &path, body.as_ref()).await.problem(422, "INVALID_REQUEST");
        assert!(no["message"].as_str().unwrap().contains("embedded signup"), "{no}");
    }

    let code = rig.providers.meta.code();
    let again = |code: &str, account: &str| json!({ "connection_id": id, "code": code, "waba_id": account });
    let answer = rig.ask("POST", COMPLETE, Some(&again(&code, WABA))).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    assert_eq!(answer.ok()["id"], id);
    let (second, state) = token_of(&rig, id).await;
    assert!(first != second && state["generation"] == 2 && state["expires_at"].is_string(), "{state}");
    let code = rig.providers.meta.code();
    rig.ask("POST", COMPLETE, Some(&again(&code, OTHER_WABA))).await.problem(409, "ACCOUNT_CHANGED");
    let taken = json!({ "display_name": "Shop", "code": code, "waba_id": WABA });
    rig.ask("POST", COMPLETE, Some(&taken)).await.problem(409, "ALREADY_EXISTS");
    assert!(!rig.providers.meta.is_used(&code), "what is wrong already costs no code");
    assert_eq!(token_of(&rig, id).await.0, second, "the token that works stays");

    let manual = json!({ "connection_id": id, "access_token": TOKEN, "business_account_id": WABA });
    let answer = rig.ask("POST", MANUAL, Some(&manual)).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    let (third, state) = token_of(&rig, id).await;
    assert_eq!((third.as_str(), &state["generation"], &state["expires_at"]), (TOKEN, &json!(3), &Value::Null));
    assert_eq!(rig.secret(id).await.0["phone_number_id"], NUMBERS[0]);
    let key = rig.api.world.connection("Key").await;
    let other = json!({ "connection_id": key.to_string(), "access_token": TOKEN, "business_account_id": WABA });
    let no = rig.ask("POST", MANUAL, Some(&other)).await.problem(422, "INVALID_REQUEST");
    assert_eq!(no["errors"][0]["pointer"], "/connection_id", "{no}");
}

#[tokio::test]
async fn an_account_is_connected_again_whoever_renames_it_or_goes_away_meanwhile() {
    let rig = Rig::embedded().await;
    let manual = json!({ "display_name": "Shop", "access_token": TOKEN, "business_account_id": WABA });
    let saved = rig.ask("POST", MANUAL, Some(&manual)).await.ok();
    let id = saved["id"].as_str().unwrap();
    let code = rig.providers.meta.code();
    let again = json!({ "connection_id": id, "code": code, "waba_id": WABA });
    rig.providers.meta.holds(true);
    let rename = async {
        until("the account is looked at", async || rig.providers.meta.looks() == 2).await;
        rig.ask("PATCH", &format!("/v1/connections/{id}"), Some(&json!({ "display_name": "Outlet" }))).await.ok();
        rig.providers.meta.holds(false);
    };
    let (answer, ()) = tokio::join!(rig.ask("POST", COMPLETE, Some(&again)), rename);
    let answer = answer.ok();
    assert_eq!((&answer["name"], &answer["version"]), (&json!("Outlet"), &rig.connection(id).await["version"]));

    let manual = json!({ "connection_id": id, "access_token": TOKEN, "business_account_id": WABA });
    rig.providers.meta.holds(true);
    tokio::select! {
        answer = rig.ask("POST", MANUAL, Some(&manual)) => panic!("answered: {answer:?}"),
        () = until("the account is looked at", async || rig.providers.meta.looks() == 3) => {}
    }
    rig.providers.meta.holds(false);
    until("it is saved", async || token_of(&rig, id).await.0 == TOKEN).await;
}

#[tokio::test]
async fn whoever_has_used_up_a_code_is_told_to_sign_up_again() {
    let rig = Rig::embedded().await;
    let signup =
        |account: &str| json!({ "display_name": "Shop", "code": rig.providers.meta.code(), "waba_id": account });
    let no = rig.ask("POST", COMPLETE, Some(&signup("404"))).await.problem(422, "INVALID_REQUEST");
    assert_eq!(no["errors"][0]["pointer"], "/waba_id", "{no}");
    assert!(no.to_string().contains("the code is used up"), "{no}");
    rig.providers.meta.is_down(true);
    let no = rig.ask("POST", COMPLETE, Some(&signup(WABA))).await.problem(503, "CONNECT_CODE_SPENT");
    assert!(no["message"].as_str().unwrap().contains("embedded signup again"), "{no}");
}

/// The stand-in refuses what Meta does: otherwise the tests above show little.
#[tokio::test]
async fn the_stand_in_is_strict() {
    let rig = Rig::embedded().await;
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(rig.providers.authority.as_bytes()).unwrap()])
        .resolve(HOST, rig.providers.meta.address())
        .build()
        .unwrap();
    let code = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.text().await.unwrap().parse().unwrap();
        (status, body["error"]["code"].as_u64())
    };
    let exchange = async |form: &[(&str, &str)]| {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = http.post(format!("https://{HOST}/v22.0/oauth/access_token")).body(body);
        code(request.header("content-type", "application/x-www-form-urlencoded")).await
    };
    let held = rig.providers.meta.code();
    let good = [("client_id", CLIENT.0), ("client_secret", CLIENT.1), ("code", held.as_str())];
    let with =
        |name: &str, value: &'static str| good.map(|(known, it)| (known, if known == name { value } else { it }));
    assert_eq!(exchange(&with("client_id", "1")).await, (400, Some(101)));
    assert_eq!(exchange(&with("client_secret", "wrong")).await, (400, Some(1)));
    assert_eq!(exchange(&with("code", "wrong")).await, (400, Some(100)));
    let redirected: Vec<_> = good.into_iter().chain([("redirect_uri", "https://credway.example.com/")]).collect();
    assert_eq!(exchange(&redirected).await, (400, Some(100)));
    assert_eq!(exchange(&good).await, (200, None));
    assert_eq!(exchange(&good).await, (400, Some(100)), "a code is good once");

    let look = async |id: &str, token: &str| {
        code(http.get(format!("https://{HOST}/v22.0/{id}?fields=id,name")).bearer_auth(token)).await
    };
    assert_eq!(look(WABA, TOKEN).await, (200, None));
    assert_eq!(look(WABA, "canary-expired").await, (401, Some(190)));
    assert_eq!(look(WABA, WEAK_TOKEN).await, (403, Some(200)));
    assert_eq!(look(NUMBERS[0], TOKEN).await, (400, Some(100)));
}
