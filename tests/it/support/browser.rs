//! A browser as far as sign-ins need one: cookies by origin, redirects followed one by one, pages read, forms sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use reqwest::Certificate;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use url::{Url, form_urlencoded};

/// A person's browser, which finds some hosts where the test says.
pub(crate) struct Browser {
    http: reqwest::Client,
    /// The daemon, which tests reach without TLS, though it is told that there is some.
    daemon: Option<(String, SocketAddr)>,
    cookies: Mutex<BTreeMap<(String, String), String>>,
}

/// What was shown in the end.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// Each address on the way, the page's own last.
    pub(crate) way: Vec<Url>,
}

impl Browser {
    pub(crate) fn new(authority: &str, daemon: (&str, SocketAddr), hosts: &BTreeMap<String, SocketAddr>) -> Self {
        let authority = Certificate::from_pem(authority.as_bytes()).unwrap();
        let mut http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only([authority]);
        for (host, address) in hosts {
            http = http.resolve(host, *address);
        }
        Self { http: http.build().unwrap(), daemon: Some((daemon.0.to_owned(), daemon.1)), cookies: Mutex::default() }
    }

    /// For a daemon that is where its links say.
    pub(crate) fn plain() -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { http, daemon: None, cookies: Mutex::default() }
    }

    /// One page without what it redirects to.
    pub(crate) async fn look(&self, url: &Url) -> Page {
        self.visit(url, None).await
    }

    /// Sends the form of a page, as whoever presses its button.
    pub(crate) async fn press(&self, page: &Page) -> Page {
        let body = page.form().unwrap_or_else(|| panic!("no form: {page:?}"));
        self.visit(page.url(), Some(body)).await
    }

    /// Goes on from a link of ours, up to where it leads.
    pub(crate) async fn consent(&self, link: &Url) -> Url {
        let asked = self.look(link).await;
        self.press(&asked).await.location().unwrap()
    }

    async fn visit(&self, url: &Url, form: Option<String>) -> Page {
        let host = url.host_str().unwrap().to_owned();
        let mut reached = url.clone();
        if let Some((_, address)) = self.daemon.as_ref().filter(|(name, _)| *name == host) {
            reached.set_scheme("http").unwrap();
            reached.set_ip_host(address.ip()).unwrap();
            reached.set_port(Some(address.port())).unwrap();
        }
        let held: Vec<String> = {
            let cookies = self.cookies.lock().unwrap();
            cookies
                .iter()
                .filter(|((of, _), _)| *of == host)
                .map(|((_, name), value)| format!("{name}={value}"))
                .collect()
        };
        let mut request = match form {
            None => self.http.get(reached),
            Some(body) => {
                self.http.post(reached).header("content-type", "application/x-www-form-urlencoded").body(body)
            }
        };
        if !held.is_empty() {
            request = request.header("cookie", held.join("; "));
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        for cookie in headers.get_all("set-cookie") {
            self.keep(&host, cookie.to_str().unwrap());
        }
        Page { status, headers, text: response.text().await.unwrap(), way: vec![url.clone()] }
    }

    fn keep(&self, host: &str, cookie: &str) {
        let (pair, attributes) = cookie.split_once("; ").unwrap_or((cookie, ""));
        let (name, value) = pair.split_once('=').unwrap();
        if name.starts_with("__Host-") {
            assert!(attributes.contains("Secure") && attributes.contains("Path=/"), "browsers refuse {cookie}");
        }
        let mut cookies = self.cookies.lock().unwrap();
        let key = (host.to_owned(), name.to_owned());
        match attributes.contains("Max-Age=0") {
            true => drop(cookies.remove(&key)),
            false => drop(cookies.insert(key, value.to_owned())),
        }
    }

    /// The page that an address leads to, for somebody who goes on whenever they are asked.
    pub(crate) async fn open(&self, url: &Url) -> Page {
        let mut page = self.look(url).await;
        loop {
            let next = page.location();
            if next.is_none() && page.form().is_none() {
                return page;
            }
            assert!(page.way.len() < 10, "redirected in circles: {:?}", page.way);
            let mut way = std::mem::take(&mut page.way);
            page = match next {
                Some(next) => self.look(&next).await,
                None => {
                    page.way = vec![way.last().unwrap().clone()];
                    self.press(&page).await
                }
            };
            way.append(&mut page.way);
            page.way = way;
        }
    }

    /// Keeps no cookie of what it was given so far.
    pub(crate) fn forget(&self) {
        self.cookies.lock().unwrap().clear();
    }
}

impl Page {
    /// Where it sends the browser on: by its status, or by what it says of itself.
    pub(crate) fn location(&self) -> Option<Url> {
        let here = self.way.last().unwrap();
        let by_status = self.headers.get("location").filter(|_| (300..400).contains(&self.status));
        let by_page = || self.between("<meta http-equiv=\"refresh\" content=\"0;url=", "\"").map(unescaped);
        let next = by_status.map(|next| next.to_str().unwrap().to_owned()).or_else(by_page)?;
        Some(here.join(&next).unwrap())
    }

    /// What its form says, if it has one.
    pub(crate) fn form(&self) -> Option<String> {
        let (name, value) = self.between("<input type=\"hidden\" name=\"", "\">")?.split_once("\" value=\"")?;
        Some(form_urlencoded::Serializer::new(String::new()).append_pair(name, &unescaped(value)).finish())
    }

    pub(crate) fn url(&self) -> &Url {
        self.way.last().unwrap()
    }

    /// What stands between two texts for the first time.
    fn between(&self, start: &str, end: &str) -> Option<&str> {
        let (_, rest) = self.text.split_once(start)?;
        Some(rest.split_once(end)?.0)
    }

    pub(crate) fn heading(&self) -> &str {
        self.between("<h1>", "</h1>").unwrap_or_else(|| panic!("no heading: {self:?}"))
    }

    /// The link on it.
    pub(crate) fn link(&self) -> Option<Url> {
        Some(self.url().join(self.between("<a href=\"", "\"")?).unwrap())
    }
}

fn unescaped(text: &str) -> String {
    text.replace("&#38;", "&").replace("&amp;", "&")
}
