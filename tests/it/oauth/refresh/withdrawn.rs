//! D6, whole: somebody takes access away at the provider while executors use it, and later signs in again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use credway::grpc::proto::ReportCredentialRejectedRequest;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::rig::{Sidecar, Site, provider};
use crate::support::answers::{error_info, reason, value};
use crate::support::daemon::{Client, resolve};
use crate::support::oidc::{ClientProof, Oidc, Person};
use crate::support::openbao::{Bao, free_port, until, until_by};
use crate::support::postgres::Postgres;

/// Within which what is connected again is served by every daemon, notified or not (B4).
const SERVED: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(50);

/// What one daemon answered for one connection, in the order of its answers: a token or a reason, how often, and when first.
type Story = Vec<(Result<String, String>, usize, Instant)>;

/// What every daemon answered, by its number and the instance.
#[derive(Clone, Default)]
struct Stories(Arc<Mutex<BTreeMap<(usize, &'static str), Story>>>);

impl Stories {
    fn add(&self, whose: (usize, &'static str), answered: Result<String, String>) {
        let mut stories = self.0.lock().unwrap();
        let story = stories.entry(whose).or_default();
        match story.last_mut() {
            Some((last, times, _)) if *last == answered => *times += 1,
            _ => story.push((answered, 1, Instant::now())),
        }
    }

    fn of(&self, instance: &str) -> Vec<Story> {
        let stories = self.0.lock().unwrap();
        stories.iter().filter(|((_, of), _)| *of == instance).map(|(_, story)| story.clone()).collect()
    }

    /// Returns once what every daemon answers last is this, and was so a few times.
    async fn until_all_answer(&self, instance: &str, is_it: impl Fn(&Result<String, String>) -> bool) {
        const TIMES: usize = 5;
        let is_last = |story: &Story| story.last().is_some_and(|(last, times, _)| *times >= TIMES && is_it(last));
        until_by(SERVED, "every daemon answers so", async || self.of(instance).iter().all(is_last)).await;
    }
}

/// Resolves all the time, uses the token at the provider, and says so if it was rejected there.
async fn execute(mut client: Client, oidc: Arc<Oidc>, whose: (usize, &'static str), stories: Stories) {
    loop {
        match resolve(&mut client, whose.1).await {
            Ok(answer) => {
                let token = value(&answer, "API_KEY").trim_matches('"').to_owned();
                stories.add(whose, Ok(token.clone()));
                if !oidc.is_alive(&token).await {
                    let used = answer.provenance.unwrap().connections.remove(0);
                    let report = ReportCredentialRejectedRequest {
                        connection_id: used.connection_id,
                        secret_version: used.secret_version,
                    };
                    // That a person must reconnect it is told by what is resolved next.
                    drop(client.report_credential_rejected(report).await);
                }
            }
            Err(status) => stories.add(whose, Err(reason(&status))),
        }
        sleep(PAUSE).await;
    }
}

/// One request to the REST API of a daemon.
async fn ask(site: &Site<'_>, sidecar: &Sidecar, method: &str, path: &str) -> Value {
    let url = format!("http://{}/v1{path}", sidecar.daemon.address("http"));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.request(method.parse().unwrap(), url).bearer_auth(site.token()).send().await.unwrap();
    let (status, body) = (answer.status(), answer.json::<Value>().await.unwrap());
    assert!(matches!(status, StatusCode::OK | StatusCode::CREATED), "{method} {path}: {body}");
    body
}

/// Two daemons, the first of which people reach.
async fn sidecars(site: &Site<'_>, oidc: &Oidc) -> [Sidecar; 2] {
    let address = format!("127.0.0.1:{}", free_port());
    let public_url = format!("http://{address}");
    oidc.client("app", ClientProof::Post("secret"), &format!("{public_url}/oauth/callback")).await;
    let of_people = [("http.address", address.as_str()), ("oauth.public_url", public_url.as_str())];
    [site.sidecar(&of_people).await, site.sidecar(&[]).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawn_access_is_for_a_person_who_brings_it_back_and_others_are_untouched() {
    let (oidc, bao) = (Arc::new(provider().await), Bao::shared().await);
    let site = Site::new(&oidc, bao, r#"{ kind = "old_dies" }"#, Some(Postgres::fresh_database().await), 2).await;
    site.tokens_live(Duration::from_secs(1800)).await;
    let sidecars = sidecars(&site, &oidc).await;
    let (stories, mut executors) = (Stories::default(), JoinSet::new());
    for (nth, sidecar) in sidecars.iter().enumerate() {
        for instance in ["c0", "c1"] {
            let client = sidecar.client.clone();
            executors.spawn(execute(client, Arc::clone(&oidc), (nth, instance), stories.clone()));
        }
    }
    let (first, other) = (&site.minted[0].access_token, &site.minted[1].access_token);
    until("all have asked", async || stories.of("c0").len() == 2 && stories.of("c1").len() == 2).await;
    stories.until_all_answer("c0", |answer| answer.as_ref() == Ok(first)).await;
    let used = resolve(&mut sidecars[0].client.clone(), "c0").await.unwrap().provenance.unwrap().connections.remove(0);
    let id = used.connection_id;

    let revoked = Instant::now();
    oidc.revoke(&site.minted[0].grant).await;
    let needs_person = Err("RECONNECT_REQUIRED".to_owned());
    stories.until_all_answer("c0", |answer| *answer == needs_person).await;
    let told: Vec<u128> = stories.of("c0").iter().map(|story| story[1].2.duration_since(revoked).as_millis()).collect();
    let status = resolve(&mut sidecars[1].client.clone(), "c0").await.unwrap_err();
    let remedy = error_info(&status).metadata["remedy"].clone();
    assert!(remedy.starts_with(&format!("reconnect it at /connections/{id}")), "{remedy}");
    let seen = ask(&site, &sidecars[1], "GET", &format!("/connections/{id}")).await;
    assert_eq!((&seen["status"], &seen["status_reason"]), (&"reconnect".into(), &"GRANT_REVOKED".into()), "{seen}");
    assert_eq!(site.gate.requests(), 1, "the provider is asked once, and not again");
    assert!(!site.fields_of(&id).await["refresh_token"].as_str().unwrap().is_empty(), "tokens are never deleted");

    let begun = ask(&site, &sidecars[0], "POST", &format!("/connections/{id}/reconnect")).await;
    assert_eq!(begun["connection_id"], id.as_str());
    let page = oidc.sign_in(&begun["authorize_url"].as_str().unwrap().parse().unwrap(), Person::willing("ann")).await;
    let connected = Instant::now();
    assert!(page.contains("<h1>Connected</h1>"), "{page}");
    stories.until_all_answer("c0", |answer| answer.as_ref().is_ok_and(|token| token != first)).await;
    executors.shutdown().await;

    let again: Vec<u128> =
        stories.of("c0").iter().map(|story| story[2].2.duration_since(connected).as_millis()).collect();
    eprintln!(
        "access taken away: daemons refuse after {told:?} ms; connected again: they serve it after {again:?} ms of {SERVED:?}"
    );
    let [one, two] = <[Story; 2]>::try_from(stories.of("c0")).unwrap();
    for story in [&one, &two] {
        let answers: Vec<_> = story.iter().map(|(answer, ..)| answer).collect();
        assert_eq!(answers, [&Ok(first.clone()), &needs_person, &one[2].0]);
    }
    assert!(oidc.is_alive(one[2].0.as_ref().unwrap()).await);
    let now = resolve(&mut sidecars[1].client.clone(), "c0").await.unwrap().provenance.unwrap().connections.remove(0);
    assert_eq!((&now.connection_id, now.secret_version), (&id, used.secret_version + 1));
    // The one refresh that was refused, and the code of the sign-in.
    assert_eq!(site.gate.requests(), 2);
    for story in stories.of("c1") {
        assert_eq!((story.len(), &story[0].0), (1, &Ok(other.clone())), "the other connection was touched");
    }
}
