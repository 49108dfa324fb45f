//! A real Chromium: one for the whole run, and a private context for each page, so that tests share no cookie.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::tools::{node_module, program};

/// A page of a person's own.
pub(crate) struct Page(u64);

/// What they see.
#[derive(Debug, Deserialize)]
pub(crate) struct Seen {
    pub(crate) url: String,
    pub(crate) title: String,
    pub(crate) h1: String,
    pub(crate) text: String,
    /// What the browser found wrong with the pages so far: refused styles, scripts that failed.
    pub(crate) complaints: Vec<String>,
}

/// The browser's process, which ends when this one does and its standard input with it.
struct Browser {
    _process: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

static BROWSER: OnceLock<Mutex<Browser>> = OnceLock::new();

impl Page {
    pub(crate) async fn new() -> Self {
        let answer = ask(json!({ "act": "page" })).await;
        Self(answer["page"].as_u64().unwrap())
    }

    pub(crate) async fn open(&self, url: &str) -> Seen {
        self.see(json!({ "act": "open", "url": url })).await
    }

    /// Presses the button of this name, which leads to another page.
    pub(crate) async fn press(&self, name: &str) -> Seen {
        self.see(json!({ "act": "click", "role": "button", "name": name })).await
    }

    /// Follows the link of this name.
    pub(crate) async fn follow(&self, name: &str) -> Seen {
        self.see(json!({ "act": "click", "role": "link", "name": name })).await
    }

    /// Goes to what has this name by Tab, and presses Enter.
    pub(crate) async fn key(&self, name: &str) -> Seen {
        self.see(json!({ "act": "key", "name": name })).await
    }

    /// What is wrong with the page on a narrow screen, and by axe in light and dark.
    pub(crate) async fn faults(&self) -> Vec<String> {
        let answer = ask(json!({ "act": "faults", "page": self.0 })).await;
        serde_json::from_value(answer["faults"].clone()).unwrap()
    }

    pub(crate) async fn untick(&self, name: &str) -> Seen {
        self.see(json!({ "act": "untick", "name": name })).await
    }

    /// Goes, and takes its cookies with it.
    pub(crate) async fn close(self) {
        ask(json!({ "act": "close", "page": self.0 })).await;
    }

    async fn see(&self, mut act: Value) -> Seen {
        act["page"] = self.0.into();
        serde_json::from_value(ask(act).await).unwrap()
    }
}

/// One act after the other: a page is loaded before the next act begins, whoever's it is.
async fn ask(act: Value) -> Value {
    let line = format!("{act}\n");
    let asking = tokio::task::spawn_blocking(move || {
        let browser = BROWSER.get_or_init(|| Mutex::new(Browser::start()));
        let mut browser = browser.lock().unwrap_or_else(PoisonError::into_inner);
        browser.asks.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        browser.answers.read_line(&mut answer).unwrap();
        serde_json::from_str::<Value>(&answer).unwrap_or_else(|_| panic!("the browser has ended"))
    });
    let answer = asking.await.unwrap();
    assert!(answer.get("error").is_none(), "{act}: {}", answer["error"]);
    answer
}

impl Browser {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/browser.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(node_module("playwright-core/index.js")).arg(program("/usr/bin/chromium"));
        command.arg(node_module("axe-core/axe.min.js"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (asks, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { _process: child, asks, answers }
    }
}
