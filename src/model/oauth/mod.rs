//! OAuth as data: what a provider is like, which a template says, and what is known of a connection's tokens.

mod provider;
mod tokens;

pub use provider::{
    Account, AccountSource, Assertion, BodyFormat, ClientAuth, Grant, Param, Provider, ReplyShape, Revocation,
    RevokedToken, Rotation,
};
pub use tokens::{Intent, TOKEN_STATE_FIELD, TokenState};

/// The fields of a secret that every OAuth connection has, by whatever grant.
pub mod field {
    pub const ACCESS_TOKEN: &str = "access_token";
    pub const REFRESH_TOKEN: &str = "refresh_token";
    /// The tenant's own client, where the connection has one: an id, and a secret or a private key in PEM form.
    pub const CLIENT_ID: &str = "client_id";
    pub const CLIENT_SECRET: &str = "client_secret";
    pub const PRIVATE_KEY: &str = "private_key";
    pub const KEY_ID: &str = "key_id";
    /// The scopes of a token that is asked for without a person, as the provider writes them.
    pub const SCOPE: &str = "scope";
}
