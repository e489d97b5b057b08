//! Configuration, read once from the environment; the only place that reads it.

use crate::error::{Error, ErrorCode, Result};
use std::fmt;

/// The least that is copied by one call: the smallest part that S3 takes, in bytes.
const SMALLEST_COPY_BYTES: u64 = 5 * 1024 * 1024;

/// What a deployment sets.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a variable of its own, and none follows from another"
)]
#[derive(Clone)]
pub struct Config {
    /// `SLIPWAY_FUNCTION`: the function's name, for logs and metrics.
    pub function: String,
    /// `TABLE_NAME`: the DynamoDB table.
    pub table: String,
    /// `BUCKET_NAME`: the S3 bucket.
    pub bucket: String,
    /// `AWS_REGION`.
    pub region: String,
    /// `AWS_ENDPOINT_URL_DYNAMODB`: another endpoint than Amazon's.
    pub dynamodb_endpoint: Option<String>,
    /// `AWS_ENDPOINT_URL_S3`: another endpoint than Amazon's; requests are then path-style.
    pub s3_endpoint: Option<String>,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, as Lambda sets them.
    pub credentials: Credentials,
    /// `CURSOR_SECRET`: the key under which page cursors are authenticated.
    pub cursor_secret: String,
    /// `SECRETS_KEY`: the keys under which secrets are sealed, parted by commas: the first seals, all open.
    ///
    /// Without it the cursor secret serves, so that a small deployment needs one key only.
    pub secrets_keys: Vec<String>,
    /// `EVENT_BUS`: the EventBridge bus that events are put on; none without it.
    pub event_bus: Option<String>,
    /// `AWS_ENDPOINT_URL_EVENTBRIDGE`: another endpoint than Amazon's.
    pub eventbridge_endpoint: Option<String>,
    /// `DELIVERIES_QUEUE_URL`: the queue of lanes whose deliveries are to be sent; only who dispatches events has one.
    pub deliveries_queue: Option<String>,
    /// `AWS_ENDPOINT_URL_SQS`: another endpoint than Amazon's.
    pub sqs_endpoint: Option<String>,
    /// `AWS_ENDPOINT_URL_SNS`: another endpoint than Amazon's.
    pub sns_endpoint: Option<String>,
    /// `FEED_DELAY_SECONDS`: how old an event must be, counted from its dispatch, to be shown in the feed; 30 unless set.
    ///
    /// It must be longer than a dispatch takes to be committed, or a reader may pass by one that is committed late.
    pub feed_delay_seconds: u64,
    /// `PUBLIC_URL`: where people reach the registry, for links in messages; without it messages have none.
    pub public_url: Option<String>,
    /// `PRESIGN_SECONDS`: how long a presigned URL lives; 900 unless set, at most 3,600.
    pub presign_seconds: u64,
    /// `UPLOAD_DEADLINE_SECONDS`: how long a version may wait for its uploads; 7 days unless set.
    pub upload_deadline_seconds: u64,
    /// `DROP_ZONE_QUIET_SECONDS`: how long a drop-zone folder must be quiet to count as whole; 60 unless set.
    pub drop_zone_quiet_seconds: u64,
    /// `VALIDATION_SECONDS`: how long one invocation validates before it leaves the rest to another; 780 unless set.
    pub validation_seconds: u64,
    /// `VALIDATION_BYTES`: how much one invocation reads for digests before it leaves the rest to another; unbounded unless set.
    pub validation_bytes: Option<u64>,
    /// `PACKAGING_SECONDS`: how long one invocation packages before it leaves the rest to another; 780 unless set.
    pub packaging_seconds: u64,
    /// `PACKAGING_COPIES`: how many objects or parts one invocation copies before it leaves the rest to another; unbounded unless set.
    pub packaging_copies: Option<u64>,
    /// `COPY_BYTES`: the largest object that is copied by one call, in bytes; 5 GiB unless set. Larger ones are copied by parts.
    pub copy_bytes: u64,
    /// `COLLECT_GRACE_SECONDS`: how long objects that nothing refers to any more are kept, for downloads under way; an hour unless set, never less than a presigned URL lives.
    pub collect_grace_seconds: u64,
    /// `RESTORE_SECONDS`: how long a deleted version can be restored before it is purged; 30 days unless set.
    pub restore_seconds: u64,
    /// `SIGNING_KMS_KEY`: the key of the key management that packages are signed with; only who signs has one.
    pub signing_key: Option<String>,
    /// `AWS_ENDPOINT_URL_KMS`: another endpoint than Amazon's.
    pub kms_endpoint: Option<String>,
    /// `ALLOW_LOOPBACK_WEBHOOKS`: whether subscriptions may name `http://` URLs on loopback; only for one machine.
    pub allow_loopback_webhooks: bool,
    /// `SEAL_RETENTION_DAYS`: how long the object lock holds a seal, in days; 0, for a bucket without locks, unless set.
    pub seal_retention_days: u64,
    /// `TRUST_ACTOR_HEADER`: whether `X-Slipway-Actor` says who calls; only where nothing authenticates.
    pub trust_actor_header: bool,
    /// `MLFLOW_SOURCE_LINEAGE`: whether sources of versions must lie in the run or logged model that a request names.
    pub mlflow_lineage: bool,
    /// `TOKEN_SECRET`: the key of the hashes of tokens; without one there are no tokens.
    pub token_secret: Option<String>,
    /// `ADMINISTRATOR_TOKEN`: whether the administrator's token, made from the secret alone, is taken; `true` unless set.
    pub administrator_token: bool,
    /// `JWT_SUBJECTS`: patterns of the subjects of JWTs that are let in, separated by commas; every subject unless set.
    pub jwt_subjects: Vec<String>,
    /// `S3_ARTIFACT_ROOTS`: whether new runs keep their files at `s3://` roots, for clients with IAM credentials.
    pub s3_artifact_roots: bool,
    /// `JWT_GROUPS_CLAIM`: the claim of a JWT that names the caller's groups; `groups` unless set.
    pub jwt_groups_claim: String,
}

