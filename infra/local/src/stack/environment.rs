//! What a deployment would find in its environment.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{ACCESS_KEY_ID, Secrets, StackOptions};
use crate::definition;

/// Where the API and the embedded servers listen.
pub(super) struct Addresses {
    pub(super) http: SocketAddr,
    pub(super) s3: SocketAddr,
    pub(super) dynamodb: SocketAddr,
    pub(super) inbox: SocketAddr,
    pub(super) sqs: SocketAddr,
    pub(super) kms: SocketAddr,
}

/// What a deployment would find in its environment.
pub(super) fn variables(
    options: &StackOptions,
    secrets: &Secrets,
    addresses: &Addresses,
) -> BTreeMap<String, String> {
    let Addresses {
        http,
        s3,
        dynamodb,
        inbox,
        sqs,
        kms,
    } = addresses;
    let ours = [
        ("SLIPWAY_FUNCTION", "slipway".to_owned()),
        ("TABLE_NAME", definition::TABLE.to_owned()),
        ("BUCKET_NAME", definition::BUCKET.to_owned()),
        ("AWS_REGION", definition::REGION.to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", url_of(*dynamodb)),
        ("AWS_ENDPOINT_URL_S3", url_of(*s3)),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secrets.s3.clone()),
        ("AWS_ENDPOINT_URL_EVENTBRIDGE", url_of(*inbox)),
        ("AWS_ENDPOINT_URL_SNS", url_of(*inbox)),
        ("AWS_ENDPOINT_URL_SQS", url_of(*sqs)),
        (
            "DELIVERIES_QUEUE_URL",
            format!("http://{sqs}/000000000000/{}", definition::DELIVERIES.name),
        ),
        ("EVENT_BUS", definition::EVENT_BUS.to_owned()),
        ("FEED_DELAY_SECONDS", "1".to_owned()),
        ("PUBLIC_URL", url_of(*http)),
        ("SIGNING_KMS_KEY", crate::kms::KEY.to_owned()),
        ("AWS_ENDPOINT_URL_KMS", url_of(*kms)),
        ("CURSOR_SECRET", secrets.cursors.clone()),
        ("SECRETS_KEY", secrets.sealing.clone()),
        ("PRESIGN_SECONDS", "900".to_owned()),
        ("DROP_ZONE_QUIET_SECONDS", "3".to_owned()),
        ("ALLOW_LOOPBACK_WEBHOOKS", "true".to_owned()),
        ("TRUST_ACTOR_HEADER", secrets.tokens.is_none().to_string()),
        ("TOKEN_SECRET", secrets.tokens.clone().unwrap_or_default()),
    ];
    let mut variables: BTreeMap<String, String> = ours
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    variables.extend(options.settings.clone());
    variables
}

/// How clients write an address.
pub(super) fn url_of(address: SocketAddr) -> String {
    format!("http://{address}")
}
