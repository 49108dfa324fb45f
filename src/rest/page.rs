//! Pages of lists (AIP-158): a cursor is the id of the last entry, so what is made or deleted meanwhile moves no page.

use std::fmt::Display;
use std::str::FromStr;

use axum::http::StatusCode;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;
use crate::limits;

/// Which page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Entries of the page; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 200)]
    pub page_size: Option<usize>,
    /// `next_page_token` of the page before.
    pub page_token: Option<String>,
}

/// Some entries of a list.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    pub items: Vec<T>,
    /// Asks for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A page as it is looked up.
pub(super) struct Wanted<I> {
    pub after: Option<I>,
    pub size: usize,
}

impl PageQuery {
    pub(super) fn wanted<I: FromStr>(&self) -> Result<Wanted<I>, Problem> {
        let wrong = |detail: String| Problem::malformed(StatusCode::UNPROCESSABLE_ENTITY, detail);
        let size = self.page_size.unwrap_or(limits::PAGE_SIZE_DEFAULT);
        if !(1..=limits::PAGE_SIZE_MAX).contains(&size) {
            return Err(wrong(format!("page_size is to be 1 to {}", limits::PAGE_SIZE_MAX)));
        }
        let read = |token: &String| {
            let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
            String::from_utf8(bytes).ok()?.parse().ok()
        };
        let after = self.page_token.as_ref().filter(|token| !token.is_empty());
        let after =
            after.map(|token| read(token).ok_or_else(|| wrong("page_token is none of ours".into()))).transpose()?;
        Ok(Wanted { after, size })
    }
}

impl<I> Wanted<I> {
    /// How many to look up: one more tells whether there is another page.
    pub(super) fn limit(&self) -> usize {
        self.size + 1
    }

    /// The page out of what was found.
    pub(super) fn page<E, T>(&self, mut found: Vec<E>, id: impl Fn(&E) -> I, shown: impl FnMut(E) -> T) -> Page<T>
    where
        I: Display,
    {
        let has_more = found.len() > self.size;
        found.truncate(self.size);
        let last = found.last().filter(|_| has_more).map(|entry| id(entry).to_string());
        let next_page_token = last.map(|id| BASE64URL_NOPAD.encode(id.as_bytes()));
        Page { items: found.into_iter().map(shown).collect(), next_page_token }
    }
}
