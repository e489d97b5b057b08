//! Subscriptions: create, list, change, test, delete, and the log of their deliveries.

use crate::address::parse_url;
use crate::deliver::{self, Outgoing};
use crate::dispatch::first_delivery;
use crate::messages::check_template;
use crate::send::secret_owner;
use crate::sign::secret_of;
use crate::views::{CreatedView, DeliveryView, SubscriptionView, TestView};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use shared::domain::model::check_text;
use shared::domain::subscription::{
    Circuit, DeliveryStatus, Filter, Format, FormerSecret, MAX_FILTERS, MAX_PATTERN,
    SubscriptionStatus,
};
use shared::domain::{
    AliasName, Delivery, EventType, ModelName, StageName, Subscription, TenantName, Timestamp,
};
use shared::dynamodb::idempotency::Answer;
use shared::dynamodb::{Dispatch, Outcome, Page, StoredResponse, keys};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeMap;

/// Random bytes of a secret; Standard Webhooks asks for 24 to 64.
const SECRET_BYTES: usize = 24;
/// Longest description of a subscription, in characters.
const MAX_DESCRIPTION: usize = 1_000;
/// Longest name, in characters.
const MAX_NAME: usize = 100;
/// Longest window of a digest, in minutes: a day.
const MAX_DIGEST_MINUTES: u32 = 24 * 60;
/// Longest that a former secret signs beside the new one, in hours.
const MAX_OVERLAP_HOURS: u64 = 7 * 24;
/// How long it does unless somebody says otherwise, in hours.
const OVERLAP_HOURS: u64 = 24;
/// Most places that are looked at to find the lanes of a subscription that is sent to again.
const MOST_WOKEN: usize = 5_000;
/// Most pages that one request for deliveries of a status reads.
const MOST_PAGES: usize = 10;

/// The body that creates a subscription.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSubscription {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    topic_arn: Option<String>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    event_types: Vec<EventType>,
    #[serde(default)]
    mlflow_events: Vec<String>,
    #[serde(default)]
    model: Option<ModelName>,
    #[serde(default)]
    model_pattern: Option<String>,
    #[serde(default)]
    stages: Vec<StageName>,
    #[serde(default)]
    aliases: Vec<AliasName>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    template: Option<String>,
    #[serde(default)]
    digest_minutes: Option<u32>,
    #[serde(default)]
    status: SubscriptionStatus,
    #[serde(default)]
    description: Option<String>,
}

/// The body that changes a subscription: what is absent stays, `null` removes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangedSubscription {
    #[serde(default)]
    name: Given<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    topic_arn: Option<String>,
    #[serde(default)]
    event_types: Option<Vec<EventType>>,
    #[serde(default)]
    mlflow_events: Option<Vec<String>>,
    #[serde(default)]
    model: Given<ModelName>,
    #[serde(default)]
    model_pattern: Given<String>,
    #[serde(default)]
    stages: Option<Vec<StageName>>,
    #[serde(default)]
    aliases: Option<Vec<AliasName>>,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
    #[serde(default)]
    template: Given<String>,
    #[serde(default)]
    digest_minutes: Given<u32>,
    #[serde(default)]
    status: Option<SubscriptionStatus>,
    #[serde(default)]
    description: Given<String>,
    #[serde(default)]
    expected_revision: Option<u64>,
}

/// A field of a change, which may be removed.
#[derive(Debug, Clone, Default)]
enum Given<T> {
    /// It stays as it is.
    #[default]
    Absent,
    /// It was given; `null` removes it.
    Value(Option<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Option::<T>::deserialize(deserializer).map(Self::Value)
    }
}

impl<T> Given<T> {
    fn into_field(self, field: &mut Option<T>) {
        if let Self::Value(value) = self {
            *field = value;
        }
    }
}

/// The body that makes a new secret.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSecret {
    #[serde(default)]
    overlap_hours: Option<u64>,
}

/// Creates a subscription with a new secret.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    new: NewSubscription,
) -> Result<Outcome<CreatedView>> {
    let (subscription, secret) = decide(app, caller, new)?;
    store_new(app, caller, &subscription, secret).await
}

