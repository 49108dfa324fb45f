//! Instances and their config profiles over REST, as far as a resolution of a running sidecar.

use std::time::Duration;

use credway::clock::Clock;
use credway::model::caller::{Role, Scope};
use serde_json::{Value, json};

use super::{Answer, Api};
use crate::support::answers::{asking, refused, value};
use crate::support::openbao::until;

const INSTANCES: &str = "/v1/mcp/instances";

impl Api {
    /// With the ETag that its sender has seen.
    pub(crate) async fn ask_if(&self, token: &str, etag: &str, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {token}");
        self.send(method, path, &[("authorization", &bearer), ("if-match", etag)], Some(body)).await
    }

    /// How long after now the sidecar hands out `expected` as API_KEY of an instance.
    pub(crate) async fn until_resolved(&self, instance: &str, workflow: &str, expected: &str) -> Duration {
        let token = self.world.token(&[Scope::McpExecute]).await;
        let mut client = self.sidecar.client(&token).await;
        let begun = Clock::System.moment();
        until(&format!("{instance} resolves to {expected}"), async || {
            let mut request = asking(instance);
            request.workflow_id = workflow.to_owned();
            let answer = client.resolve_credentials(request).await;
            answer.is_ok_and(|answer| value(answer.get_ref(), "API_KEY") == format!("{expected:?}"))
        })
        .await;
        Clock::System.moment().since(begun)
    }

