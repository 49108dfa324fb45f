//! OAuth as data: what a provider is like, which a template says, and what is known of a connection's tokens.

mod provider;
mod tokens;

pub use provider::{
    Account, AccountSource, BodyFormat, ClientAuth, Grant, Provider, ReplyShape, Revocation, Rotation,
};
pub use tokens::{Intent, TokenState, TOKEN_STATE_FIELD};