/// Stores a subscription; under an idempotency key its secret lies sealed in the stored answer.
async fn store_new(
    app: &App,
    caller: &Caller,
    subscription: &Subscription,
    secret: Option<String>,
) -> Result<Outcome<CreatedView>> {
    let view = CreatedView {
        subscription: SubscriptionView::of(app, subscription.clone()),
        secret,
    };
    let answer = caller.answer(201, &view.sealed(subscription), subscription.created_at)?;
    let outcome = app
        .registry
        .create_subscription(subscription, answer)
        .await?;
    if matches!(outcome, Outcome::Done(())) {
        tracing::info!(
            subscription.id = subscription.id,
            "Created subscription `{}`",
            subscription.id
        );
    }
    Ok(outcome.map(|()| view))
}

/// The subscription as it will be, and its secret, if its format has one.
fn decide(
    app: &App,
    caller: &Caller,
    new: NewSubscription,
) -> Result<(Subscription, Option<String>)> {
    let secret = (!new.format.is_for_people()).then(|| new_secret(app));
    let mut subscription = Subscription {
        id: app.ids.next(),
        tenant: caller.tenant.clone(),
        name: new.name,
        url: target(new.format, new.url, new.topic_arn)?.unwrap_or_default(),
        format: new.format,
        filter: Filter {
            event_types: new.event_types,
            mlflow_events: new.mlflow_events,
            model: new.model,
            model_pattern: new.model_pattern,
            stages: new.stages,
            aliases: new.aliases,
            tags: new.tags,
        },
        secret: None,
        former_secret: None,
        template: new.template,
        digest_minutes: new.digest_minutes,
        status: new.status,
        circuit: Circuit::default(),
        description: new.description,
        created_by: caller.principal.clone(),
        created_at: app.clock.now(),
        updated_at: None,
        revision: 0,
    };
    check(app, &mut subscription)?;
    seal_into(app, &mut subscription, secret.as_deref())?;
    Ok((subscription, secret))
}

/// A new secret, as Standard Webhooks has it.
pub(crate) fn new_secret(app: &App) -> String {
    secret_of(&app.ids.secret::<SECRET_BYTES>())
}

/// Seals a secret into its subscription.
pub(crate) fn seal_into(
    app: &App,
    subscription: &mut Subscription,
    secret: Option<&str>,
) -> Result<()> {
    let owner = secret_owner(subscription);
    subscription.secret = secret
        .map(|secret| app.sealer.seal(secret, &owner))
        .transpose()?;
    Ok(())
}

/// Where a format is sent to: a URL, or a topic.
fn target(
    format: Format,
    url: Option<String>,
    topic_arn: Option<String>,
) -> Result<Option<String>> {
    match (format, url, topic_arn) {
        (Format::Email, None, topic) => Ok(topic),
        (Format::Email, Some(_), _) => Err(Error::invalid(
            "url",
            "e-mail is sent by a topic of SNS; give `topic_arn` and leave `url` out",
        )),
        (_, _, Some(_)) => Err(Error::invalid(
            "topic_arn",
            "only the format `email` is sent to a topic; give `url`, or choose that format",
        )),
        (_, url, None) => Ok(url),
    }
}