/// Keys of the account that the function runs as.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: String,
    /// Session token.
    pub session_token: Option<String>,
}

impl Config {
    /// Reads the environment of the process.
    pub fn from_env() -> Result<Self> {
        Self::from_lookup(&process_variable)
    }

    /// Reads from any source of variables.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let need = |name: &str| {
            get(name).ok_or_else(|| {
                Error::new(
                    ErrorCode::Internal,
                    format!("the environment variable `{name}` is not set; set it"),
                )
            })
        };
        let seconds = |name: &str, default: u64| match get(name) {
            None => Ok(default),
            Some(text) => text.parse::<u64>().map_err(|_| {
                Error::new(
                    ErrorCode::Internal,
                    format!("`{name}` is `{text}`; write a number of seconds"),
                )
            }),
        };
        let number = |name: &str| {
            get(name)
                .map(|text| {
                    text.parse::<u64>().map_err(|_| {
                        Error::new(
                            ErrorCode::Internal,
                            format!("`{name}` is `{text}`; write a whole number"),
                        )
                    })
                })
                .transpose()
        };
        let presign_seconds = seconds("PRESIGN_SECONDS", 900)?.clamp(1, 3_600);
        let flag = |name: &str| get(name).is_some_and(|text| text == "true");
        Ok(Self {
            function: get("SLIPWAY_FUNCTION")
                .or_else(|| get("AWS_LAMBDA_FUNCTION_NAME"))
                .unwrap_or_else(|| "slipway".into()),
            table: need("TABLE_NAME")?,
            bucket: need("BUCKET_NAME")?,
            region: need("AWS_REGION")?,
            dynamodb_endpoint: get("AWS_ENDPOINT_URL_DYNAMODB"),
            s3_endpoint: get("AWS_ENDPOINT_URL_S3"),
            credentials: Credentials {
                access_key_id: need("AWS_ACCESS_KEY_ID")?,
                secret_access_key: need("AWS_SECRET_ACCESS_KEY")?,
                session_token: get("AWS_SESSION_TOKEN"),
            },
            cursor_secret: need("CURSOR_SECRET")?,
            secrets_keys: get("SECRETS_KEY")
                .map_or_else(|| need("CURSOR_SECRET"), Ok)?
                .split(',')
                .map(str::trim)
                .filter(|key| !key.is_empty())
                .map(str::to_owned)
                .collect(),
            event_bus: get("EVENT_BUS"),
            eventbridge_endpoint: get("AWS_ENDPOINT_URL_EVENTBRIDGE"),
            deliveries_queue: get("DELIVERIES_QUEUE_URL"),
            sqs_endpoint: get("AWS_ENDPOINT_URL_SQS"),
            sns_endpoint: get("AWS_ENDPOINT_URL_SNS"),
            feed_delay_seconds: seconds("FEED_DELAY_SECONDS", 30)?,
            public_url: get("PUBLIC_URL").map(|url| url.trim_end_matches('/').to_owned()),
            presign_seconds,
            upload_deadline_seconds: seconds("UPLOAD_DEADLINE_SECONDS", 7 * 24 * 3_600)?,
            drop_zone_quiet_seconds: seconds("DROP_ZONE_QUIET_SECONDS", 60)?,
            validation_seconds: seconds("VALIDATION_SECONDS", 780)?.clamp(30, 840),
            validation_bytes: number("VALIDATION_BYTES")?,
            packaging_seconds: seconds("PACKAGING_SECONDS", 780)?.clamp(30, 840),
            packaging_copies: number("PACKAGING_COPIES")?,
            copy_bytes: number("COPY_BYTES")?
                .unwrap_or(crate::s3::MOST_COPIED_BYTES)
                .clamp(SMALLEST_COPY_BYTES, crate::s3::MOST_COPIED_BYTES),
            collect_grace_seconds: seconds("COLLECT_GRACE_SECONDS", 3_600)?.max(presign_seconds),
            restore_seconds: seconds("RESTORE_SECONDS", 30 * 24 * 3_600)?,
            signing_key: get("SIGNING_KMS_KEY"),
            kms_endpoint: get("AWS_ENDPOINT_URL_KMS"),
            allow_loopback_webhooks: flag("ALLOW_LOOPBACK_WEBHOOKS"),
            seal_retention_days: seconds("SEAL_RETENTION_DAYS", 0)?,
            trust_actor_header: flag("TRUST_ACTOR_HEADER"),
            mlflow_lineage: flag("MLFLOW_SOURCE_LINEAGE"),
            token_secret: get("TOKEN_SECRET"),
            administrator_token: get("ADMINISTRATOR_TOKEN").is_none_or(|text| text == "true"),
            jwt_subjects: get("JWT_SUBJECTS")
                .unwrap_or_else(|| "*".into())
                .split(',')
                .map(|pattern| pattern.trim().to_owned())
                .collect(),
            s3_artifact_roots: flag("S3_ARTIFACT_ROOTS"),
            jwt_groups_claim: get("JWT_GROUPS_CLAIM").unwrap_or_else(|| "groups".into()),
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn process_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("function", &self.function)
            .field("table", &self.table)
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(hidden)")
    }
}
