//! As much of the protocol of KMS as signing needs, with one key, so that the functions sign by the real SDK.
//!
//! API: <https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html> and
//! <https://docs.aws.amazon.com/kms/latest/APIReference/API_GetPublicKey.html>

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, body::Bytes, extract::State, response::Response, routing::post};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, StatusCode, header};
use p256::ecdsa::{Signature, SigningKey, signature::hazmat::PrehashSigner as _};
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};

/// The ARN of the key.
pub const KEY: &str = "arn:aws:kms:us-east-1:000000000000:key/5b1f8a52-4c05-4e57-9df0-1a2b3c4d5e6f";

/// The only algorithm of a key on P-256.
const ALGORITHM: &str = "ECDSA_SHA_256";

/// The embedded key management; clones share it.
#[derive(Clone)]
pub struct Kms(Arc<Inner>);

struct Inner {
    key: SigningKey,
    throttled: AtomicUsize,
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Kms(key hidden)")
    }
}

/// A new private key as PKCS #8 in PEM, from 32 random bytes; `None` for the few that are no key.
pub(crate) fn private_key_of(random: &[u8; 32]) -> Option<String> {
    let key = SigningKey::from_slice(random).ok()?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).ok()?;
    Some(pem.to_string())
}

impl Kms {
    /// Holds a private key, as PKCS #8 in PEM.
    pub(crate) fn new(pem: &str) -> anyhow::Result<Self> {
        let key = SigningKey::from_pkcs8_pem(pem)
            .map_err(|error| anyhow::anyhow!("the signing key is not usable: {error}"))?;
        Ok(Self(Arc::new(Inner {
            key,
            throttled: AtomicUsize::new(0),
        })))
    }

    /// Refuses the next calls, as KMS does when there are too many of them.
    pub fn throttle(&self, calls: usize) {
        self.0.throttled.store(calls, Ordering::SeqCst);
    }

    /// Answers the protocol.
    pub(crate) fn router(self) -> Router {
        Router::new().route("/", post(answer)).with_state(self)
    }

    fn call(&self, target: &str, request: &Value) -> Result<Value, &'static str> {
        let is_throttled = self
            .0
            .throttled
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        if is_throttled {
            return Err("ThrottlingException");
        }
        if request["KeyId"] != KEY {
            return Err("NotFoundException");
        }
        match target {
            "TrentService.Sign" => self.sign(request),
            "TrentService.GetPublicKey" => self.public_key(),
            _ => Err("UnknownOperationException"),
        }
    }

    fn sign(&self, request: &Value) -> Result<Value, &'static str> {
        if request["SigningAlgorithm"] != ALGORITHM {
            return Err("InvalidKeyUsageException");
        }
        let digest = request["Message"]
            .as_str()
            .and_then(|text| BASE64_STANDARD.decode(text).ok())
            .filter(|digest| request["MessageType"] == "DIGEST" && digest.len() == 32)
            .ok_or("ValidationException")?;
        let signature: Signature = self
            .0
            .key
            .sign_prehash(&digest)
            .map_err(|_| "KMSInternalException")?;
        Ok(json!({
            "KeyId": KEY,
            "Signature": BASE64_STANDARD.encode(signature.to_der()),
            "SigningAlgorithm": ALGORITHM,
        }))
    }

    fn public_key(&self) -> Result<Value, &'static str> {
        let der = self
            .0
            .key
            .verifying_key()
            .to_public_key_der()
            .map_err(|_| "KMSInternalException")?;
        Ok(json!({
            "KeyId": KEY,
            "KeySpec": "ECC_NIST_P256",
            "KeyUsage": "SIGN_VERIFY",
            "PublicKey": BASE64_STANDARD.encode(der.as_bytes()),
            "SigningAlgorithms": [ALGORITHM],
        }))
    }
}

async fn answer(State(kms): State<Kms>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers
        .get("x-amz-target")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let request = serde_json::from_slice(&body).unwrap_or_default();
    let (status, answer) = match kms.call(target, &request) {
        Ok(answer) => (StatusCode::OK, answer),
        Err(code) => (
            StatusCode::BAD_REQUEST,
            json!({ "__type": code, "message": code }),
        ),
    };
    let mut response = Response::new(answer.to_string().into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/x-amz-json-1.1"),
    );
    response
}
