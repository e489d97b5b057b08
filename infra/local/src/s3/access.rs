//! Who may ask: the holder of the one access key, with a complete signature of version 4.

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use super::counters::{Counters, Meter};

/// Knows one access key.
pub(super) struct Key {
    pub(super) access_key: String,
    pub(super) secret_key: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for Key {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            Ok(self.secret_key.clone())
        } else {
            Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records."
            ))
        }
    }
}

/// Refuses what S3 refuses after the signature itself was found right, and counts the rest.
pub(super) struct Gate {
    pub(super) counters: Counters,
}

/// Headers that need no signature: the first is bound by the canonical request itself, the second says nothing.
const FREE: [&str; 2] = ["x-amz-content-sha256", "x-amz-user-agent"];

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        let query = context.uri().query().unwrap_or_default();
        let parameter = |wanted: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| {
                    percent_encoding::percent_decode_str(value)
                        .decode_utf8_lossy()
                        .into_owned()
                })
        };
        let authorization = context
            .headers()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let signed = match (parameter("X-Amz-SignedHeaders"), authorization) {
            (Some(signed), _) => signed,
            (None, Some(authorization)) if authorization.starts_with("AWS4-") => authorization
                .split_once("SignedHeaders=")
                .map(|(_, rest)| rest.split(',').next().unwrap_or(rest).trim().to_owned())
                .unwrap_or_default(),
            _ => {
                return Err(s3_error!(
                    InvalidRequest,
                    "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
                ));
            }
        };
        let unsigned = context.headers().keys().any(|name| {
            let name = name.as_str();
            name.starts_with("x-amz-")
                && !FREE.contains(&name)
                && !signed
                    .split(';')
                    .any(|signed| signed.eq_ignore_ascii_case(name))
        });
        if unsigned {
            return Err(s3_error!(
                AccessDenied,
                "There were headers present in the request which were not signed"
            ));
        }
        let operation = context.s3_op().name().to_owned();
        let meter = context.extensions_mut().get::<Meter>().cloned();
        self.counters.count(&operation, meter.as_ref());
        Ok(())
    }
}
