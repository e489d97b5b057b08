//! Sealing what must be stored and never be read: AES-256-GCM under the deployment's own key.
//!
//! A sealed text names the key that sealed it, so that keys can be exchanged: the first of `SECRETS_KEY` seals, all of
//! them open. What it belongs to is authenticated with it, so that a sealed text cannot be moved to another item.

use crate::config::Config;
use crate::error::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};

/// What every sealed text begins with.
const PREFIX: &str = "sealed:v1:";

/// Seals and opens texts.
pub struct Sealer {
    keys: Vec<(String, LessSafeKey)>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sealer")
    }
}

impl Sealer {
    /// A sealer under the keys of a deployment.
    pub fn new(config: &Config) -> Self {
        let keys = config
            .secrets_keys
            .iter()
            .map(|text| {
                let mut hasher = Sha256::new();
                hasher.update(b"slipway-secrets\0");
                hasher.update(text.as_bytes());
                let bytes = hasher.finalize();
                let name = hex::encode(&Sha256::digest(bytes)[..4]);
                let key = UnboundKey::new(&AES_256_GCM, &bytes)
                    .expect("a SHA-256 has as many bytes as a key");
                (name, LessSafeKey::new(key))
            })
            .collect();
        Self { keys }
    }

    /// Seals a text that belongs to `owner`.
    pub fn seal(&self, text: &str, owner: &str) -> Result<String> {
        let failed = || Error::internal("sealing a secret", "the cipher refused");
        let (name, key) = self.keys.first().ok_or_else(failed)?;
        let mut nonce = [0_u8; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| failed())?;
        let mut bytes = text.as_bytes().to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(owner.as_bytes()),
            &mut bytes,
        )
        .map_err(|_| failed())?;
        let mut whole = nonce.to_vec();
        whole.append(&mut bytes);
        Ok(format!("{PREFIX}{name}:{}", STANDARD_NO_PAD.encode(whole)))
    }

    /// Opens a text that was sealed for `owner`.
    pub fn open(&self, sealed: &str, owner: &str) -> Result<String> {
        let failed = |why: &'static str| Error::internal("opening a sealed secret", why);
        let rest = sealed
            .strip_prefix(PREFIX)
            .ok_or_else(|| failed("it is not sealed"))?;
        let (name, encoded) = rest
            .split_once(':')
            .ok_or_else(|| failed("it is damaged"))?;
        let (_, key) = self
            .keys
            .iter()
            .find(|(other, _)| other == name)
            .ok_or_else(|| failed("`SECRETS_KEY` lacks the key that sealed it"))?;
        let whole = STANDARD_NO_PAD
            .decode(encoded)
            .map_err(|_| failed("it is damaged"))?;
        let (nonce, bytes) = whole
            .split_at_checked(NONCE_LEN)
            .ok_or_else(|| failed("it is damaged"))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| failed("it is damaged"))?;
        let mut bytes = bytes.to_vec();
        let opened = key
            .open_in_place(nonce, Aad::from(owner.as_bytes()), &mut bytes)
            .map_err(|_| failed("it is damaged, or belongs to something else"))?;
        String::from_utf8(opened.to_vec()).map_err(|_| failed("it is no text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(keys: &str) -> Sealer {
        let config = Config::from_lookup(&|name| {
            Some(match name {
                "SECRETS_KEY" => keys.to_owned(),
                "AWS_REGION"
                | "TABLE_NAME"
                | "BUCKET_NAME"
                | "CURSOR_SECRET"
                | "AWS_ACCESS_KEY_ID"
                | "AWS_SECRET_ACCESS_KEY" => "x".to_owned(),
                _ => return None,
            })
        });
        Sealer::new(&config.unwrap())
    }

    #[test]
    fn what_was_sealed_is_opened_by_its_owner_alone() {
        let ours = sealer("a");
        let text = ours.seal("whsec_x", "t/1").unwrap();
        assert!(!text.contains("whsec"));
        assert_ne!(text, ours.seal("whsec_x", "t/1").unwrap());
        assert_eq!(ours.open(&text, "t/1").unwrap(), "whsec_x");
        assert!(ours.open(&text, "t/2").is_err());
        assert!(ours.open("whsec_x", "t/1").is_err());
        assert!(ours.open(&text[..text.len() - 3], "t/1").is_err());
    }

    #[test]
    fn keys_are_exchanged_one_after_the_other() {
        let sealed = sealer("old").seal("x", "t").unwrap();
        assert_eq!(sealer("new,old").open(&sealed, "t").unwrap(), "x");
        let error = sealer("new").open(&sealed, "t").unwrap_err();
        assert!(error.chain().contains("SECRETS_KEY"));
        let renewed = sealer("new,old").seal("x", "t").unwrap();
        assert_eq!(sealer("new").open(&renewed, "t").unwrap(), "x");
    }
}
