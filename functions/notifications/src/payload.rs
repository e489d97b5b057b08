//! What is sent for an event: one message or several, each with the id by which its receiver tells repetitions.

use crate::cloud_event;
use crate::messages;
use crate::mlflow::payload as mlflow;
use shared::domain::subscription::Format;
use shared::domain::{Event, Subscription};
use shared::{App, Result};

/// The media type of bodies that are JSON and have none of their own.
pub(crate) const JSON: &str = "application/json";

/// One message to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The id by which the receiver tells repetitions; the same in every attempt.
    pub(crate) id: String,
    /// The subject, for e-mail.
    pub(crate) subject: String,
    /// The media type of the body.
    pub(crate) media_type: &'static str,
    /// The body.
    pub(crate) body: String,
}

/// The messages for events that go together: several are a digest.
///
/// MLflow tells each tag by a webhook of its own, so that one event of ours may be several messages there, or none.
pub(crate) async fn messages_of(
    app: &App,
    subscription: &Subscription,
    events: &[&Event],
) -> Result<Vec<Message>> {
    let Some(first) = events.first() else {
        return Ok(Vec::new());
    };
    if subscription.format == Format::Mlflow {
        let mut all = Vec::new();
        for event in events {
            all.extend(mlflow::messages_of(app, subscription, event).await?);
        }
        return Ok(all);
    }
    let id = match events {
        [one] => one.id.clone(),
        // Whoever gets the same digest again knows it, and one that grew since is another.
        [one, .., last] => format!("{}-{}", one.id, last.id),
        [] => String::new(),
    };
    let is_digest = events.len() > 1;
    let mut media_type = JSON;
    let (subject, body) = match subscription.format {
        Format::Cloudevents | Format::Mlflow if is_digest => {
            media_type = cloud_event::BATCH_MEDIA_TYPE;
            (String::new(), cloud_event::batch(app, events))
        }
        Format::Cloudevents | Format::Mlflow => {
            media_type = cloud_event::MEDIA_TYPE;
            (String::new(), cloud_event::one(app, first))
        }
        Format::Slack => (String::new(), messages::slack(app, subscription, events)?),
        Format::Teams => (String::new(), messages::teams(app, subscription, events)?),
        Format::Email => messages::email(app, subscription, events)?,
    };
    Ok(vec![Message {
        id,
        subject,
        media_type,
        body,
    }])
}
