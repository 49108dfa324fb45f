//! What the store and the libraries under it log, at the finest level and with no target switched off.

use std::io::Write;
use std::process::Command;
use std::sync::Mutex;

use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Set in the process that the test starts of itself. Here it might hear nothing of some places: where one subscriber is all
/// there is, `tracing` asks the thread that comes by a place first whether anyone listens there, and keeps that answer for
/// all threads; the threads of other tests have no subscriber.
const CHILD: &str = "CREDWAY_TEST_LOGS_CHILD";

#[test]
fn no_log_line_shows_a_token_or_a_secret() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(log_everything());
    }
    let name = "vault::logs::no_log_line_shows_a_token_or_a_secret";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let said = [child.stdout, child.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

async fn log_everything() {
    let bao = Bao::shared().await;
    let mount = bao.fresh_mount().await;
    let created = bao.must("POST", "auth/token/create", json!({ "policies": ["root"], "ttl": "10m" })).await;
    let token = created["auth"]["client_token"].as_str().unwrap().to_owned();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_writer(lines.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let store = start(&settings(bao.url(), &mount, VaultAuth::Token { token: token.as_str().into() }));
    let (address, secret) = (an_address(), fields(&[("k", CANARY)]));
    store.write(&address, &secret, 0).await.unwrap();
    store.read(&address).await.unwrap();
    shown(store.write(&address, &secret, 0).await);
    let foreign = json!({ "data": { "k": { "nested": CANARY } } });
    bao.must("POST", &format!("{mount}/data/credway/{address}"), foreign).await;
    shown(store.read(&address).await);
    bao.must("POST", "auth/token/revoke", json!({ "token": token })).await;
    shown(store.read(&address).await);
    store.end().await;

    let heard = lines.text();
    for target in ["credway::secrets::vault", "rustify", "vaultrs"] {
        assert!(heard.contains(target), "{target} was not heard");
    }
    for line in heard.lines() {
        assert!(!line.contains(CANARY) && !line.contains(&token), "{line}");
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}