/// Checks a subscription as a whole, and brings lists into order.
pub(crate) fn check(app: &App, subscription: &mut Subscription) -> Result<()> {
    if subscription.format == Format::Email {
        check_topic(&subscription.url)?;
    } else {
        parse_url(&subscription.url, app.config.allow_loopback_webhooks)?;
    }
    check_text("name", subscription.name.as_deref(), MAX_NAME)?;
    check_text(
        "description",
        subscription.description.as_deref(),
        MAX_DESCRIPTION,
    )?;
    let filter = &mut subscription.filter;
    filter.event_types.sort_unstable();
    filter.event_types.dedup();
    if let Some(pattern) = &filter.model_pattern {
        check_text("model_pattern", Some(pattern), MAX_PATTERN)?;
        if pattern.is_empty() {
            return Err(Error::invalid(
                "model_pattern",
                "the pattern is empty and matches no model; write one such as `fraud-*`, or leave it out",
            ));
        }
    }
    for (field, count) in [
        ("stages", filter.stages.len()),
        ("aliases", filter.aliases.len()),
        ("tags", filter.tags.len()),
    ] {
        if count > MAX_FILTERS {
            return Err(Error::invalid(
                field,
                format!("`{field}` has {count} entries; use at most {MAX_FILTERS}"),
            ));
        }
    }
    for (key, value) in &filter.tags {
        shared::domain::model::check_tag(key, value)?;
    }
    if subscription.format == Format::Mlflow {
        for name in &filter.mlflow_events {
            crate::mlflow::events::check(name)?;
        }
    } else if !filter.mlflow_events.is_empty() {
        return Err(Error::invalid(
            "mlflow_events",
            "only the format `mlflow` has `mlflow_events`; use `event_types`, or choose that format",
        ));
    }
    if let Some(template) = &subscription.template {
        if !subscription.format.is_for_people() {
            return Err(Error::invalid(
                "template",
                "only messages for people have templates; choose the format `slack`, `teams` or `email`",
            ));
        }
        check_template(template)?;
    }
    match subscription.digest_minutes {
        Some(minutes) if !(1..=MAX_DIGEST_MINUTES).contains(&minutes) => Err(Error::invalid(
            "digest_minutes",
            format!("`digest_minutes` is {minutes}; use 1 to {MAX_DIGEST_MINUTES}"),
        )),
        Some(_) if subscription.format == Format::Mlflow => Err(Error::invalid(
            "digest_minutes",
            "MLflow's receivers take one event at a time; leave `digest_minutes` out",
        )),
        _ => Ok(()),
    }
}

fn check_topic(arn: &str) -> Result<()> {
    let parts: Vec<&str> = arn.split(':').collect();
    let is_topic = matches!(parts.as_slice(), ["arn", partition, "sns", region, account, name]
        if partition.starts_with("aws") && !region.is_empty() && account.len() == 12
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    if is_topic {
        Ok(())
    } else {
        Err(Error::invalid(
            "topic_arn",
            "the topic is not the ARN of a standard topic of SNS; write one such as `arn:aws:sns:eu-west-1:123456789012:models`",
        ))
    }
}

/// All subscriptions of a tenant, oldest first; there are few enough for one page.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<SubscriptionView>> {
    let subscriptions = app.registry.subscriptions(&caller.tenant).await?;
    Ok(subscriptions
        .into_iter()
        .map(|subscription| SubscriptionView::of(app, subscription))
        .collect())
}

/// One subscription.
pub(crate) async fn get(app: &App, caller: &Caller, id: &str) -> Result<Subscription> {
    app.registry
        .find_subscription(&caller.tenant, id)
        .await?
        .ok_or_else(|| not_found(id))
}

/// Changes a subscription.
pub(crate) async fn update(
    app: &App,
    caller: &Caller,
    id: &str,
    change: ChangedSubscription,
) -> Result<Outcome<SubscriptionView>> {
    let before = get(app, caller, id).await?;
    if let Some(expected) = change.expected_revision
        && expected != before.revision
    {
        return Err(Error::new(
            ErrorCode::Conflict,
            format!(
                "subscription `{id}` is at revision {}, not {expected}; read it again and decide anew",
                before.revision
            ),
        ));
    }
    let mut after = before.clone();
    apply(&mut after, change)?;
    check(app, &mut after)?;
    let now = app.clock.now();
    let view = SubscriptionView::of(
        app,
        Subscription {
            updated_at: Some(now),
            revision: before.revision + 1,
            ..after.clone()
        },
    );
    let answer = caller.answer(200, &view, now)?;
    let outcome = commit(app, &before, after, now, answer).await?;
    Ok(outcome.map(|()| view))
}

