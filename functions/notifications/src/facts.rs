//! What a filter asks beyond the event itself: the tags of its model and of its version, read when first needed.

use crate::mlflow;
use shared::domain::model::Notes;
use shared::domain::subscription::Format;
use shared::domain::{Event, Subscription, VersionId};
use shared::{App, ErrorCode, Result};
use std::collections::BTreeMap;

type Tags = BTreeMap<String, String>;

/// An event, with what was read about it so far.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    app: &'a App,
    event: &'a Event,
    model: Option<Tags>,
    version: Option<Tags>,
}

impl<'a> Facts<'a> {
    /// Facts of an event of which nothing was read.
    pub(crate) fn new(app: &'a App, event: &'a Event) -> Self {
        Self {
            app,
            event,
            model: None,
            version: None,
        }
    }

    /// Whether a subscription wants the event.
    pub(crate) async fn are_wanted_by(&mut self, subscription: &Subscription) -> Result<bool> {
        let filter = &subscription.filter;
        if !filter.wants(self.event) {
            return Ok(false);
        }
        if !filter.tags.is_empty() {
            let model = self.model_tags().await?;
            if !filter.wants_tags(&[&model]) {
                let version = self.version_tags().await?;
                if !filter.wants_tags(&[&model, &version]) {
                    return Ok(false);
                }
            }
        }
        if subscription.format == Format::Mlflow {
            if !mlflow::events::may_be_wanted(filter, self.event) {
                return Ok(false);
            }
            let is_prompt = mlflow::events::is_prompt(&self.model_tags().await?);
            return Ok(mlflow::events::are_wanted(filter, self.event, is_prompt));
        }
        Ok(true)
    }

    async fn model_tags(&mut self) -> Result<Tags> {
        if let Some(tags) = &self.model {
            return Ok(tags.clone());
        }
        let tags = model_notes(self.app, self.event).await?.tags;
        self.model = Some(tags.clone());
        Ok(tags)
    }

    async fn version_tags(&mut self) -> Result<Tags> {
        if let Some(tags) = &self.version {
            return Ok(tags.clone());
        }
        let tags = version_notes(self.app, self.event).await?.tags;
        self.version = Some(tags.clone());
        Ok(tags)
    }
}

/// What people wrote about the model of an event; nothing if it has none, or none any more.
pub(crate) async fn model_notes(app: &App, event: &Event) -> Result<Notes> {
    let Some(model) = event.model_by_home() else {
        return Ok(Notes::default());
    };
    match app.registry.model(&event.tenant, &model).await {
        Ok(model) => Ok(model.notes),
        Err(error) if error.code == ErrorCode::ModelNotFound => Ok(Notes::default()),
        Err(error) => Err(error),
    }
}

/// What people wrote about the version of an event; nothing if it has none.
pub(crate) async fn version_notes(app: &App, event: &Event) -> Result<Notes> {
    let (Some(model), Some(number)) = (event.model_by_home(), event.version) else {
        return Ok(Notes::default());
    };
    let id = VersionId {
        tenant: event.tenant.clone(),
        model,
        number,
    };
    match app.registry.version(&id).await {
        Ok(version) => Ok(app
            .load_document(&version.id, "notes", &version.notes)
            .await?
            .unwrap_or_default()),
        Err(error) if error.code == ErrorCode::VersionNotFound => Ok(Notes::default()),
        Err(error) => Err(error),
    }
}