    /// The path of a profile, by the names of instance and profile.
    fn profile(instance: &str, profile: &str) -> String {
        format!("{INSTANCES}/{instance}/config-profiles/{profile}")
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

async fn an_instance_lives_its_life(api: Api) {
    let token = api.token(Role::Contributor).await;
    let connection = api.world.connection("sandbox").await.to_string();
    let new = json!({ "name": "second", "service": "pay" });
    let made = api.ask(&token, "POST", INSTANCES, Some(&new)).await;
    assert_eq!((made.status.as_u16(), made.etag()), (201, "\"1\"".to_owned()));
    let made = made.ok();
    assert_eq!((&made["name"], &made["server_url"]), (&json!("second"), &json!("https://mcp.example.com/pay")));
    api.ask(&token, "POST", INSTANCES, Some(&new)).await.problem(409, "ALREADY_EXISTS");
    let path = format!("{INSTANCES}/{}", text(&made["id"]));
    let renamed = api.ask_if(&token, "\"1\"", "PATCH", &path, &json!({ "name": "two" })).await;
    assert_eq!(renamed.etag(), "\"2\"");
    api.ask_if(&token, "\"1\"", "PATCH", &path, &json!({ "name": "three" })).await.problem(412, "CHANGED_MEANWHILE");
    let listed = api.ask(&token, "GET", INSTANCES, None).await.ok();
    let names: Vec<&str> = listed["items"].as_array().unwrap().iter().map(|item| text(&item["name"])).collect();
    assert_eq!(names, ["pay", "two"]);

    // Without what the server requires a profile may be written, and not be active.
    let new = json!({ "name": "live", "values": { "TIMEOUT": "20" } });
    let profile = api.ask(&token, "POST", &format!("{path}/config-profiles"), Some(&new)).await;
    assert_eq!(profile.status, 201, "{profile:?}");
    let profile = profile.ok();
    assert_eq!((&profile["missing_keys"], &profile["values"]), (&json!(["API_KEY"]), &json!({ "TIMEOUT": 20 })));
    let profile = format!("{path}/config-profiles/{}", text(&profile["id"]));
    let incomplete = api.ask(&token, "POST", &format!("{profile}/set-active"), None).await;
    assert_eq!(incomplete.problem(422, "CONFIG_INCOMPLETE")["ids"]["keys"], "API_KEY");

    // Quick apply tells what it would do, and then does it.
    let apply = |dry_run: bool| json!({ "connection_id": connection, "dry_run": dry_run });
    let quick = format!("{profile}/apply-connection");
    let diff = api.ask(&token, "POST", &quick, Some(&apply(true))).await.ok();
    let after = json!({ "connection_id": connection, "credential": "api_key" });
    assert_eq!(diff["changes"], json!([{ "key": "API_KEY", "before": null, "after": after }]));
    assert_eq!(api.ask(&token, "GET", &profile, None).await.ok()["source_spec"], json!({}));
    let applied = api.ask(&token, "POST", &quick, Some(&apply(false))).await;
    assert_eq!(applied.etag(), "\"2\"");
    let applied = applied.ok();
    assert_eq!((&applied["changes"], &applied["unfed"]), (&diff["changes"], &json!([])));
    let again = api.ask(&token, "POST", &quick, Some(&apply(false))).await;
    assert_eq!((again.etag(), &again.body["changes"]), ("\"2\"".to_owned(), &json!([])));

    assert_eq!(api.ask(&token, "POST", &format!("{profile}/set-active"), None).await.ok()["is_active"], true);
    let took = api.until_resolved("two", "", "canary-sandbox-key").await;
    eprintln!("an instance made over REST is resolved {took:?} after its profile was made active");
    api.ask(&token, "DELETE", &profile, None).await.problem(409, "IN_USE");

    let other = api.ask(&token, "POST", &format!("{path}/config-profiles"), Some(&json!({ "name": "other" }))).await;
    let other = format!("{path}/config-profiles/{}", text(&other.ok()["id"]));
    assert_eq!(api.ask(&token, "DELETE", &other, None).await.status, 204);
    api.ask(&token, "GET", &other, None).await.problem(404, "NOT_FOUND");
    assert_eq!(api.ask(&token, "DELETE", &path, None).await.status, 204);
    api.ask(&token, "GET", &path, None).await.problem(404, "NOT_FOUND");
    api.sidecar.caught_up().await;
    let mut client = api.sidecar.client(&api.world.token(&[Scope::McpExecute]).await).await;
    assert_eq!(refused(client.resolve_credentials(asking("two")).await), "INSTANCE_NOT_FOUND");
    api.sidecar.stop().await;
}

#[tokio::test]
async fn an_instance_lives_its_life_on_sqlite() {
    an_instance_lives_its_life(Api::embedded().await).await;
}

#[tokio::test]
async fn an_instance_lives_its_life_on_postgres_and_openbao() {
    an_instance_lives_its_life(Api::on_servers().await).await;
}

/// Writers of one profile at once: whoever is told that it was written finds it written, whoever is not is told so.
async fn two_writers_lose_nothing(api: Api) {
    let token = api.token(Role::Contributor).await;
    let path = Api::profile("pay", "live");
    let sandbox = api.world.connection("sandbox").await.to_string();
    let (mut conflicts, mut outdated) = (0, 0);
    for round in 0..20 {
        let etag = api.ask(&token, "GET", &path, None).await.etag();
        let values = json!({ "values": { "TIMEOUT": round } });
        let connection =
            if round % 2 == 0 { sandbox.clone() } else { api.world.connection("charge").await.to_string() };
        let wire = json!({ "connection_id": connection, "credential": "api_key" });
        let wiring = json!({ "source_spec": { "API_KEY": wire } });
        let (one, other) = match round % 2 {
            0 => tokio::join!(
                api.ask_if(&token, &etag, "PATCH", &path, &values),
                api.ask_if(&token, &etag, "PATCH", &path, &wiring)
            ),
            _ => tokio::join!(
                api.ask(&token, "PATCH", &path, Some(&values)),
                api.ask(&token, "PATCH", &path, Some(&wiring))
            ),
        };
        let now = api.ask(&token, "GET", &path, None).await.ok();
        for (answer, key, written) in [
            (&one, "values", now["values"]["TIMEOUT"] == json!(round)),
            (&other, "source_spec", now["source_spec"]["API_KEY"] == wire),
        ] {
            match answer.status.as_u16() {
                200 => assert!(written, "{key} of round {round} was acknowledged and lost: {now}"),
                409 if round % 2 == 1 => conflicts += 1,
                412 if round % 2 == 0 => outdated += 1,
                status => panic!("{status}: {answer:?}"),
            }
        }
        // With a version, exactly one of two writes.
        assert!(round % 2 == 1 || one.status != other.status, "{one:?} {other:?}");
    }
    eprintln!("of 20 rounds: {outdated} told 412, {conflicts} told 409");
    api.sidecar.stop().await;
}

#[tokio::test]
async fn of_two_writers_of_one_profile_one_is_told_and_nothing_is_lost_on_sqlite() {
    two_writers_lose_nothing(Api::embedded().await).await;
}

#[tokio::test]
async fn of_two_writers_of_one_profile_one_is_told_and_nothing_is_lost_on_postgres() {
    two_writers_lose_nothing(Api::on_servers().await).await;
}

#[tokio::test]
async fn a_change_of_the_wiring_reaches_what_a_running_sidecar_answers() {
    let api = Api::on_servers().await;
    let token = api.token(Role::Contributor).await;
    api.until_resolved("pay", "", "canary-production-key").await;
    let wire = json!({ "connection_id": api.world.connection("sandbox").await.to_string(), "credential": "api_key" });
    let change = json!({ "source_spec": { "API_KEY": wire } });
    api.ask(&token, "PATCH", &Api::profile("pay", "live"), Some(&change)).await.ok();
    let took = api.until_resolved("pay", "", "canary-sandbox-key").await;
    eprintln!("a new wiring is answered {took:?} after REST acknowledged it");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn what_does_not_fit_a_profile_is_pointed_at() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let production = api.world.connection("production").await.to_string();
    let gone = credway::model::id::ConnectionId::generate().to_string();
    let wire = |connection: &str, credential: &str| json!({ "connection_id": connection, "credential": credential });
    let table = [
        (json!({ "values": { "API_KEY": "canary" } }), "/values/API_KEY", "the key is secret"),
        (json!({ "values": { "TIMEOUT": "long" } }), "/values/TIMEOUT", "is not a number"),
        (json!({ "values": { "REGIO/N": "eu" } }), "/values/REGIO~1N", "did you mean \"REGION\"?"),
        (json!({ "values": { "REGION": ["eu"] } }), "/values/REGION", ""),
        (
            json!({ "source_spec": { "API_KEY": wire(&gone, "api_key") } }),
            "/source_spec/API_KEY/connection_id",
            gone.as_str(),
        ),
        (
            json!({ "source_spec": { "API_KEY": wire("pay", "api_key") } }),
            "/source_spec/API_KEY/connection_id",
            "not a connection id",
        ),
        (
            json!({ "source_spec": { "API_KEY": wire(&production, "apikey") } }),
            "/source_spec/API_KEY",
            "did you mean \"api_key\"?",
        ),
        (json!({ "source_spec": { "API": wire(&production, "api_key") } }), "/source_spec/API", "no key \"API\""),
        (json!({ "name": " " }), "/name", "white space"),
    ];
    let path = Api::profile("pay", "live");
    let before = api.ask(&token, "GET", &path, None).await.ok();
    for (change, pointer, detail) in table {
        let problem = api.ask(&token, "PATCH", &path, Some(&change)).await.problem(422, "INVALID_REQUEST");
        let error = &problem["errors"][0];
        assert_eq!(error["pointer"], pointer, "{problem}");
        assert!(text(&error["detail"]).contains(detail), "{problem}");
        assert!(!problem.to_string().contains("canary"), "{problem}");
    }
    assert_eq!(api.ask(&token, "GET", &path, None).await.ok(), before);
    for (new, pointer) in [
        (json!({}), ""),
        (json!({ "service": "pay", "server_id": "srv_1" }), ""),
        (json!({ "server_id": "pay" }), "/server_id"),
        (json!({ "service": "pay", "name": "Pay" }), "/name"),
    ] {
        let problem = api.ask(&token, "POST", INSTANCES, Some(&new)).await.problem(422, "INVALID_REQUEST");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    api.ask(&token, "POST", INSTANCES, Some(&json!({ "service": "nobody" }))).await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_profile_becomes_active_only_if_its_connections_and_those_of_overrides_offer_what_it_asks_for() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let admin = api.token(Role::Admin).await;
    let new = json!({ "display_name": "Other", "provider": "acme", "credentials": { "token": "canary-token" } });
    let other = api.ask(&token, "POST", "/v1/connections", Some(&new)).await.ok();
    let other = text(&other["id"]);
    let profiles = format!("{INSTANCES}/pay/config-profiles");
    let new = |name: &str, connection: &str, credential: &str| {
        let wire = json!({ "connection_id": connection, "credential": credential });
        json!({ "name": name, "source_spec": { "API_KEY": wire } })
    };
    // The workflow `rehearsal` puts connections in its place that have an api_key, and no token.
    api.ask(&token, "POST", &profiles, Some(&new("by-token", other, "token"))).await.ok();
    let set_active = |profile: &str| format!("{profiles}/{profile}/set-active");
    let refused = api.ask(&token, "POST", &set_active("by-token"), None).await.problem(409, "OVERRIDE_INCOMPATIBLE");
    assert!(text(&refused["detail"]).contains("does not offer token"), "{refused}");
    // Nor is the one that is active wired so.
    let live = Api::profile("pay", "live");
    let wire = json!({ "source_spec": { "API_KEY": { "connection_id": other, "credential": "token" } } });
    api.ask(&token, "PATCH", &live, Some(&wire)).await.problem(409, "OVERRIDE_INCOMPATIBLE");
    let quick = json!({ "connection_id": other });
    let applied = api.ask(&token, "POST", &format!("{live}/apply-connection"), Some(&quick)).await;
    applied.problem(409, "OVERRIDE_INCOMPATIBLE");

    let charge = api.world.connection("charge").await.to_string();
    api.ask(&token, "POST", &profiles, Some(&new("by-charge", &charge, "api_key"))).await.ok();
    api.ask(&admin, "DELETE", &format!("/v1/connections/{charge}?force=true"), None).await;
    let refused = api.ask(&token, "POST", &set_active("by-charge"), None).await.problem(409, "CONNECTION_MISSING");
    assert_eq!(refused["ids"]["connection_id"], charge.as_str());
    assert_eq!(api.ask(&token, "GET", &Api::profile("pay", "live"), None).await.ok()["is_active"], true);
}

#[tokio::test]
async fn quick_apply_says_why_a_connection_does_not_fit() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let new =
        json!({ "display_name": "Pair", "provider": "acme", "credentials": { "user": "u", "password": "canary-p" } });
    let pair = api.ask(&token, "POST", "/v1/connections", Some(&new)).await.ok();
    let path = Api::profile("pay", "live") + "/apply-connection";
    let before = api.ask(&token, "GET", &Api::profile("pay", "live"), None).await.etag();
    let problem = api.ask(&token, "POST", &path, Some(&json!({ "connection_id": pair["id"] }))).await;
    let problem = problem.problem(422, "INVALID_REQUEST");
    let error = &problem["errors"][0];
    assert_eq!(error["pointer"], "/connection_id");
    assert!(text(&error["detail"]).contains("(password, user)"), "{problem}");
    assert_eq!(api.ask(&token, "GET", &Api::profile("pay", "live"), None).await.etag(), before);
    // From one connection to another, the difference is told.
    let sandbox = api.world.connection("sandbox").await.to_string();
    let body = json!({ "connection_id": sandbox, "dry_run": true });
    let diff = api.ask_if(&token, &before, "POST", &path, &body).await.ok();
    let production = api.world.connection("production").await.to_string();
    assert_eq!(diff["changes"][0]["before"], json!({ "connection_id": production, "credential": "api_key" }));
    assert_eq!(diff["changes"][0]["after"]["connection_id"], sandbox.as_str());
    api.ask_if(&token, "\"7\"", "POST", &path, &body).await.problem(412, "CHANGED_MEANWHILE");
}

#[tokio::test]
async fn quick_apply_finds_the_keys_of_a_platform_server_by_what_the_template_says() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let credentials =
        json!({ "host": "db.example.com", "database": "books", "user": "reader", "password": "canary-password" });
    let new = json!({ "display_name": "Books", "provider": "mysql", "credentials": credentials });
    let connection = api.ask(&token, "POST", "/v1/connections", Some(&new)).await.ok()["id"].clone();
    api.ask(&token, "POST", INSTANCES, Some(&json!({ "service": "mysql" }))).await.ok();
    let profiles = format!("{INSTANCES}/mysql/config-profiles");
    api.ask(&token, "POST", &profiles, Some(&json!({ "name": "live" }))).await.ok();
    let path = Api::profile("mysql", "live");
    let body = json!({ "connection_id": connection });
    let applied = api.ask(&token, "POST", &format!("{path}/apply-connection"), Some(&body)).await.ok();
    let fed: Vec<(&str, &str)> = applied["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (text(&change["key"]), text(&change["after"]["credential"])))
        .collect();
    let expected = [
        ("mysql_database", "database"),
        ("mysql_host", "host"),
        ("mysql_password", "password"),
        ("mysql_port", "port"),
        ("mysql_user", "user"),
    ];
    assert_eq!(fed, expected, "{applied}");
    assert_eq!(applied["unfed"], json!([]));
    assert_eq!(api.ask(&token, "POST", &format!("{path}/set-active"), None).await.ok()["is_active"], true);
    assert!(!applied.to_string().contains("canary"), "{applied}");
}

async fn an_instance_that_is_overridden_goes_only_by_force(api: Api) {
    let (contributor, admin) = (api.token(Role::Contributor).await, api.token(Role::Admin).await);
    api.world.control.instance_token_create(&api.world.workspace, "pay", "pay process".into(), None).await.unwrap();
    let path = format!("{INSTANCES}/pay");
    let problem = api.ask(&contributor, "DELETE", &path, None).await.problem(409, "IN_USE");
    assert_eq!(problem["references"], json!(["workflow rehearsal"]));
    let forced = format!("{path}?force=true");
    api.ask(&contributor, "DELETE", &forced, None).await.problem(403, "PERMISSION_DENIED");
    assert_eq!(api.ask(&admin, "DELETE", &forced, None).await.status, 204);
    let state = api.world.state().await;
    assert!(state.instances.is_empty() && state.profiles.is_empty());
    assert!(state.tokens.iter().all(|token| token.instance.is_none()), "{:?}", state.tokens);
    // The workflow keeps the environment that it is limited to.
    let [workflow] = state.workflows.as_slice() else { panic!("{:?}", state.workflows) };
    assert_eq!((workflow.environment.as_deref(), workflow.overrides.len()), (Some("sandbox"), 0));
    api.sidecar.stop().await;
}

#[tokio::test]
async fn an_instance_that_is_overridden_goes_only_by_force_on_sqlite() {
    an_instance_that_is_overridden_goes_only_by_force(Api::embedded().await).await;
}

#[tokio::test]
async fn an_instance_that_is_overridden_goes_only_by_force_on_postgres() {
    an_instance_that_is_overridden_goes_only_by_force(Api::on_servers().await).await;
}

#[tokio::test]
async fn the_same_key_twice_makes_one_instance_and_one_profile() {
    let api = Api::embedded().await;
    let bearer = format!("Bearer {}", api.token(Role::Contributor).await);
    for (path, body) in [
        (INSTANCES.to_owned(), json!({ "name": "once", "service": "pay" })),
        (format!("{INSTANCES}/pay/config-profiles"), json!({ "name": "once" })),
    ] {
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", path.as_str())];
        let first = api.send("POST", &path, &headers, Some(&body)).await.ok();
        assert_eq!(api.send("POST", &path, &headers, Some(&body)).await.ok(), first);
    }
}

#[tokio::test]
async fn the_active_profile_keeps_what_its_server_requires() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let path = Api::profile("pay", "live");
    let before = api.ask(&token, "GET", &path, None).await.etag();
    let change = json!({ "source_spec": {}, "values": {} });
    let problem = api.ask(&token, "PATCH", &path, Some(&change)).await.problem(422, "CONFIG_INCOMPLETE");
    assert_eq!(problem["ids"]["keys"], "API_KEY", "{problem}");
    assert_eq!(api.ask(&token, "GET", &path, None).await.etag(), before);
    api.ask(&token, "PATCH", &path, Some(&json!({ "values": {} }))).await.ok();
    // One that lacked a key before, because the server asks for more than it did, may be changed all the same.
    let more = json!({ "config_schema": {
        "API_KEY": { "required": true, "secret": true }, "REGION": {}, "ZONE": { "required": true },
    }, "tools": [] });
    let spanning = api.world.token_with(Role::Contributor, &[Scope::McpWrite], None, None).await;
    let (bearer, project) = (format!("Bearer {spanning}"), api.world.workspace.project.id.to_string());
    let headers = [("authorization", bearer.as_str()), ("x-project-id", &project)];
    api.send("POST", "/v1/mcp/servers/pay/versions", &headers, Some(&more)).await.ok();
    let changed = api.ask(&token, "PATCH", &path, Some(&json!({ "values": { "REGION": "eu" } }))).await.ok();
    assert_eq!((&changed["is_active"], &changed["missing_keys"]), (&json!(true), &json!(["ZONE"])));
}

/// One makes a profile active while another takes a required key from it: whoever comes second is told no.
async fn no_profile_becomes_active_while_it_is_emptied(api: Api) {
    let token = api.token(Role::Contributor).await;
    let connection = api.world.connection("production").await.to_string();
    let wired = json!({ "source_spec": { "API_KEY": { "connection_id": connection, "credential": "api_key" } } });
    let (empty, path) = (json!({ "source_spec": {} }), Api::profile("pay", "other"));
    let new = json!({ "name": "other" });
    api.ask(&token, "POST", &format!("{INSTANCES}/pay/config-profiles"), Some(&new)).await.ok();
    let activate = |profile: &str| Api::profile("pay", profile) + "/set-active";
    let mut won = [0, 0];
    for _ in 0..20 {
        api.ask(&token, "PATCH", &path, Some(&wired)).await.ok();
        let set_active = activate("other");
        let (set, emptied) =
            tokio::join!(api.ask(&token, "POST", &set_active, None), api.ask(&token, "PATCH", &path, Some(&empty)));
        let now = api.ask(&token, "GET", &path, None).await.ok();
        let (is_active, is_empty) = (now["is_active"] == true, now["missing_keys"] != json!([]));
        assert!(!(is_active && is_empty), "{set:?} {emptied:?}");
        assert_eq!(
            (set.status.is_success(), emptied.status.is_success()),
            (is_active, is_empty),
            "{set:?} {emptied:?}"
        );
        won[usize::from(is_empty)] += 1;
        api.ask(&token, "POST", &activate("live"), None).await.ok();
    }
    eprintln!("of 20 rounds {} made it active and {} emptied it", won[0], won[1]);
    api.sidecar.stop().await;
}

#[tokio::test]
async fn no_profile_becomes_active_while_it_is_emptied_on_sqlite() {
    no_profile_becomes_active_while_it_is_emptied(Api::embedded().await).await;
}

#[tokio::test]
async fn no_profile_becomes_active_while_it_is_emptied_on_postgres() {
    no_profile_becomes_active_while_it_is_emptied(Api::on_servers().await).await;
}
