//! Signing with ECDSA on the curve P-256 over SHA-256, and verifying it.
//!
//! The private key never leaves the key management; on one machine that is an embedded one, with a key of the data folder.

use crate::aws::{Clients, Lazy};
use crate::config::Config;
use crate::error::{Error, ErrorCode, Result};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{MessageType, SigningAlgorithmSpec};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _, LineEnding};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// What signs for this registry.
#[derive(Clone)]
pub struct Signer {
    client: Lazy<aws_sdk_kms::Client>,
    /// The key's id or ARN.
    key: Option<String>,
    /// The public key as PEM, once it was asked for.
    public: Arc<OnceCell<String>>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Signer")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Makes no call; the client is built when it is first used.
    pub(crate) fn new(config: &Config, clients: &Clients) -> Self {
        Self {
            client: clients.kms(),
            key: config.signing_key.clone(),
            public: Arc::default(),
        }
    }

    fn key(&self) -> Result<&str> {
        self.key
            .as_deref()
            .ok_or_else(|| Error::internal("signing", "`SIGNING_KMS_KEY` is not set; set it"))
    }

    /// Signs a message; the signature is DER, as sigstore has it. One call.
    pub async fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signed = self
            .client
            .sign()
            .key_id(self.key()?)
            .message(Blob::new(Sha256::digest(message).to_vec()))
            .message_type(MessageType::Digest)
            .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256)
            .send()
            .await
            .map_err(|error| Error::new(ErrorCode::Unavailable, "KMS: signing").caused_by(error))?;
        signed
            .signature
            .map(Blob::into_inner)
            .ok_or_else(|| Error::internal("signing", "KMS gave no signature"))
    }

    /// The public key as PEM; one call in the life of a process.
    pub async fn public_key(&self) -> Result<String> {
        self.public
            .get_or_try_init(|| self.find_public_key())
            .await
            .cloned()
    }

    async fn find_public_key(&self) -> Result<String> {
        let found = self
            .client
            .get_public_key()
            .key_id(self.key()?)
            .send()
            .await
            .map_err(|error| {
                Error::new(ErrorCode::Unavailable, "KMS: asking for the public key")
                    .caused_by(error)
            })?;
        let der = found.public_key.map(Blob::into_inner).unwrap_or_default();
        VerifyingKey::from_public_key_der(&der)
            .map_err(|error| Error::internal("reading the public key", error))?
            .to_public_key_pem(LineEnding::LF)
            .map_err(|error| Error::internal("writing the public key", error))
    }
}

/// A public key that somebody trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a key on P-256 from PEM.
    pub fn parse(pem: &str) -> Result<Self> {
        VerifyingKey::from_public_key_pem(pem.trim())
            .map(Self)
            .map_err(|error| {
                Error::invalid(
                    "public_key",
                    "it is no public key on the curve P-256; write it as PEM, beginning with `-----BEGIN PUBLIC KEY-----`",
                )
                .caused_by(error)
            })
    }

    /// The key as PEM, written always the same.
    pub fn pem(&self) -> Result<String> {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .map_err(|error| Error::internal("writing a public key", error))
    }

    /// Whether this key made a DER signature over a message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_der(signature)
            .is_ok_and(|signature| self.0.verify(message, &signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer as _;

    #[test]
    fn what_a_key_signed_its_public_half_verifies_and_no_other() {
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let signature: Signature = key.sign(b"message");
        let der = signature.to_der();
        let public = key
            .verifying_key()
            .to_public_key_pem(LineEnding::LF)
            .unwrap();
        assert!(public.starts_with("-----BEGIN PUBLIC KEY-----\n"));
        let public = PublicKey::parse(&public).unwrap();
        assert!(public.verifies(b"message", der.as_bytes()));
        assert!(!public.verifies(b"messagf", der.as_bytes()));
        assert!(!public.verifies(b"message", b""));
        let other = SigningKey::from_slice(&[8; 32]).unwrap();
        assert!(!PublicKey(*other.verifying_key()).verifies(b"message", der.as_bytes()));
        assert!(PublicKey::parse("no key").is_err());
    }
}
