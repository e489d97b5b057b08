//! Subscriptions and deliveries as they are shown.

use serde::Serialize;
use serde_json::Value;
use shared::App;
use shared::domain::subscription::{Attempt, DeliveryStatus, Filter, Format, SubscriptionStatus};
use shared::domain::{
    Delivery, Event, EventType, ModelName, Principal, Subscription, Timestamp, VersionNumber,
};

/// A subscription as it is shown, without its secret.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SubscriptionView {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_arn: Option<String>,
    format: Format,
    #[serde(flatten)]
    filter: Filter,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest_minutes: Option<u32>,
    status: SubscriptionStatus,
    endpoint: EndpointView,
    #[serde(skip_serializing_if = "Option::is_none")]
    former_secret_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    created_by: Principal,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<Timestamp>,
    revision: u64,
}

/// What is known of an endpoint.
#[derive(Debug, Clone, Serialize)]
struct EndpointView {
    /// `ok`, `failing` or `paused`.
    state: &'static str,
    failures: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_until: Option<Timestamp>,
}

impl SubscriptionView {
    /// A subscription as it is shown now.
    pub(crate) fn of(app: &App, subscription: Subscription) -> Self {
        let now = app.clock.now();
        let circuit = &subscription.circuit;
        let endpoint = EndpointView {
            state: if circuit.paused_until.is_some() {
                "paused"
            } else if circuit.failures > 0 {
                "failing"
            } else {
                "ok"
            },
            failures: circuit.failures,
            failing_since: circuit.failing_since,
            paused_until: circuit.paused_until,
        };
        let is_topic = subscription.format == Format::Email;
        let target = shown_url(subscription.format, &subscription.url);
        Self {
            id: subscription.id,
            name: subscription.name,
            url: (!is_topic).then(|| target.clone()),
            topic_arn: is_topic.then_some(target),
            format: subscription.format,
            filter: subscription.filter,
            template: subscription.template,
            digest_minutes: subscription.digest_minutes,
            status: subscription.status,
            endpoint,
            former_secret_until: subscription
                .former_secret
                .map(|former| former.until)
                .filter(|until| now < *until),
            description: subscription.description,
            created_by: subscription.created_by,
            created_at: subscription.created_at,
            updated_at: subscription.updated_at,
            revision: subscription.revision,
        }
    }
}

/// The URL of Slack and Teams lets whoever knows it write there, so that only its host is shown.
fn shown_url(format: Format, url: &str) -> String {
    if !matches!(format, Format::Slack | Format::Teams) {
        return url.to_owned();
    }
    match reqwest::Url::parse(url) {
        Ok(parsed) => format!("{}/…", parsed.origin().ascii_serialization()),
        Err(_) => "…".to_owned(),
    }
}

/// A subscription as its creator sees it once, with its secret.
#[derive(Clone, Serialize)]
pub(crate) struct CreatedView {
    /// What everybody may see.
    #[serde(flatten)]
    pub(crate) subscription: SubscriptionView,
    /// The secret, if the format has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
}

impl CreatedView {
    /// The answer as it is stored, with the secret as it lies in the subscription: sealed.
    pub(crate) fn sealed(&self, subscription: &Subscription) -> Value {
        let mut body = serde_json::to_value(&self.subscription).unwrap_or_default();
        if let (Value::Object(fields), Some(sealed)) = (&mut body, &subscription.secret) {
            fields.insert("sealed_secret".to_owned(), sealed.as_str().into());
        }
        body
    }
}

impl std::fmt::Debug for CreatedView {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.subscription.fmt(formatter)
    }
}

/// What came of the test of a subscription.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TestView {
    /// The event that was sent.
    pub(crate) event_id: String,
    /// Whether the endpoint took it.
    pub(crate) is_delivered: bool,
    /// What came of it.
    #[serde(flatten)]
    pub(crate) attempt: Attempt,
}

/// A delivery as it is shown.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeliveryView {
    event_id: String,
    event_type: EventType,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<VersionNumber>,
    status: DeliveryStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<Timestamp>,
    replays: u32,
    attempts: Vec<Attempt>,
}

impl From<(Delivery, Event)> for DeliveryView {
    fn from((delivery, event): (Delivery, Event)) -> Self {
        let is_pending = delivery.status == DeliveryStatus::Pending;
        Self {
            event_id: delivery.event_id,
            event_type: event.kind,
            model: event.model,
            version: event.version,
            status: delivery.status,
            next_attempt_at: Some(delivery.due_at).filter(|_| is_pending),
            replays: delivery.replays,
            attempts: delivery.attempts,
        }
    }
}
