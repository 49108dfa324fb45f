//! What answers mean, however oddly they are written.

use zeroize::Zeroizing;

use super::super::wire::Answer;
use super::*;
use crate::model::secret::ExposeSecret;

fn answer(status: u16, body: &str) -> Answer {
    let is_form = !body.starts_with('{');
    let body = Zeroizing::new(body.as_bytes().to_vec());
    Answer { status, is_redirect: false, retry_after: None, is_form, body }
}

fn read(more: &str, status: u16, body: &str) -> Result<Reply, TokenError> {
    reply::read(&described("https://a.example", more), &client(), &answer(status, body))
}

#[test]
fn a_refusal_is_known_by_its_word_wherever_it_stands_and_whatever_the_status() {
    use TokenErrorKind as Kind;
    let other = |code| Kind::Refused { code: Some(code) };
    let table = [
        (400, r#"{"error":"invalid_grant"}"#, Kind::GrantDead),
        (401, r#"{"error":"invalid_grant"}"#, Kind::GrantDead),
        // Atlassian's.
        (403, r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#, Kind::GrantDead),
        (500, r#"{"error":"invalid_grant"}"#, Kind::GrantDead),
        (200, r#"{"error":"invalid_grant"}"#, Kind::GrantDead),
        // GitHub's, with a 200, and as a form.
        (200, r#"{"error":"bad_refresh_token"}"#, Kind::GrantDead),
        (200, "error=bad_refresh_token&error_description=x", Kind::GrantDead),
        (200, "error=incorrect_client_credentials", Kind::ClientRefused),
        // HubSpot's.
        (400, r#"{"status":"BAD_REFRESH_TOKEN","message":"x"}"#, Kind::GrantDead),
        (400, r#"{"error":"interaction_required","error_codes":[50076]}"#, Kind::GrantDead),
        (400, r#"{"error":{"type":"invalid_grant"}}"#, Kind::GrantDead),
        (401, r#"{"error":"invalid_client"}"#, Kind::ClientRefused),
        (400, r#"{"error":"unauthorized_client"}"#, Kind::ClientRefused),
        (400, r#"{"error":"invalid_scope"}"#, Kind::ScopeRefused),
        (400, r#"{"error":"invalid_request"}"#, other("invalid_request")),
        (400, r#"{"error":"unsupported_grant_type"}"#, other("unsupported_grant_type")),
        (400, r#"{"error":"temporarily_unavailable"}"#, Kind::Busy),
        (400, r#"{"error":"slow_down"}"#, Kind::Busy),
        // oidc-provider's, which has consumed the token before it says that.
        (500, r#"{"error":"server_error"}"#, Kind::MaybeSent),
        (400, r#"{"error":"server_error"}"#, Kind::MaybeSent),
        (500, r#"{"error":"slow_down"}"#, Kind::Busy),
        // Notion's.
        (429, r#"{"code":"rate_limited"}"#, Kind::Busy),
        (429, "", Kind::Busy),
        // Said of a backend that is gone, by what stands before it.
        (503, "<html>", Kind::MaybeSent),
        (503, "", Kind::MaybeSent),
        // Nor does a word tell by whom, and in the midst of what, it was said.
        (503, r#"{"error":"temporarily_unavailable"}"#, Kind::MaybeSent),
        (500, "", Kind::MaybeSent),
        (502, "<html>", Kind::MaybeSent),
        (504, r#"{"message":"Endpoint request timed out"}"#, Kind::MaybeSent),
        (408, "", Kind::MaybeSent),
        // Nothing that we do not know is repeated.
        (400, r#"{"error":"rt-1a2b3c is not good"}"#, Kind::Refused { code: None }),
        (400, r#"{"error":true,"status":400}"#, Kind::Refused { code: None }),
        (403, "<html>", Kind::Refused { code: None }),
        (200, "", Kind::Unreadable),
        (200, "<html>a=b</html>", Kind::Unreadable),
        (200, "[]", Kind::Unreadable),
        (200, r#"{"token_type":"bearer"}"#, Kind::Unreadable),
        (200, r#"{"access_token":""}"#, Kind::Unreadable),
        (200, r#"{"access_token":null}"#, Kind::Unreadable),
        (200, r#"{"refresh_token":7}"#, Kind::Unreadable),
    ];
    for (status, body, expected) in table {
        let failed = read("", status, body).unwrap_err();
        assert_eq!(failed.kind, expected, "{status} {body}");
        assert!(!format!("{failed} {failed:?}").contains("rt-1a2b3c"));
    }
}

#[test]
fn slacks_word_counts_although_its_status_is_200() {
    let read = |body: &str| read("[reply]\nok = \"/ok\"", 200, body).map(|_| ()).map_err(|failed| failed.kind);
    assert_eq!(read(r#"{"ok":false,"error":"invalid_refresh_token"}"#), Err(TokenErrorKind::GrantDead));
    assert_eq!(read(r#"{"ok":false,"error":"ratelimited"}"#), Err(TokenErrorKind::Busy));
    assert_eq!(read(r#"{"ok":false,"error":"bad_client_secret"}"#), Err(TokenErrorKind::ClientRefused));
    assert_eq!(read(r#"{"ok":false,"access_token":"at"}"#), Err(TokenErrorKind::Refused { code: None }));
    assert_eq!(read(r#"{"ok":true,"access_token":"at"}"#), Ok(()));
    assert_eq!(read(r#"{"ok":false,"error":"a_new_word"}"#), Err(TokenErrorKind::Refused { code: None }));
    assert_eq!(read(r#"{"error":"invalid_refresh_token"}"#), Err(TokenErrorKind::GrantDead));
    // "Some aspect of the operation may have succeeded".
    for broke in ["internal_error", "fatal_error"] {
        assert_eq!(read(&format!(r#"{{"ok":false,"error":"{broke}"}}"#)), Err(TokenErrorKind::MaybeSent));
    }
    for odd in ["", "<html>", r#"{"ok":tr"#, r#"{"access_token":"at"}"#, r#"{"ok":"true","access_token":"at"}"#] {
        assert_eq!(read(odd), Err(TokenErrorKind::Unreadable), "{odd}");
    }
}

#[test]
fn lives_and_scopes_are_read_as_they_come() {
    let life = |more: &str, body: &str| read(more, 200, body).unwrap().expires_in.map(|life| life.as_secs());
    let table = [
        ("", r#"{"access_token":"at","expires_in":3600}"#, Some(3600)),
        ("", r#"{"access_token":"at","expires_in":"3600"}"#, Some(3600)),
        ("", r#"{"access_token":"at","expires_in":3599.9}"#, Some(3599)),
        // No token comes that has ended: that is not known.
        ("", r#"{"access_token":"at","expires_in":-1}"#, None),
        ("", r#"{"access_token":"at","expires_in":0}"#, None),
        ("", r#"{"access_token":"at","expires_in":"0"}"#, None),
        ("access_seconds = 7200", r#"{"access_token":"at","expires_in":0}"#, Some(7200)),
        ("", r#"{"access_token":"at","expires_in":1e300}"#, Some(limits::TOKEN_LIFE_MAX.as_secs())),
        ("", r#"{"access_token":"at","expires_in":"soon"}"#, None),
        ("", r#"{"access_token":"at"}"#, None),
        ("access_seconds = 7200", r#"{"access_token":"at"}"#, Some(7200)),
        // The reply knows better.
        ("access_seconds = 7200", r#"{"access_token":"at","expires_in":60}"#, Some(60)),
        ("", "access_token=at&expires_in=28800&token_type=bearer", Some(28800)),
        // {"iat":1000,"exp":4600}
        ("[reply]\nexpiry_in_token = true", r#"{"access_token":"x.eyJpYXQiOjEwMDAsImV4cCI6NDYwMH0.x"}"#, Some(3600)),
        ("[reply]\nexpiry_in_token = true", r#"{"access_token":"opaque"}"#, None),
    ];
    for (more, body, expected) in table {
        assert_eq!(life(more, body), expected, "{body}");
    }
    let scopes = |more: &str, scope: &str| {
        let body = format!(r#"{{"access_token":"at","scope":{scope}}}"#);
        read(more, 200, &body).unwrap().scopes.map(|scopes| scopes.into_iter().collect::<Vec<_>>())
    };
    let both = Some(vec!["a:b".to_owned(), "c".to_owned()]);
    for written in [r#""a:b c""#, r#""c,a:b""#, r#""a:b, c""#, r#"["a:b","c"]"#] {
        assert_eq!(scopes("", written), both, "{written}");
    }
    assert_eq!(scopes("scope_separator = \"|\"", r#""c|a:b""#), both);
    assert_eq!((scopes("", "\"\""), scopes("", "null")), (Some(Vec::new()), None));
}

#[test]
fn a_new_refresh_token_and_its_life_are_found() {
    let reply = |body| read("", 200, body).unwrap();
    let token = |reply: &Reply| reply.refresh_token.as_ref().map(|token| token.expose_secret().to_owned());
    let known = reply(r#"{"access_token":"at","refresh_token":"rt2","refresh_token_expires_in":"15897600"}"#);
    assert_eq!((token(&known).as_deref(), known.refresh_expires_in.unwrap().as_secs()), (Some("rt2"), 15_897_600));
    // Keycloak's word for one that does not end.
    assert_eq!(reply(r#"{"access_token":"at","refresh_token":"rt2","refresh_expires_in":0}"#).refresh_expires_in, None);
    for kept in [r#"{"access_token":"at"}"#, r#"{"access_token":"at","refresh_token":""}"#] {
        assert_eq!(token(&reply(kept)), None, "{kept}");
    }
}

#[test]
fn what_a_template_asks_of_a_reply_becomes_fields() {
    let more = "[reply]\naccess_token = \"/authed_user/access_token\"\n[reply.fields]\nhost = \"/host\"\nteam = \"/team/id\"\nnone = \"/none\"";
    let body = r#"{"access_token":"bot","authed_user":{"access_token":"user"},"host":"eu.example","team":{"id":7}}"#;
    let reply = read(more, 200, body).unwrap();
    let shown: Vec<(&str, &str)> =
        reply.fields.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(
        (reply.access_token.unwrap().expose_secret(), shown),
        ("user", vec![("host", "eu.example"), ("team", "7")])
    );
}

#[test]
fn nothing_secret_is_shown_of_a_reply() {
    let body = r#"{"access_token":"hush-1","refresh_token":"hush-2","id_token":"hush-3","host":"hush-4","x":"hush-5"}"#;
    let reply = read("[reply.fields]\nhost = \"/host\"", 200, body).unwrap();
    assert!(!format!("{reply:?} {:?}", client()).contains("hush"), "{reply:?}");
}

#[test]
fn a_token_that_is_gone_already_is_given_back() {
    let provider = described("https://a.example", "");
    let revoked = |status, body| reply::revoked(&provider, &answer(status, body)).map_err(|failed| failed.kind);
    assert_eq!(revoked(200, ""), Ok(()));
    assert_eq!(revoked(204, ""), Ok(()));
    // Google's.
    assert_eq!(revoked(400, r#"{"error":"invalid_token"}"#), Ok(()));
    assert_eq!(revoked(401, r#"{"error":"invalid_client"}"#), Err(TokenErrorKind::ClientRefused));
    assert_eq!(revoked(503, ""), Err(TokenErrorKind::MaybeSent));
    assert_eq!(revoked(429, ""), Err(TokenErrorKind::Busy));
}
