//! MCP servers: catalogue entries, each with the URL that names it and the config it asks for.

use std::fmt;
use std::str::FromStr;

use url::Url;

use super::id::{ServerId, TenantId};
use super::name::Slug;
use super::schema::ConfigSchema;

/// One entry of the catalogue.
#[derive(Clone, Debug)]
pub struct McpServer {
    pub id: ServerId,
    /// The tenant it belongs to; `None` for platform servers, which all tenants share.
    pub tenant: Option<TenantId>,
    /// Its service slug: `gmail`.
    pub service: Slug,
    pub name: String,
    pub canonical_url: CanonicalUrl,
    pub config_schema: ConfigSchema,
    /// OAuth scopes that its tools cannot work without.
    pub required_scopes: Vec<String>,
}

/// A server's URL in the one form that is compared: scheme and host in lower case, no default port, no trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalUrl(String);

/// The text cannot be a server's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a server URL: give an http or https URL with a host, and without user, password, query or fragment")]
pub struct CanonicalUrlError;

impl CanonicalUrl {
    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CanonicalUrl {
    type Err = CanonicalUrlError;

    fn from_str(text: &str) -> Result<Self, CanonicalUrlError> {
        // The url crate lowers scheme and host and drops default ports (WHATWG URL standard).
        let url = Url::parse(text.trim()).map_err(|_| CanonicalUrlError)?;
        let is_plain = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !is_plain {
            return Err(CanonicalUrlError);
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for CanonicalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_has_one_canonical_url() {
        for text in
            ["https://MCP.example.com:443/gmail/", "HTTPS://mcp.example.com/gmail", " https://mcp.example.com/gmail "]
        {
            assert_eq!(text.parse::<CanonicalUrl>().unwrap().as_str(), "https://mcp.example.com/gmail");
        }
        assert_eq!("http://127.0.0.1:8080/".parse::<CanonicalUrl>().unwrap().as_str(), "http://127.0.0.1:8080");
    }

    #[test]
    fn urls_that_could_carry_a_secret_are_refused() {
        for text in ["https://user:pw@host/", "https://host/?key=1", "https://host/#k", "ftp://host/", "host", ""] {
            assert!(text.parse::<CanonicalUrl>().is_err(), "{text:?} was taken for a server URL");
        }
    }
}
