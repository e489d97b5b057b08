//! Signatures of deliveries, as Standard Webhooks and as MLflow define them.
//!
//! Specifications: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md> and
//! <https://mlflow.org/docs/latest/ml/webhooks/>. Both sign `{id}.{timestamp}.{body}` with HMAC-SHA256. The key of the
//! first is what the secret encodes, that of the second is the secret's text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What our own secrets begin with, so that scanners for leaked secrets know them.
const PREFIX: &str = "whsec_";

/// The secret as it is shown and sealed.
pub(crate) fn secret_of(bytes: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(bytes))
}

/// The value of `webhook-signature`: one signature for each secret, so that either verifies while they change.
pub(crate) fn standard_signature(
    secrets: &[String],
    id: &str,
    timestamp: u64,
    body: &str,
) -> String {
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| signed(&standard_key(secret), id, timestamp, body))
        .collect();
    signatures.join(" ")
}

/// The value of `X-MLflow-Signature`, which holds one signature only: that of the newest secret.
pub(crate) fn mlflow_signature(secret: &str, id: &str, timestamp: u64, body: &str) -> String {
    signed(secret.as_bytes(), id, timestamp, body)
}

/// The key within a secret; one that a client brought need not be base64, and is then taken as it is.
fn standard_key(secret: &str) -> Vec<u8> {
    secret
        .strip_prefix(PREFIX)
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .unwrap_or_else(|| secret.as_bytes().to_vec())
}

fn signed(key: &[u8], id: &str, timestamp: u64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body.as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // From the tests of the reference libraries of Standard Webhooks.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned();
        let signature = standard_signature(
            &[secret],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_sign_side_by_side() {
        let secrets = [secret_of(&[1; 24]), secret_of(&[2; 24])];
        let both = standard_signature(&secrets, "id", 1, "x");
        let (new, old) = both.split_once(' ').unwrap();
        assert_eq!(new, standard_signature(&secrets[..1], "id", 1, "x"));
        assert_eq!(old, standard_signature(&secrets[1..], "id", 1, "x"));
    }

    #[test]
    fn a_secret_of_ones_own_is_a_key_as_it_is() {
        let own = "my-secret".to_owned();
        let encoded = secret_of(own.as_bytes());
        assert_eq!(
            standard_signature(std::slice::from_ref(&own), "id", 1, "x"),
            standard_signature(&[encoded], "id", 1, "x")
        );
        assert_eq!(
            standard_signature(std::slice::from_ref(&own), "id", 1, "x"),
            mlflow_signature(&own, "id", 1, "x")
        );
        // A prefix that does not make it base64 does not make it unusable.
        assert_eq!(standard_key("whsec_not base64"), b"whsec_not base64");
    }
}
