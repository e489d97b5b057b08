//! The token: who its bearer is, and what it allows; of the token itself only a keyed hash is known.

use crate::domain::{Identity, Principal, Scope, TenantName, Timestamp};
use crate::error::{Error, ErrorCode};
use serde::{Deserialize, Serialize};

/// What every token begins with, so that scanners for leaked secrets know it.
pub const PREFIX: &str = "slw_";
/// Longest life of a token that ends, in seconds: ten years.
pub const MAX_LIFE_SECONDS: u64 = 10 * 365 * 24 * 3_600;
/// Longest name of a token, in characters.
pub const MAX_NAME: usize = 100;

/// Who its bearer is, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id, a ULID.
    pub id: String,
    /// The one tenant that it is for.
    pub tenant: TenantName,
    /// What it is for, in its creator's words.
    pub name: String,
    /// Whose acts its bearer's are.
    pub actor: Principal,
    /// The groups that its bearer belongs to.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What it allows.
    pub scope: Scope,
    /// Keyed hash of the whole token, in hexadecimal digits.
    pub hash: String,
    /// Who created it.
    pub created_by: Principal,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl Token {
    /// Who its bearer is at a time; nobody once it has ended.
    pub fn identity(&self, now: Timestamp) -> Option<Identity> {
        let has_ended = self.expires_at.is_some_and(|end| end <= now);
        (!has_ended).then(|| Identity {
            principal: self.actor.clone(),
            groups: self.groups.clone(),
            tenant: Some(self.tenant.clone()),
            scope: Some(self.scope.clone()),
        })
    }
}

/// The text of a token: `slw_<tenant>_<id>_<secret>`.
pub fn text_of(tenant: &TenantName, id: &str, secret: &str) -> String {
    format!("{PREFIX}{tenant}_{id}_{secret}")
}

/// Tenant and id that a token names; whether it is genuine its hash says.
pub fn parse(text: &str) -> Option<(TenantName, &str)> {
    let mut parts = text.strip_prefix(PREFIX)?.split('_');
    let (tenant, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
    let is_plain = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let is_whole = parts.next().is_none() && is_plain(id, 26) && is_plain(secret, 64);
    let tenant = TenantName::parse(tenant).ok()?;
    is_whole.then_some((tenant, id))
}

/// The error for a token that is not there.
pub fn token_not_found(id: &str) -> Error {
    Error::new(
        ErrorCode::TokenNotFound,
        format!("token `{id}` does not exist; list the tokens to see which do"),
    )
    .with("token", id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_tenant_and_itself() {
        let tenant = TenantName::parse("team-a").unwrap();
        let (id, secret) = ("01JN8Z7Q5V3M4T6W8X9Y0Z1A2B", "0".repeat(64));
        let text = text_of(&tenant, id, &secret);
        assert_eq!(parse(&text), Some((tenant, id)));
        for bad in [
            String::new(),
            "slw_".into(),
            text.replace("slw_", "ghp_"),
            text.replace("team-a", "Team A"),
            text.replace(id, "x"),
            format!("{text}0"),
            format!("{text}_0"),
            text.replace('0', "/"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }
}
