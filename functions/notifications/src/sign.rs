//! Signatures of deliveries, as Standard Webhooks defines them.
//!
//! Specification: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use shared::{Error, Result};

/// What every secret begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "whsec_";

/// The secret as it is shown and stored.
pub(crate) fn secret_of(bytes: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(bytes))
}

/// The value of the header `webhook-signature` for a message.
pub(crate) fn signature(secret: &str, id: &str, timestamp: u64, body: &str) -> Result<String> {
    let encoded = secret.strip_prefix(PREFIX).unwrap_or(secret);
    // The cause would quote a byte of the secret, so it is not kept.
    let key = STANDARD.decode(encoded).map_err(|_| {
        Error::internal(
            "signing a delivery",
            "the subscription's secret is no base64",
        )
    })?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body.as_bytes());
    Ok(format!(
        "v1,{}",
        STANDARD.encode(mac.finalize().into_bytes())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        let signed = signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(
            signed.unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_secret_is_read_back() {
        let secret = secret_of(&[7; 24]);
        assert_eq!(secret.len(), PREFIX.len() + 32);
        assert_eq!(
            signature(&secret, "a", 1, "b").unwrap(),
            signature(secret.trim_start_matches(PREFIX), "a", 1, "b").unwrap()
        );
    }

    #[test]
    fn a_broken_secret_is_not_quoted() {
        let error = signature("whsec_!hidden!", "a", 1, "b").unwrap_err();
        assert!(!error.chain().contains("hidden"));
    }
}
