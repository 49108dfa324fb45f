//! How a connection is tried out at its provider, as data: the `[probe]` table of a template. What carries it out is elsewhere.

use serde::Deserialize;
use url::Url;

use super::address::{NoAddress, address};
use super::pattern::Pattern;
use super::secret::SecretFields;

/// What is asked of the provider. It costs nothing, changes nothing, and only a good credential gets the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Probe {
    /// A request with the template's header.
    Http(HttpProbe),
    /// A login, and an empty query.
    Postgres {
        dsn: Pattern,
    },
    Mysql {
        host: Pattern,
        port: Pattern,
        user: Pattern,
        password: Pattern,
        database: Pattern,
    },
    /// A login, and PING. What is absent is not sent.
    Redis {
        address: Pattern,
        username: Option<Pattern>,
        password: Option<Pattern>,
        database: Option<Pattern>,
    },
    /// A login, and `ping` on the database.
    Mongodb {
        uri: Pattern,
        database: Pattern,
    },
    /// Nothing is known that could be asked.
    #[default]
    None,
}

impl Probe {
    /// Whether this build carries it out: it speaks no MongoDB.
    pub fn is_carried_out(&self) -> bool {
        !matches!(self, Self::Mongodb { .. } | Self::None)
    }
}

/// One HTTP request, and which answers mean what. Any other answer says nothing of the credential.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    #[serde(default)]
    pub method: ProbeMethod,
    /// `https://api.example.com/me`; may name fields, and start with one that holds a base URL.
    pub url: Pattern,
    /// Headers beside the template's own, such as an API version.
    #[serde(default)]
    pub headers: Vec<ProbeHeader>,
    /// The status that a good credential gets.
    #[serde(default = "ok")]
    pub expects: u16,
    /// Where the answer's JSON says `true` to a good credential (a JSON pointer), for providers that answer 200 to all.
    pub true_at: Option<String>,
    /// The statuses that refuse the credential.
    #[serde(default = "refusals")]
    pub refuses: Vec<u16>,
    /// Words in the body of a refusal by which the provider shows that the credential is good, and for other things only.
    #[serde(default)]
    pub known_by: Vec<String>,
}

/// How the request is made. Nothing that could change something is among them but POST, which some ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeMethod {
    #[default]
    Get,
    Head,
    Post,
}

/// A header that is the same for every credential.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeHeader {
    pub name: String,
    pub value: String,
}

impl Probe {
    /// The fields that it needs.
    pub fn fields(&self) -> Vec<&str> {
        let patterns: Vec<&Pattern> = match self {
            Self::Http(http) => vec![&http.url],
            Self::Postgres { dsn } => vec![dsn],
            Self::Mysql { host, port, user, password, database } => vec![host, port, user, password, database],
            Self::Redis { address, username, password, database } => {
                [Some(address), username.as_ref(), password.as_ref(), database.as_ref()].into_iter().flatten().collect()
            }
            Self::Mongodb { uri, database } => vec![uri, database],
            Self::None => Vec::new(),
        };
        patterns.into_iter().flat_map(Pattern::fields).collect()
    }
}

impl HttpProbe {
    /// Where the request goes. It may hold a secret, so it is not to be logged.
    pub fn address(&self, fields: &SecretFields) -> Result<Url, NoAddress> {
        address(&self.url, fields)
    }
}

fn ok() -> u16 {
    200
}

fn refusals() -> Vec<u16> {
    vec![401, 403]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::SecretString;

    fn http(url: &str) -> HttpProbe {
        toml::from_str(&format!("url = {url:?}")).unwrap()
    }

    #[test]
    fn a_table_says_what_is_asked() {
        let probe: Probe =
            toml::from_str("kind = \"http\"\nurl = \"https://api.example.com/me\"\nexpects = 204").unwrap();
        let Probe::Http(http) = probe else { panic!("{probe:?}") };
        assert_eq!((http.method, http.expects, http.refuses), (ProbeMethod::Get, 204, vec![401, 403]));
        let probe: Probe = toml::from_str("kind = \"redis\"\naddress = \"{addr}\"\npassword = \"{password}\"").unwrap();
        assert_eq!(probe.fields(), ["addr", "password"]);
        for wrong in [
            "kind = \"gopher\"",
            "kind = \"http\"",
            "kind = \"http\"\nurl = \"https://x/\"\nmethod = \"DELETE\"",
            "kind = \"postgres\"\ndsn = \"{dsn}\"\nport = 1",
        ] {
            assert!(toml::from_str::<Probe>(wrong).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn fields_cannot_send_the_credential_elsewhere() {
        let shop = http("https://{shop}.myshopify.com/admin/oauth/access_scopes.json");
        let base = http("{base_url}/api/v4/user");
        let odd = |field: &str| Err(NoAddress::FieldOdd(field.to_owned()));
        let table = [
            (&shop, "shop", "acme", Ok("https://acme.myshopify.com/admin/oauth/access_scopes.json".to_owned())),
            (&shop, "shop", "evil.example/", odd("shop")),
            (&shop, "shop", "evil.example#", odd("shop")),
            (&shop, "shop", "a@evil.example", odd("shop")),
            (&shop, "shop", "", odd("shop")),
            (&shop, "shop", "evil.example:443", Err(NoAddress::NotUrl)),
            (&shop, "base_url", "x", Err(NoAddress::FieldMissing("shop".to_owned()))),
            (&base, "base_url", "https://git.acme.example/x/", Ok("https://git.acme.example/x/api/v4/user".to_owned())),
            (&base, "base_url", "https://u:p@git.acme.example", odd("base_url")),
            (&base, "base_url", "https://git.acme.example/?to=", odd("base_url")),
            (&base, "base_url", "file:///etc/passwd", odd("base_url")),
        ];
        for (probe, field, value, expected) in table {
            let fields = SecretFields::from([(field.to_owned(), SecretString::from(value))]);
            assert_eq!(probe.address(&fields).map(|url| url.to_string()), expected, "{value}");
        }
    }
}
