//! Names of registered models: rename, and restore one that lost its name.

use crate::models::{self, Show, native, tag_pairs};
use serde::Deserialize;
use serde_json::Value;
use shared::domain::model::{MAX_REASON, Notes, check_text};
use shared::domain::{Action, Event, EventType, Model, ModelName};
use shared::dynamodb::{Naming, Outcome};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};

/// Gives a registered model another name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenameModel {
    /// The new name; that of a deleted model may be used again.
    pub(crate) name: ModelName,
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// Restores a deleted model, as query parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RestoreModel {
    #[serde(default)]
    reason: Option<String>,
    /// Which one, if its name was given to another model.
    #[serde(default)]
    model_id: Option<String>,
    /// The name that it shall have, if not its old one; only with `model_id`.
    #[serde(default)]
    name: Option<ModelName>,
}

pub(crate) async fn rename(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    command: RenameModel,
) -> Result<Outcome<Value>> {
    rename_shown(app, caller, name, command, (200, &native)).await
}

/// Renames a model and answers as an edge shows it.
pub(crate) async fn rename_shown(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    command: RenameModel,
    (status, show): Show<'_>,
) -> Result<Outcome<Value>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    caller.may(Action::Write, &command.name)?;
    let now = app.clock.now();
    let decide = |after: &Model| {
        let event = event(app, caller, EventType::ModelRenamed, &after.name)
            .because(command.reason.clone())
            .with("from", name.as_str())
            .with("to", after.name.as_str())
            .with("tags_changed", tag_pairs(&Notes::default(), &after.notes))
            .with("revision", after.revision);
        Ok((event, caller.answer(status, &show(after), now)?))
    };
    let naming = Naming {
        ulid: app.ids.next(),
        may_displace: true,
        decide: &decide,
        displaced: &|holder| displaced(app, caller, holder),
    };
    let outcome = app
        .registry
        .rename_model(&caller.tenant, name, &command.name, now, &naming)
        .await?;
    if let Outcome::Done(model) = &outcome {
        tracing::info!(
            model.name = model.name.as_str(),
            "Renamed registered model `{name}` to `{}`",
            model.name
        );
    }
    Ok(outcome.map(|model| show(&model)))
}

pub(crate) async fn restore(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    command: RestoreModel,
) -> Result<Outcome<Value>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    let Some(id) = &command.model_id else {
        if command.name.is_some() {
            return Err(Error::invalid(
                "name",
                "only a model that lost its name is restored under another; say which by `model_id`, or rename it afterwards",
            ));
        }
        let outcome = models::restore(app, caller, name, command.reason).await;
        return match outcome {
            Err(error) if error.code == ErrorCode::Conflict => {
                Err(with_displaced(app, caller, name, error).await?)
            }
            outcome => outcome,
        };
    };
    let model = name.at(ModelName::of_home(id.as_str())?.home(), true);
    let to = command.name.as_ref().unwrap_or(name);
    caller.may(Action::Write, to)?;
    let now = app.clock.now();
    let decide = |after: &Model| {
        let event = event(app, caller, EventType::ModelRestored, &after.name)
            .because(command.reason.clone())
            .with("from", name.as_str())
            .with("to", after.name.as_str())
            .with("tags_changed", tag_pairs(&Notes::default(), &after.notes))
            .with("revision", after.revision);
        Ok((event, caller.answer(200, &native(after), now)?))
    };
    let naming = Naming {
        ulid: app.ids.next(),
        may_displace: false,
        decide: &decide,
        displaced: &|holder| displaced(app, caller, holder),
    };
    let outcome = app
        .registry
        .restore_displaced(
            &caller.tenant,
            &model,
            to,
            now,
            |before| models::require_restorable(app, before),
            &naming,
        )
        .await
        .map_err(|error| match error.code {
            ErrorCode::ModelExists | ErrorCode::Deleted => Error::new(
                error.code,
                format!("the name `{to}` is taken by another model; restore `{id}` under another one with `name`"),
            )
            .with("model", to.as_str()),
            _ => error,
        })?;
    Ok(outcome.map(|model| native(&model)))
}

/// Adds to a refusal which deleted models once had the name.
async fn with_displaced(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    error: Error,
) -> Result<Error> {
    let displaced = app.registry.displaced_models(&caller.tenant, name).await?;
    let Some(last) = displaced.last() else {
        return Ok(error);
    };
    let ids: Vec<&str> = displaced.iter().map(|model| model.name.home()).collect();
    Ok(Error::new(
        error.code,
        format!(
            "registered model `{name}` is not deleted, but {} of its name are; name one with `model_id`, such as `{}`",
            displaced.len(),
            last.name.home()
        ),
    )
    .with("model_ids", ids))
}

/// The event that a deleted model lost its name.
pub(crate) fn displaced(app: &App, caller: &Caller, holder: &Model) -> Event {
    event(app, caller, EventType::ModelDisplaced, &holder.name)
}

fn event(app: &App, caller: &Caller, kind: EventType, model: &ModelName) -> Event {
    app.event(kind, &caller.tenant, &caller.principal, &caller.request_id)
        .about(model)
}
