//! Whether a request was sent, and where it may go.

use super::*;
use crate::model::address::NoAddress;
use crate::model::secret::ExposeSecret;
use crate::probe::egress::Inner;

async fn refreshed(oauth: &OAuth, url: &str) -> Result<Reply, TokenError> {
    let token = SecretString::from("rt");
    let ask = Ask::Refresh { token: &token, scopes: None };
    oauth.token(&described(url, ""), &client(), &SecretFields::new(), ask).await
}

#[tokio::test]
async fn what_an_answer_is_worth_depends_on_how_far_the_request_got() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(refreshed(&oauth(), &format!("http://{closed}")).await.unwrap_err().kind, TokenErrorKind::NotSent);
    let table = [
        (Does::HangsUp, TokenErrorKind::MaybeSent),
        (Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"access_token\":"), TokenErrorKind::MaybeSent),
        (Does::Answers("no HTTP at all\r\n\r\n"), TokenErrorKind::MaybeSent),
        (Does::Answers("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>"), TokenErrorKind::MaybeSent),
        (Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), TokenErrorKind::Unreadable),
    ];
    for (does, expected) in table {
        let (url, served) = provider(does).await;
        let failed = refreshed(&oauth(), &url).await.unwrap_err();
        assert_eq!((failed.kind.clone(), failed.may_be_spent()), (expected, true), "{failed}");
        assert!(served.await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_provider_that_says_nothing_is_left_when_its_time_is_over() {
    let (url, served) = provider(Does::Waits).await;
    let (oauth, token) = (oauth(), SecretString::from("rt"));
    let described = described(&url, "");
    let ask = Ask::Refresh { token: &token, scopes: None };
    let opened = oauth.open(&described, &SecretFields::new(), &ask).await.unwrap();
    tokio::time::pause();
    let failed = opened.token(&client(), &SecretFields::new(), ask).await.unwrap_err();
    assert_eq!(failed.kind, TokenErrorKind::MaybeSent);
    assert!(served.await.is_ok());
}

/// Its timer ends when it goes on, and may be seen before what came meanwhile.
#[tokio::test(start_paused = true)]
async fn who_was_stopped_for_longer_than_the_deadline_still_takes_the_answer() {
    for stop in [30, 120] {
        let (answers, answer) = tokio::sync::oneshot::channel();
        let asking = tokio::spawn(while_running(limits::TOKEN_ANSWER_DEADLINE, answer));
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(stop)).await;
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        answers.send("the answer").unwrap();
        assert_eq!(asking.await.unwrap(), Some(Ok("the answer")));
    }
    let began = tokio::time::Instant::now();
    assert_eq!(while_running(limits::TOKEN_ANSWER_DEADLINE, std::future::pending::<()>()).await, None);
    assert!(began.elapsed() < limits::TOKEN_ANSWER_DEADLINE + Duration::from_millis(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_that_was_opened_and_never_used_has_sent_nothing() {
    let (url, served) = provider(Does::Waits).await;
    let (oauth, described) = (oauth(), described(&url, ""));
    let opened = oauth.open(&described, &SecretFields::new(), &Ask::Mint).await.unwrap();
    drop(opened);
    assert!(served.await.unwrap().is_none());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let answer = "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/token\r\nContent-Length: 0\r\n\r\n";
    let (url, _served) = provider(Does::Answers(answer)).await;
    let kind = refreshed(&oauth(), &url).await.unwrap_err().kind;
    assert_eq!(kind, TokenErrorKind::Refused { code: Some("redirect") });
}

#[tokio::test]
async fn tokens_are_sent_to_public_addresses_and_what_the_settings_allow_and_never_in_the_clear() {
    let strict = OAuth::new(&config::OAuth::default(), &Egress::default(), Clock::System).unwrap();
    let setup = |setup| TokenErrorKind::Setup(setup);
    let table = [
        (&strict, "http://127.0.0.1:1", TokenErrorKind::NotAllowed(Inner::Loopback)),
        (&strict, "https://169.254.169.254", TokenErrorKind::NotAllowed(Inner::Metadata)),
        (&strict, "https://10.0.0.1", TokenErrorKind::NotAllowed(Inner::Private)),
        (&strict, "https://nothing.invalid", TokenErrorKind::NotSent),
        (&oauth(), "http://example.com", setup(Setup::InTheClear)),
        (&oauth(), "https://{host}", setup(Setup::Address(NoAddress::FieldMissing("host".to_owned())))),
    ];
    for (oauth, url, expected) in table {
        assert_eq!(refreshed(oauth, url).await.unwrap_err().kind, expected, "{url}");
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_read_no_further_than_its_bound() {
    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(limits::TOKEN_BODY_BYTES_MAX + 10));
    let (url, _served) = provider(Does::Answers(long.leak())).await;
    assert_eq!(refreshed(&oauth(), &url).await.unwrap_err().kind, TokenErrorKind::Unreadable);
}

/// What was sent for it is spent; a code or an assertion that brings no access token brought nothing.
#[tokio::test]
async fn a_refresh_token_that_comes_alone_is_an_answer_to_a_refresh_and_to_nothing_else() {
    const ALONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{\"refresh_token\":\"rt-2\"}";
    let (url, _served) = provider(Does::Answers(ALONE)).await;
    let reply = refreshed(&oauth(), &url).await.unwrap();
    assert!(reply.access_token.is_none() && reply.refresh_token.unwrap().expose_secret() == "rt-2");
    let (url, _served) = provider(Does::Answers(ALONE)).await;
    let minted = oauth().token(&described(&url, ""), &client(), &SecretFields::new(), Ask::Mint).await;
    assert_eq!(minted.unwrap_err().kind, TokenErrorKind::Unreadable);
}

#[tokio::test]
async fn a_reply_gives_the_fields_of_the_connection() {
    let (url, _served) = provider(Does::Answers(GOOD)).await;
    let reply = refreshed(&oauth(), &url).await.unwrap();
    assert_eq!(reply.expires_in, Some(Duration::from_secs(9)));
    let after = with_reply(fields(&[("refresh_token", "rt"), ("access_token", "old")]), &reply);
    let shown: Vec<(&str, &str)> = after.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(shown, [("access_token", "at"), ("refresh_token", "rt")]);
}
