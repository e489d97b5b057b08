//! The audit export of a model: its chain of events as JSON Lines, or as a report that a person reads.

use crate::report;
use crate::tenures::catch_up_model;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::audit::{EXPORT_FORM, NOTHING_BEFORE, canonical};
use shared::domain::{Digest, ModelName, Timestamp};
use shared::dynamodb::Chained;
use shared::http::Caller;
use shared::s3::keys;
use shared::{App, Error, Result};

/// Largest answer that is given directly, in bytes: Lambda's limit is 6 MB.
const DIRECT_BYTES: usize = 4_500_000;

/// Which part of the history, and in which form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// From the first event at or after this instant.
    #[serde(default)]
    from: Option<Timestamp>,
    /// To the last event before this instant.
    #[serde(default)]
    to: Option<Timestamp>,
    /// `jsonl`, `html` or `md`.
    #[serde(default)]
    format: Option<String>,
    /// Which model, if its name was given to another one or is not known any more.
    #[serde(default)]
    model_id: Option<String>,
    /// The instant at which the model had the name.
    #[serde(default)]
    at: Option<Timestamp>,
}

/// What is exported.
pub(crate) struct Export {
    /// The model, by its home.
    pub(crate) model: ModelName,
    /// The first line: what the rest is.
    pub(crate) header: Value,
    /// Events in the order of their chain.
    pub(crate) events: Vec<Chained>,
}

pub(crate) async fn export(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    wanted: &Wanted,
) -> Result<Response> {
    let export = read(app, caller, name, wanted).await?;
    let (text, media_type, extension) = match wanted.format.as_deref().unwrap_or("jsonl") {
        "jsonl" => (lines(&export)?, "application/jsonl", "jsonl"),
        "md" => (
            report::markdown(&export),
            "text/markdown; charset=utf-8",
            "md",
        ),
        "html" => (report::html(&export), "text/html; charset=utf-8", "html"),
        other => {
            return Err(Error::invalid(
                "format",
                format!(
                    "`{}` is no format of an export; use `jsonl`, `html` or `md`",
                    other
                        .chars()
                        .take(20)
                        .flat_map(char::escape_debug)
                        .collect::<String>()
                ),
            ));
        }
    };
    if text.len() <= DIRECT_BYTES {
        return Ok(answer(text, media_type));
    }
    let digest = Digest::of(text.as_bytes());
    let key = keys::export(&caller.tenant, &export.model, &digest, extension);
    let size_bytes = text.len();
    app.bucket
        .put_immutable(&key, text.into_bytes().into(), media_type)
        .await?;
    let file = format!("audit.{extension}");
    let request = app.bucket.presign_get(&key, None, &file).await?;
    let body = json!({
        "size_bytes": size_bytes, "digest": digest, "method": request.method, "url": request.url,
        "headers": request.headers, "expires_in_seconds": app.bucket.presign_seconds(),
    });
    Ok(answer(body.to_string(), "application/json"))
}

/// Reads the chain of the model, after what was not in it yet was put there.
async fn read(app: &App, caller: &Caller, name: &ModelName, wanted: &Wanted) -> Result<Export> {
    if let (Some(from), Some(to)) = (wanted.from, wanted.to)
        && from >= to
    {
        return Err(Error::invalid(
            "to",
            "the end of the period is not after its beginning; exchange `from` and `to`",
        ));
    }
    let model = match &wanted.model_id {
        Some(id) => ModelName::of_home(id.as_str())?,
        None => app
            .registry
            .home_at(&caller.tenant, name, wanted.at)
            .await?
            .ok_or_else(|| shared::domain::model::model_not_found(name))?,
    };
    catch_up_model(app, caller, &model).await?;
    let mut events = app.registry.chained_events(&caller.tenant, &model).await?;
    let Some(head) = events.last().map(|event| event.link.clone()) else {
        return Err(shared::domain::model::model_not_found(name));
    };
    // A part of a chain is one piece of it, even where times do not follow the sequence.
    let first = events
        .iter()
        .position(|event| wanted.from.is_none_or(|from| event.time >= from))
        .unwrap_or(events.len());
    let end = events
        .iter()
        .rposition(|event| wanted.to.is_none_or(|to| event.time < to))
        .map_or(0, |last| last + 1)
        .max(first);
    let previous_hash = match first {
        0 => NOTHING_BEFORE.to_owned(),
        first => events[first - 1].link.hash.clone(),
    };
    events.truncate(end);
    let events = events.split_off(first);
    let last_hash = events.last().map(|event| event.link.hash.clone());
    let header = json!({
        "slipway_audit": EXPORT_FORM,
        "tenant": caller.tenant,
        "model": name,
        "model_id": model.home(),
        "from": wanted.from,
        "to": wanted.to,
        "first_sequence": first + 1,
        "last_sequence": first + events.len(),
        "previous_hash": previous_hash,
        "last_hash": last_hash,
        "head": {"sequence": head.sequence, "hash": head.hash},
        "exported_at": app.clock.now(),
        "exported_by": caller.principal,
    });
    Ok(Export {
        model,
        header,
        events,
    })
}

fn lines(export: &Export) -> Result<String> {
    let mut text = canonical(&export.header)?;
    text.push('\n');
    for chained in &export.events {
        let mut event: Value = serde_json::from_str(&chained.json)
            .map_err(|error| Error::internal("reading an event", error))?;
        event["chain"] = json!(chained.link);
        text.push_str(&canonical(&event)?);
        text.push('\n');
    }
    Ok(text)
}

fn answer(text: String, media_type: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    // What people wrote into a registry must not act in a browser.
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; sandbox"),
    );
    response
}
