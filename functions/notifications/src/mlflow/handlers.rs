//! MLflow's REST API of webhooks: another edge of subscriptions in MLflow's format.

use super::{events, payload};
use crate::address::parse_url;
use crate::send::send_message;
use crate::subscriptions::{self, commit, seal_into};
use axum::extract::State;
use serde_json::{Value, json};
use shared::domain::Subscription;
use shared::domain::subscription::{Circuit, Filter, Format, SubscriptionStatus};
use shared::dynamodb::Outcome;
use shared::http::{Caller, Pages, Reply, Target, respond};
use shared::mlflow::{Fields, MlflowCode, invalid, refused};
use shared::{App, Result};

/// Webhooks on a page unless the caller says how many.
const DEFAULT_RESULTS: i64 = 100;
/// Most webhooks on a page.
const MOST_RESULTS: i64 = 1_000;

/// Creates a webhook.
pub(crate) async fn create_webhook(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let outcome = create(&app, &caller, &fields).await;
    respond(&app, &caller, 200, outcome).await
}

async fn create(app: &App, caller: &Caller, fields: &Fields) -> Result<Outcome<Value>> {
    let name = fields.required("name")?;
    let url = fields.required("url")?;
    if fields.value("events").is_none() {
        return Err(shared::mlflow::fields::missing("events"));
    }
    check_name(&name)?;
    check_url(app, &url)?;
    let now = app.clock.now();
    let mut subscription = Subscription {
        id: app.ids.next(),
        tenant: caller.tenant.clone(),
        name: Some(name),
        url,
        format: Format::Mlflow,
        filter: Filter {
            mlflow_events: events_of(fields)?,
            ..Filter::default()
        },
        secret: None,
        former_secret: None,
        template: None,
        digest_minutes: None,
        status: status_of(fields)?.unwrap_or_default(),
        circuit: Circuit::default(),
        description: fields.text("description")?.filter(|text| !text.is_empty()),
        created_by: caller.principal.clone(),
        created_at: now,
        updated_at: None,
        revision: 0,
    };
    subscriptions::check(app, &mut subscription)?;
    let secret = fields.text("secret")?.filter(|secret| !secret.is_empty());
    seal_into(app, &mut subscription, secret.as_deref())?;
    let view = json!({"webhook": view_of(&subscription)});
    let answer = caller.answer(200, &view, now)?;
    let outcome = app
        .registry
        .create_subscription(&subscription, answer)
        .await?;
    Ok(outcome.map(|()| view))
}

/// Lists webhooks, the newest first.
pub(crate) async fn list_webhooks(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let most = match fields.int("max_results")? {
        None | Some(0) => DEFAULT_RESULTS,
        Some(most) if (1..=MOST_RESULTS).contains(&most) => most,
        Some(_) => return Err(invalid("max_results must be between 1 and 1000.")),
    };
    let token = fields.text("page_token")?.filter(|token| !token.is_empty());
    let pages = Pages::new(&app, &caller, &["mlflow-webhooks"]);
    let after = pages.after(token.as_deref())?;
    let mut webhooks: Vec<Subscription> = app
        .registry
        .subscriptions(&caller.tenant)
        .await?
        .into_iter()
        .filter(is_webhook)
        .filter(|webhook| after.as_ref().is_none_or(|after| webhook.id < *after))
        .collect();
    webhooks.reverse();
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let has_more = webhooks.len() > most;
    webhooks.truncate(most);
    let mut answer = json!({"webhooks": webhooks.iter().map(view_of).collect::<Vec<_>>()});
    if let (true, Some(last)) = (has_more, webhooks.last()) {
        answer["next_page_token"] = pages.cursor(&last.id).into();
    }
    Reply::ok(answer)
}

/// Shows a webhook.
pub(crate) async fn get_webhook(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let webhook = find(&app, &caller, &target).await?;
    Reply::ok(json!({"webhook": view_of(&webhook)}))
}

/// Changes a webhook.
pub(crate) async fn update_webhook(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    let outcome = update(&app, &caller, &target, &fields).await;
    respond(&app, &caller, 200, outcome).await
}

async fn update(
    app: &App,
    caller: &Caller,
    target: &Target,
    fields: &Fields,
) -> Result<Outcome<Value>> {
    let before = find(app, caller, target).await?;
    let mut after = before.clone();
    if let Some(name) = fields.text("name")?.filter(|name| !name.is_empty()) {
        check_name(&name)?;
        after.name = Some(name);
    }
    if let Some(url) = fields.text("url")?.filter(|url| !url.is_empty()) {
        check_url(app, &url)?;
        after.url = url;
    }
    if let Some(description) = fields.text("description")? {
        after.description = Some(description).filter(|text| !text.is_empty());
    }
    if !fields.objects("events")?.is_empty() {
        after.filter.mlflow_events = events_of(fields)?;
    }
    if let Some(secret) = fields.text("secret")? {
        // MLflow changes a secret at once; ours signs beside it only where somebody asked for that.
        after.former_secret = None;
        seal_into(
            app,
            &mut after,
            Some(secret.as_str()).filter(|secret| !secret.is_empty()),
        )?;
    }
    if let Some(status) = status_of(fields)? {
        after.status = status;
    }
    subscriptions::check(app, &mut after)?;
    let mut shown = after.clone();
    shown.updated_at = Some(app.clock.now());
    let view = json!({"webhook": view_of(&shown)});
    let now = app.clock.now();
    let answer = caller.answer(200, &view, now)?;
    let outcome = commit(app, &before, after, now, answer).await?;
    Ok(outcome.map(|()| view))
}

