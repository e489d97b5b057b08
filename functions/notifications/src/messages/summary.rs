//! One line that says what happened, and the link to what it happened to.

use serde_json::Value;
use shared::App;
use shared::domain::{Event, EventType, TenantName};

/// What happened, in one line.
pub(super) fn summary(event: &Event) -> String {
    let model = event.model.as_ref().map_or("?", |model| model.as_str());
    let version = event
        .version
        .map_or_else(|| "?".to_owned(), |version| version.to_string());
    let alias = event.alias.as_ref().map_or("?", |alias| alias.as_str());
    let data = |name: &str| match event.data.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "none".to_owned(),
        Some(other) => other.to_string(),
    };
    let text = match event.kind {
        EventType::ModelCreated => format!("{model} was created"),
        EventType::ModelUpdated => format!("{model} was updated"),
        EventType::ModelDeleted => format!("{model} was deleted"),
        EventType::ModelRestored => format!("{model} was restored"),
        EventType::VersionRegistered => format!("{model} {version} was registered"),
        EventType::VersionFinalized => format!("{model} {version} is uploaded"),
        EventType::VersionReady => format!("{model} {version} is ready"),
        EventType::VersionFailed => format!("{model} {version} failed validation"),
        EventType::VersionPackaged => format!("{model} {version} was packaged"),
        EventType::VersionUpdated => format!("{model} {version} was updated"),
        EventType::VersionStageChanged => {
            format!(
                "{model} {version} moved from {} to {}",
                data("from"),
                data("to")
            )
        }
        EventType::VersionDeleted => format!("{model} {version} was deleted"),
        EventType::VersionRestored => format!("{model} {version} was restored"),
        EventType::AliasSet => format!("{alias} of {model} is version {}", data("to")),
        EventType::AliasRolledBack => {
            format!(
                "{alias} of {model} was rolled back to version {}",
                data("to")
            )
        }
        EventType::AliasRemoved => format!("{alias} of {model} was removed"),
        EventType::DropRefused => format!("A drop for {model} was refused: {}", data("message")),
        EventType::SubscriptionTested => "This is a test of a subscription".to_owned(),
        EventType::SubscriptionPaused => {
            "An endpoint does not answer; its deliveries wait".to_owned()
        }
        EventType::SubscriptionResumed => "An endpoint answers again".to_owned(),
        // Other types read well enough by their name.
        other => match (&event.model, event.version) {
            (Some(model), Some(version)) => format!("{other}: {model} {version}"),
            (Some(model), None) => format!("{other}: {model}"),
            _ => other.to_string(),
        },
    };
    // One line, whatever a name or a message contains.
    one_line(&text)
}

/// A text without controls, for what people read.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect()
}

/// Where a person finds what an event is about.
pub(super) fn link(app: &App, event: &Event) -> Option<String> {
    let base = app.config.public_url.as_ref()?;
    let model = event.model.as_ref()?;
    let tenant = if event.tenant == TenantName::default_tenant() {
        String::new()
    } else {
        format!("/t/{}", event.tenant)
    };
    let model =
        percent_encoding::utf8_percent_encode(model.as_str(), percent_encoding::NON_ALPHANUMERIC);
    // An alias's event is about the version that the alias holds by it.
    let held = event.data.get("to").and_then(Value::as_u64);
    let version = event
        .version
        .map(|version| u64::from(version.get()))
        .or(held);
    Some(match version {
        Some(version) => format!("{base}{tenant}/v1/models/{model}/versions/{version}"),
        None => format!("{base}{tenant}/v1/models/{model}"),
    })
}
