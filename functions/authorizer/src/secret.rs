//! What is made from the deployment's secret: hashes of tokens, and the administrator's token.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use shared::domain::token::PREFIX;
use shared::{App, Error, ErrorCode, Result};

/// Leads the administrator's token; no tenant's token begins so, since it has three parts after the prefix.
const ADMINISTRATOR: &str = "administrator";

/// The deployment's secret.
pub(crate) fn secret_of(app: &App) -> Result<&str> {
    app.config.token_secret.as_deref().ok_or_else(|| {
        Error::new(
            ErrorCode::RouteNotFound,
            "this deployment has no tokens; callers are known by other means, see `docs/authentication.md`",
        )
    })
}

fn mac(secret: &str, purpose: &str, text: &str) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(purpose.as_bytes());
    mac.update(&[0]);
    mac.update(text.as_bytes());
    mac
}

fn hex_of(mac: Hmac<Sha256>) -> String {
    hex::encode(mac.finalize().into_bytes())
}

/// The hash under which a token is stored.
pub(crate) fn hash(secret: &str, token: &str) -> String {
    hex_of(mac(secret, "token", token))
}

/// Whether a token has this hash; takes as long whichever byte differs.
pub(crate) fn has_hash(secret: &str, token: &str, hash: &str) -> bool {
    hex::decode(hash).is_ok_and(|hash| mac(secret, "token", token).verify_slice(&hash).is_ok())
}

/// The secret part of a token that is created under an idempotency key: the same request gives the same token, which
/// is stored nowhere.
pub(crate) fn repeatable(secret: &str, request: &str) -> String {
    hex_of(mac(secret, "repeatable", request))
}

/// The administrator's token: of every tenant, for everything, made from the secret alone.
///
/// With it the first tokens are created. Whoever has the secret can make it:
/// `printf 'administrator\0' | openssl dgst -sha256 -hmac "$TOKEN_SECRET"`.
pub fn administrator_token(secret: &str) -> String {
    format!(
        "{PREFIX}{ADMINISTRATOR}_{}",
        hex_of(mac(secret, ADMINISTRATOR, ""))
    )
}

/// Whether a token is the administrator's.
pub(crate) fn is_administrator(secret: &str, token: &str) -> bool {
    token
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_prefix(ADMINISTRATOR))
        .and_then(|rest| rest.strip_prefix('_'))
        .and_then(|digits| hex::decode(digits).ok())
        .is_some_and(|given| mac(secret, ADMINISTRATOR, "").verify_slice(&given).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_fits_its_token_and_secret_only() {
        let kept = hash("secret", "token");
        assert!(has_hash("secret", "token", &kept));
        assert!(!has_hash("secret", "token2", &kept));
        assert!(!has_hash("secret2", "token", &kept));
        assert!(!has_hash("secret", "token", ""));
        assert!(!has_hash("secret", "token", &kept[..62]));
    }

    #[test]
    fn the_administrators_token_is_what_openssl_makes_of_the_secret() {
        // printf 'administrator\0' | openssl dgst -sha256 -hmac secret
        let token = administrator_token("secret");
        assert!(is_administrator("secret", &token), "{token}");
        assert!(!is_administrator("other", &token));
        assert!(!is_administrator("secret", "slw_administrator_"));
        assert!(!is_administrator("secret", &token.replace("slw", "x")));
    }
}