/// Deletes a webhook.
pub(crate) async fn delete_webhook(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    find(&app, &caller, &target).await?;
    let id = target.get("id")?;
    let outcome = subscriptions::delete(&app, &caller, id).await;
    respond(&app, &caller, 200, outcome).await
}

/// Sends a webhook the example of one of its events, and says what came of it.
pub(crate) async fn test_webhook(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    let webhook = find(&app, &caller, &target).await?;
    let event = match fields.object("event")? {
        Some(event) => parse_event(&event)?,
        None => webhook
            .filter
            .mlflow_events
            .first()
            .cloned()
            .unwrap_or_else(|| "registered_model.created".to_owned()),
    };
    let now = app.clock.now();
    let message = payload::example(&event, &app.ids.next(), now);
    let sent = send_message(&app, &webhook, &message, now).await;
    let mut result = json!({"success": sent.error.is_none()});
    if let Some(status) = sent.status {
        result["response_status"] = status.into();
        result["response_body"] = String::from_utf8_lossy(&sent.answer_start).into();
    } else if let Some(error) = sent.error {
        result["error_message"] = format!("Failed to test webhook: {error}").into();
    }
    Reply::ok(json!({"result": result}))
}

fn is_webhook(subscription: &Subscription) -> bool {
    subscription.format == Format::Mlflow
}

async fn find(app: &App, caller: &Caller, target: &Target) -> Result<Subscription> {
    let id = target.get("id")?;
    let found = if target.id().is_ok() {
        app.registry.find_subscription(&caller.tenant, id).await?
    } else {
        None
    };
    found.filter(is_webhook).ok_or_else(|| {
        refused(
            MlflowCode::ResourceDoesNotExist,
            format!("Webhook with ID {id} not found."),
        )
    })
}

/// A webhook as MLflow shows it; the secret is never shown.
fn view_of(webhook: &Subscription) -> Value {
    let events: Vec<Value> = webhook
        .filter
        .mlflow_events
        .iter()
        .filter_map(|name| name.split_once('.'))
        .map(|(entity, action)| {
            json!({"entity": entity.to_uppercase(), "action": action.to_uppercase()})
        })
        .collect();
    let status = match webhook.status {
        SubscriptionStatus::Active => "ACTIVE",
        SubscriptionStatus::Disabled => "DISABLED",
    };
    let mut view = json!({
        "webhook_id": webhook.id,
        "name": webhook.name.as_deref().unwrap_or_default(),
        "url": webhook.url,
        "events": events,
        "status": status,
        "creation_timestamp": webhook.created_at.millis(),
        "last_updated_timestamp": webhook.updated_at.unwrap_or(webhook.created_at).millis(),
    });
    if let Some(description) = &webhook.description {
        view["description"] = description.as_str().into();
    }
    view
}

fn events_of(fields: &Fields) -> Result<Vec<String>> {
    let mut names = fields
        .objects("events")?
        .iter()
        .map(parse_event)
        .collect::<Result<Vec<_>>>()?;
    if names.is_empty() {
        return Err(invalid(
            "Webhook events must be a non-empty list of WebhookEvent objects: [].",
        ));
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

fn parse_event(event: &Fields) -> Result<String> {
    events::parse(&event.required("entity")?, &event.required("action")?)
}

fn status_of(fields: &Fields) -> Result<Option<SubscriptionStatus>> {
    match fields.text("status")?.as_deref() {
        None | Some("") => Ok(None),
        Some("ACTIVE") => Ok(Some(SubscriptionStatus::Active)),
        Some("DISABLED") => Ok(Some(SubscriptionStatus::Disabled)),
        Some(other) => Err(invalid(format!("'{other}' is not a valid WebhookStatus"))),
    }
}

/// MLflow's rule for names: 1 to 63 letters, digits and `._-`, beginning and ending with a letter or digit.
fn check_name(name: &str) -> Result<()> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if (1..=63).contains(&bytes.len())
        && bytes.iter().copied().all(is_inner)
        && is_end(bytes.first())
        && is_end(bytes.last())
    {
        return Ok(());
    }
    Err(invalid(format!(
        "Webhook name '{name}' is invalid. It must start and end with a letter or digit, \
         be less than 63 characters long, and contain only letters, digits, dots (.), \
         underscores (_), and hyphens (-)."
    )))
}

fn check_url(app: &App, url: &str) -> Result<()> {
    if url.trim().is_empty() {
        return Err(invalid(format!(
            "Webhook URL cannot be empty or just whitespace: '{url}'"
        )));
    }
    parse_url(url, app.config.allow_loopback_webhooks)
        .map(drop)
        .map_err(|error| match reqwest::Url::parse(url) {
            Ok(parsed) if !matches!(parsed.scheme(), "https") => invalid(format!(
                "Invalid webhook URL scheme: '{}'. Allowed schemes are: https.",
                parsed.scheme()
            )),
            Ok(parsed) if parsed.host_str().is_some() => invalid(format!(
                "Webhook URL must not resolve to a non-public IP address. '{}': {}.",
                parsed.host_str().unwrap_or_default(),
                error.message
            )),
            // `https://` alone is read like that, too.
            Err(problem) if problem.to_string() != "empty host" => {
                invalid(format!("Invalid webhook URL '{url}': {problem}"))
            }
            _ => invalid(format!("Webhook URL must include a hostname: '{url}'")),
        })
}