fn apply(after: &mut Subscription, change: ChangedSubscription) -> Result<()> {
    fn set<T>(field: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *field = value;
        }
    }
    if let Some(url) = target(after.format, change.url, change.topic_arn)? {
        after.url = url;
    }
    change.name.into_field(&mut after.name);
    set(&mut after.filter.event_types, change.event_types);
    set(&mut after.filter.mlflow_events, change.mlflow_events);
    change.model.into_field(&mut after.filter.model);
    change
        .model_pattern
        .into_field(&mut after.filter.model_pattern);
    set(&mut after.filter.stages, change.stages);
    set(&mut after.filter.aliases, change.aliases);
    set(&mut after.filter.tags, change.tags);
    change.template.into_field(&mut after.template);
    change.digest_minutes.into_field(&mut after.digest_minutes);
    set(&mut after.status, change.status);
    change.description.into_field(&mut after.description);
    Ok(())
}

/// Commits a changed subscription; what waited for it because of how it was is looked at again.
pub(crate) async fn commit(
    app: &App,
    before: &Subscription,
    mut after: Subscription,
    now: Timestamp,
    answer: Option<Answer>,
) -> Result<Outcome<()>> {
    after.updated_at = Some(now);
    after.revision = before.revision + 1;
    let outcome = app
        .registry
        .replace_subscription(before, &after, answer)
        .await?;
    let is_moved = before.url != after.url || before.status != after.status;
    if matches!(outcome, Outcome::Done(())) && is_moved {
        wake(app, &after).await?;
    }
    Ok(outcome)
}

/// Lets the lanes of a subscription be looked at now, and forgets what was known of its endpoint.
async fn wake(app: &App, subscription: &Subscription) -> Result<()> {
    if subscription.status == SubscriptionStatus::Disabled {
        return Ok(());
    }
    if subscription.circuit != Circuit::default() {
        app.registry
            .change_circuit(subscription, &Circuit::default(), None)
            .await?;
    }
    let now = app.clock.now();
    let lanes = app
        .registry
        .lanes(&subscription.tenant, &subscription.id, MOST_WOKEN)
        .await?;
    for lane in lanes {
        app.registry.add_work(&lane.work(now)?).await?;
    }
    Ok(())
}

/// Makes a new secret; the one before signs beside it for a while, so that no delivery is refused meanwhile.
pub(crate) async fn rotate(
    app: &App,
    caller: &Caller,
    id: &str,
    wanted: &NewSecret,
) -> Result<Outcome<CreatedView>> {
    let hours = wanted.overlap_hours.unwrap_or(OVERLAP_HOURS);
    if hours > MAX_OVERLAP_HOURS {
        return Err(Error::invalid(
            "overlap_hours",
            format!("`overlap_hours` is {hours}; use 0 to {MAX_OVERLAP_HOURS}"),
        ));
    }
    let before = get(app, caller, id).await?;
    let now = app.clock.now();
    let secret = new_secret(app);
    let mut after = before.clone();
    seal_into(app, &mut after, Some(&secret))?;
    after.former_secret = before
        .secret
        .clone()
        .filter(|_| hours > 0)
        .map(|secret| FormerSecret {
            secret,
            until: now.plus_millis(hours * 3_600_000),
        });
    after.updated_at = Some(now);
    after.revision = before.revision + 1;
    let view = CreatedView {
        subscription: SubscriptionView::of(app, after.clone()),
        secret: Some(secret),
    };
    let answer = caller.answer(200, &view.sealed(&after), now)?;
    let outcome = app
        .registry
        .replace_subscription(&before, &after, answer)
        .await?;
    tracing::info!(
        subscription.id = id,
        "Made a new secret for subscription `{id}`"
    );
    Ok(outcome.map(|()| view))
}

/// Deletes a subscription; the sweep empties its lanes.
pub(crate) async fn delete(app: &App, caller: &Caller, id: &str) -> Result<Outcome<Value>> {
    if let Some(stored) = earlier(app, caller).await? {
        return Ok(Outcome::Replayed(stored));
    }
    if !app.registry.delete_subscription(&caller.tenant, id).await? {
        return Err(not_found(id));
    }
    tracing::info!(subscription.id = id, "Deleted subscription `{id}`");
    keep(app, caller, json!({})).await
}

