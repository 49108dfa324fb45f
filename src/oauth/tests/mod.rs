//! The client against a provider that is strict about what it takes.

mod replies;
mod requests;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Egress, EgressRule};

/// One request, as it came over the wire.
struct Asked {
    line: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Asked {
    fn form(&self) -> BTreeMap<String, String> {
        url::form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What a provider does with one connection.
enum Does {
    Answers(&'static str),
    /// Reads the request, and hangs up without a word.
    HangsUp,
    /// Reads the request, and says nothing.
    Waits,
}

/// A provider at an address of this machine, for one connection.
async fn provider(does: Does) -> (String, JoinHandle<Option<Asked>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = read(&mut stream).await;
        match does {
            Does::Answers(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Does::HangsUp => {}
            // Until the client gives up.
            Does::Waits => drop(stream.read(&mut [0]).await),
        }
        asked
    });
    (url, served)
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.unwrap();
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.split("\r\n");
            let line = lines.next().unwrap().to_owned();
            let header =
                |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
            let headers: BTreeMap<String, String> = lines.filter_map(header).collect();
            let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Some(Asked { line, headers, body: body.to_owned() });
            }
        }
        if count == 0 {
            return None;
        }
    }
}

/// A client that may reach this machine.
fn oauth() -> OAuth {
    let allow = vec![EgressRule::Network("127.0.0.0/8".parse().unwrap())];
    OAuth::new(&config::OAuth::default(), &Egress { allow, ca_file: None, ..config::Egress::default() }, Clock::System)
        .unwrap()
}

fn client() -> Client {
    Client { id: "our id".to_owned(), secret: Some("s:cr~t/".into()), key: None }
}

/// A provider with this `[oauth]` table beside its token endpoint.
fn described(url: &str, more: &str) -> Provider {
    toml::from_str(&format!("authorize_url = \"{url}/authorize\"\ntoken_url = \"{url}/token\"\n{more}")).unwrap()
}

fn template(more: &str) -> Template {
    let head = "name = \"acme\"\ndisplay_name = \"Acme\"\nprovider = \"acme\"\nauth_kind = \"oauth2\"\nopen = true\n";
    toml::from_str(&format!("{head}{more}")).unwrap()
}

fn fields(pairs: &[(&str, &str)]) -> SecretFields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n{\"access_token\":\"at\",\"expires_in\":9}";
