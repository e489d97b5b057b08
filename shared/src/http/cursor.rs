//! Page cursors: opaque, authenticated, and good for the query and the tenant that they came from only.

use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::http::caller::Caller;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

/// Things on a page unless the caller says how many.
pub const DEFAULT_LIMIT: usize = 20;
/// Most things on a page.
pub const MAX_LIMIT: usize = 100;
/// Bytes of the authentication code that a cursor carries.
const TAG_BYTES: usize = 16;

/// The query parameters of a paged route; routes with more of them flatten this by hand.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paging {
    /// Things on a page, 1 to 100.
    pub limit: Option<usize>,
    /// Where the page begins, from the page before.
    pub cursor: Option<String>,
    /// `newest` or `oldest` first, or `asc` and `desc` for names.
    pub order: Option<String>,
}

impl Paging {
    /// The checked page size.
    pub fn limit(&self) -> Result<usize> {
        match self.limit {
            None => Ok(DEFAULT_LIMIT),
            Some(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
            Some(limit) => Err(Error::invalid(
                "limit",
                format!("limit `{limit}` is out of bounds; use 1 to {MAX_LIMIT}"),
            )),
        }
    }

    /// Whether the page runs in the second of two orders; `None` means the first.
    pub fn is_second(&self, first: &str, second: &str) -> Result<bool> {
        match self.order.as_deref() {
            None => Ok(false),
            Some(order) if order == first => Ok(false),
            Some(order) if order == second => Ok(true),
            Some(order) => Err(Error::invalid(
                "order",
                format!(
                    "order `{}` is not known; use `{first}` or `{second}`",
                    order.escape_debug()
                ),
            )),
        }
    }
}

/// Makes and checks the cursors of one query.
#[derive(Debug, Clone)]
pub struct Pages {
    secret: String,
    scope: String,
}

impl Pages {
    /// Cursors for a query; `scope` holds everything that makes it another query.
    pub fn new(app: &App, caller: &Caller, scope: &[&str]) -> Self {
        let scope = json!([caller.tenant.as_str(), scope]).to_string();
        Self {
            secret: app.config.cursor_secret.clone(),
            scope,
        }
    }

    fn tag(&self, after: &str) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(self.scope.as_bytes());
        mac.update(&[0]);
        mac.update(after.as_bytes());
        mac.finalize()
            .into_bytes()
            .iter()
            .copied()
            .take(TAG_BYTES)
            .collect()
    }

    /// The cursor that goes on after a sort key.
    pub fn cursor(&self, after: &str) -> String {
        let mut bytes = self.tag(after);
        bytes.extend_from_slice(after.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The sort key to go on after, if the cursor is genuine.
    pub fn after(&self, cursor: Option<&str>) -> Result<Option<String>> {
        let Some(cursor) = cursor else {
            return Ok(None);
        };
        let refused = || {
            Error::new(
                ErrorCode::InvalidCursor,
                "the cursor does not belong to this query; begin again without one, and change nothing else",
            )
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
        let (tag, after) = bytes.split_at_checked(TAG_BYTES).ok_or_else(refused)?;
        let after = std::str::from_utf8(after).map_err(|_| refused())?;
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(self.scope.as_bytes());
        mac.update(&[0]);
        mac.update(after.as_bytes());
        mac.verify_truncated_left(tag).map_err(|_| refused())?;
        Ok(Some(after.to_owned()))
    }

    /// A page as it is shown: the things under their name, and the cursor of the next page if there may be one.
    pub fn render(&self, name: &str, items: Vec<Value>, after: Option<&str>) -> Value {
        let mut page = serde_json::Map::new();
        page.insert(name.to_owned(), Value::Array(items));
        if let Some(after) = after {
            page.insert("next_cursor".to_owned(), self.cursor(after).into());
        }
        Value::Object(page)
    }
}