/// Delivers a `subscription.tested` event now, whatever types the subscription wants, and says what came of it.
pub(crate) async fn test(app: &App, caller: &Caller, id: &str) -> Result<Outcome<TestView>> {
    if let Some(stored) = earlier(app, caller).await? {
        return Ok(Outcome::Replayed(stored));
    }
    let subscription = get(app, caller, id).await?;
    let event = app
        .event(
            EventType::SubscriptionTested,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .with("subscription_id", id);
    let stamp = app.ids.next();
    // It waits in no lane, so that a test of an endpoint that is paused is made all the same.
    let delivery = Delivery {
        place: String::new(),
        ..first_delivery(&event, &subscription, event.time, &stamp)
    };
    // It changes nothing, so that it has no item of its own: the feed's row and the delivery are its record.
    app.registry
        .dispatch(&Dispatch {
            event: &event,
            stamp: &stamp,
            at: keys::time_of(&stamp),
            deliveries: std::slice::from_ref(&delivery),
            work: &[],
        })
        .await?;
    let outgoing = Outgoing { delivery, event };
    let attempted = deliver::attempt(app, &subscription, std::slice::from_ref(&outgoing)).await?;
    let is_delivered = attempted.is_delivered();
    if is_delivered && subscription.circuit.paused_until.is_some() {
        wake(app, &subscription).await?;
    }
    let view = TestView {
        event_id: outgoing.event.id,
        is_delivered,
        attempt: attempted.attempt,
    };
    keep(app, caller, view).await
}

/// One page of a subscription's deliveries, newest first; of one status, if asked for.
pub(crate) async fn deliveries(
    app: &App,
    caller: &Caller,
    id: &str,
    status: Option<DeliveryStatus>,
    limit: usize,
    after: Option<String>,
) -> Result<Page<DeliveryView>> {
    get(app, caller, id).await?;
    let (tenant, mut after) = (&caller.tenant, after);
    let mut items = Vec::new();
    // A status is no key: pages are read until one is full, or enough were.
    for _ in 0..MOST_PAGES {
        let page = app
            .registry
            .deliveries(tenant, id, limit - items.len(), after)
            .await?;
        items.extend(
            page.items
                .into_iter()
                .filter(|(delivery, _)| status.is_none_or(|status| delivery.status == status))
                .map(DeliveryView::from),
        );
        after = page.after;
        if after.is_none() || items.len() >= limit || status.is_none() {
            break;
        }
    }
    Ok(Page { items, after })
}

/// What was answered to the same request before, for operations whose write does not store the answer itself.
pub(crate) async fn earlier(app: &App, caller: &Caller) -> Result<Option<StoredResponse>> {
    match &caller.idempotency {
        None => Ok(None),
        Some(idempotency) => app.registry.find_answer(&caller.tenant, idempotency).await,
    }
}

/// Stores the answer under the idempotency key, if there is one.
pub(crate) async fn keep<T: Serialize>(app: &App, caller: &Caller, view: T) -> Result<Outcome<T>> {
    match caller.answer(200, &view, app.clock.now())? {
        None => Ok(Outcome::Done(view)),
        Some(answer) => {
            let outcome = app.registry.keep_answer(&caller.tenant, answer).await?;
            Ok(outcome.map(|()| view))
        }
    }
}

/// Puts the secret back into an answer in which it was stored sealed.
pub(crate) fn unsealed(
    app: &App,
    tenant: &TenantName,
    mut stored: StoredResponse,
) -> StoredResponse {
    let id = stored
        .body
        .get("id")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let owner = format!("subscription/{tenant}/{id}");
    if let Some(fields) = stored.body.as_object_mut()
        && let Some(Value::String(sealed)) = fields.remove("sealed_secret")
        && let Ok(secret) = app.sealer.open(&sealed, &owner)
    {
        fields.insert("secret".to_owned(), secret.into());
    }
    stored
}

pub(crate) fn not_found(id: &str) -> Error {
    Error::new(
        ErrorCode::SubscriptionNotFound,
        format!("subscription `{id}` does not exist; list the subscriptions to see which do"),
    )
    .with("subscription", id)
}
