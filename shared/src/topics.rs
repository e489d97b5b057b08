//! SNS topics, which send what is published to them as e-mail.
//!
//! API: <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>

use crate::aws::{Clients, Lazy};
use aws_sdk_sns::Client;
use aws_sdk_sns::error::{ProvideErrorMetadata as _, SdkError};

/// Longest subject that SNS takes, in characters.
const MAX_SUBJECT: usize = 100;

/// Publishes to topics.
#[derive(Debug, Clone)]
pub struct Topics(Lazy<Client>);

impl Topics {
    pub(crate) fn new(clients: &Clients) -> Self {
        Self(clients.sns())
    }

    /// Publishes a text, and answers the message's id, or a word for why it was not taken.
    pub async fn publish(
        &self,
        arn: &str,
        subject: &str,
        text: &str,
    ) -> std::result::Result<String, String> {
        let subject: String = subject
            .chars()
            .filter(|character| character.is_ascii() && !character.is_ascii_control())
            .take(MAX_SUBJECT)
            .collect();
        let sent = self
            .0
            .publish()
            .topic_arn(arn)
            .subject(if subject.trim().is_empty() {
                "Slipway"
            } else {
                subject.trim()
            })
            .message(text)
            .send()
            .await;
        match sent {
            Ok(answer) => Ok(answer.message_id.unwrap_or_default()),
            Err(SdkError::ServiceError(service)) => Err(service
                .err()
                .code()
                .unwrap_or("refused_by_topic")
                .to_owned()),
            Err(SdkError::TimeoutError(_)) => Err("timed_out".to_owned()),
            Err(_) => Err("connect_failed".to_owned()),
        }
    }
}
