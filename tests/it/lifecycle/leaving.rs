//! F2: the end of the real binary: told so by a signal or by `POST /quit`, seen from the wire, and with servers that hang.

use std::time::Duration;

use credway::limits;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::dynamic::Database;
use crate::support::answers::value;
use crate::support::daemon::{Daemon, Home, key_of, lent, on_servers, resolve};
use crate::support::openbao::{Bao, until};
use crate::support::postgres::Postgres;

/// What Kubernetes and systemd give at least, less what a kubelet takes for itself.
const GRACE: Duration = Duration::from_secs(30 - 5);

#[test]
fn f2_all_that_an_end_may_take_is_less_than_the_grace() {
    let most =
        limits::LINGER + limits::DRAIN_DEADLINE + limits::BACKGROUND_STOP_DEADLINE + limits::TELEMETRY_FLUSH_DEADLINE;
    assert!(most <= GRACE, "it may take {most:?}");
}

/// A connection that speaks just enough HTTP/2 to be let in, and then reads.
async fn idle_http2(daemon: &Daemon) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.address("socket")).await.unwrap();
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&empty_settings).await.unwrap();
    let mut first = [0; 9];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first[3], 4, "the first frame is no SETTINGS");
    let mut payload = vec![0; u32::from_be_bytes([0, first[0], first[1], first[2]]) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    stream
}

/// The types of the frames that still come, until the connection is closed.
async fn frames_until_end(mut stream: UnixStream) -> Vec<u8> {
    let (mut bytes, mut types) = (Vec::new(), Vec::new());
    stream.read_to_end(&mut bytes).await.unwrap();
    let mut rest = bytes.as_slice();
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        types.push(rest[3]);
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    types
}

#[tokio::test]
async fn f2_a_daemon_that_is_told_to_end_says_goaway_gives_back_its_leases_and_is_gone() {
    const GOAWAY: u8 = 7;
    let (home, bao) = (Home::new(), Bao::shared().await);
    let database = Database::issued_by(bao, "1h", "24h").await;
    let settings = on_servers(&home, &Postgres::fresh_database().await, bao).await;
    home.config(&[&lent(&settings)[..], &[("shutdown.linger", "2s")]].concat());
    home.write("manifest.yaml", database.manifest());
    home.apply().await.ok();
    let mut daemon = home.start().await;
    let answer = resolve(&mut daemon.client(&home.token()).await, "db").await.unwrap();
    let user = value(&answer, "USER").trim_matches('"').to_owned();
    assert!(database.has(&user).await);
    let stream = idle_http2(&daemon).await;
    let told = Instant::now();
    daemon.signal(Signal::TERM);
    // Whoever does not know yet that we are leaving is served.
    until("readiness is off", async || daemon.get("/readyz").await.0 == 503).await;
    assert_eq!(
        value(&resolve(&mut daemon.client(&home.token()).await, "db").await.unwrap(), "USER").trim_matches('"'),
        user
    );
    let frames = tokio::time::timeout(GRACE, frames_until_end(stream)).await.unwrap();
    assert!(frames.contains(&GOAWAY), "{frames:?}");
    assert!(daemon.ended().await.success());
    let took = told.elapsed();
    eprintln!("f2: gone {took:?} after SIGTERM, with a lease and an idle client");
    assert!(took <= GRACE && !database.has(&user).await, "after {took:?} the login is still there");
    assert!(!home.path("credway.sock").exists() && !home.path("ready.json").exists());
}

/// Both servers stand still, a call waits for one of them, and a client does not go away.
#[tokio::test]
async fn f2_a_daemon_whose_servers_hang_is_gone_within_its_grace() {
    let (home, postgres, bao) = (Home::new(), Postgres::own().await, Bao::own().await);
    let settings = on_servers(&home, &postgres.database().await, &bao).await;
    let more = [("shutdown.drain", "5s"), ("grpc.call_deadline", "10s")];
    home.config(&[&lent(&settings)[..], &more].concat());
    home.manifest(&[("a", "key-a"), ("b", "key-b")]);
    home.apply().await.ok();
    let mut daemon = home.start().await;
    let mut client = daemon.client(&home.token()).await;
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a");
    let _idle = idle_http2(&daemon).await;

    bao.pause();
    postgres.pause();
    let mut waiting = daemon.client(&home.token()).await;
    let call = tokio::spawn(async move { resolve(&mut waiting, "b").await });
    until("the call is in flight", async || daemon.get("/metrics").await.1.contains("credway_calls_in_flight 1\n"))
        .await;
    let told = Instant::now();
    daemon.signal(Signal::TERM);
    daemon.ended().await;
    let took = told.elapsed();
    bao.resume();
    postgres.resume();
    eprintln!("f2: gone {took:?} after SIGTERM, with a call in flight and both servers stopped");
    assert!(took <= GRACE, "it took {took:?}");
    call.await.unwrap().unwrap_err();
}

async fn post_quit(daemon: &Daemon, header: Option<(&str, &str)>) -> u16 {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(format!("http://{}/quit", daemon.address("http")));
    let request = header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn f2_quit_ends_the_daemon_only_where_it_is_asked_for_and_by_a_neighbour() {
    let home = Home::new();
    home.config(&[]);
    let daemon = home.start().await;
    assert_eq!(post_quit(&daemon, None).await, 404, "it is not off by default");
    drop(daemon);

    home.config(&[]);
    let config = std::fs::read_to_string(home.path("credway.toml")).unwrap();
    home.write("credway.toml", format!("{config}http.quit = true\n"));
    let mut daemon = home.start().await;
    for header in [("origin", "https://evil.example.com"), ("sec-fetch-site", "cross-site"), ("via", "1.1 proxy")] {
        assert_eq!(post_quit(&daemon, Some(header)).await, 403, "{header:?}");
    }
    assert_eq!(daemon.get("/quit").await.0, 405);
    assert_eq!(daemon.get("/livez").await.0, 200);
    assert_eq!(post_quit(&daemon, None).await, 202);
    assert!(daemon.ended().await.success());
}
