//! Which of MLflow's events an event of ours is.

use shared::domain::subscription::Filter;
use shared::domain::{Event, EventType};
use shared::mlflow::invalid;
use shared::{Error, Result};
use std::collections::BTreeMap;

/// The tag by which MLflow tells prompts among registered models.
pub(crate) const PROMPT_TAG: &str = "mlflow.prompt.is_prompt";

/// Every entity with its actions, in MLflow's order.
const ACTIONS: &[(&str, &[&str])] = &[
    ("registered_model", &["created"]),
    ("model_version", &["created"]),
    ("model_version_tag", &["set", "deleted"]),
    ("model_version_alias", &["created", "deleted"]),
    ("prompt", &["created"]),
    ("prompt_version", &["created"]),
    ("prompt_tag", &["set", "deleted"]),
    ("prompt_version_tag", &["set", "deleted"]),
    ("prompt_alias", &["created", "deleted"]),
    // It can be asked for, and never happens here.
    ("budget_policy", &["exceeded"]),
];

/// Whether a model is a prompt.
pub(crate) fn is_prompt(tags: &BTreeMap<String, String>) -> bool {
    tags.get(PROMPT_TAG)
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// An event from entity and action, in the words of the REST API in any case.
pub(crate) fn parse(entity: &str, action: &str) -> Result<String> {
    let (entity, action) = (entity.to_lowercase(), action.to_lowercase());
    let Some((_, actions)) = ACTIONS.iter().find(|(name, _)| *name == entity) else {
        return Err(invalid(format!("'{entity}' is not a valid WebhookEntity")));
    };
    if !actions.contains(&action.as_str()) {
        let valid: Vec<String> = actions.iter().map(|action| format!("'{action}'")).collect();
        return Err(invalid(format!(
            "Invalid action '{action}' for entity '{entity}'. Valid actions are: [{}]",
            valid.join(", ")
        )));
    }
    Ok(format!("{entity}.{action}"))
}

/// Checks the name of an event, such as `model_version.created`.
pub(crate) fn check(name: &str) -> Result<()> {
    let known = name.split_once('.').is_some_and(|(entity, action)| {
        ACTIONS
            .iter()
            .any(|(other, actions)| *other == entity && actions.contains(&action))
    });
    if known {
        return Ok(());
    }
    let all: Vec<String> = ACTIONS
        .iter()
        .flat_map(|(entity, actions)| {
            actions
                .iter()
                .map(move |action| format!("{entity}.{action}"))
        })
        .collect();
    Err(Error::invalid(
        "mlflow_events",
        format!("MLflow has no such event; use {}", all.join(", ")),
    ))
}

/// MLflow's entities of an event of ours, for a model and for a prompt; without those that it does not tell.
fn entities_of(event: &Event) -> [Option<&'static str>; 2] {
    match event.kind {
        EventType::ModelCreated => [Some("registered_model"), Some("prompt")],
        // MLflow tells the tags of prompts, and not those of models.
        EventType::ModelUpdated => [None, Some("prompt_tag")],
        EventType::VersionRegistered => [Some("model_version"), Some("prompt_version")],
        EventType::VersionUpdated => [Some("model_version_tag"), Some("prompt_version_tag")],
        EventType::AliasSet | EventType::AliasRolledBack | EventType::AliasRemoved => {
            [Some("model_version_alias"), Some("prompt_alias")]
        }
        _ => [None, None],
    }
}

/// MLflow's entity of an event of ours.
pub(crate) fn entity_of(event: &Event, is_prompt: bool) -> Option<&'static str> {
    entities_of(event)[usize::from(is_prompt)]
}

/// A tag, with its value unless it is gone.
pub(crate) type Tag = (String, Option<String>);

/// MLflow's actions in an event of ours, each with the tag that it is about, if it is about one.
pub(crate) fn actions_of(event: &Event) -> Vec<(&'static str, Option<Tag>)> {
    match event.kind {
        EventType::ModelCreated
        | EventType::VersionRegistered
        | EventType::AliasSet
        | EventType::AliasRolledBack => vec![("created", None)],
        EventType::AliasRemoved => vec![("deleted", None)],
        EventType::ModelUpdated | EventType::VersionUpdated => {
            let set: BTreeMap<String, String> = from_data(event, "tags_set");
            let removed: Vec<String> = from_data(event, "tags_removed");
            set.into_iter()
                .map(|(key, value)| ("set", Some((key, Some(value)))))
                .chain(
                    removed
                        .into_iter()
                        .map(|key| ("deleted", Some((key, None)))),
                )
                .collect()
        }
        _ => Vec::new(),
    }
}

fn from_data<T: serde::de::DeserializeOwned + Default>(event: &Event, name: &str) -> T {
    event
        .data
        .get(name)
        .and_then(|value| serde_json::from_value(value.clone()).ok())
        .unwrap_or_default()
}

/// Whether a subscription to these events of MLflow's could want an event, be its model a prompt or not.
pub(crate) fn may_be_wanted(filter: &Filter, event: &Event) -> bool {
    are_wanted(filter, event, false) || are_wanted(filter, event, true)
}

/// Whether a subscription to these events of MLflow's wants an event.
pub(crate) fn are_wanted(filter: &Filter, event: &Event, is_prompt: bool) -> bool {
    let Some(entity) = entity_of(event, is_prompt) else {
        return false;
    };
    actions_of(event)
        .iter()
        .any(|(action, _)| is_wanted(filter, entity, action))
}

/// Whether a subscription wants an event of MLflow's; all, if it names none.
pub(crate) fn is_wanted(filter: &Filter, entity: &str, action: &str) -> bool {
    filter.mlflow_events.is_empty()
        || filter
            .mlflow_events
            .iter()
            .any(|name| name.split_once('.') == Some((entity, action)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::tests::event;
    use serde_json::json;

    #[test]
    fn events_are_parsed_in_any_case_and_refused_in_mlflows_words() {
        assert_eq!(
            parse("MODEL_VERSION", "CREATED").unwrap(),
            "model_version.created"
        );
        let message = |entity: &str, action: &str| parse(entity, action).unwrap_err().message;
        assert_eq!(
            message("MODEL_VERSION_TAG", "CREATED"),
            "Invalid action 'created' for entity 'model_version_tag'. Valid actions are: ['set', 'deleted']"
        );
        assert_eq!(
            message("run", "created"),
            "'run' is not a valid WebhookEntity"
        );
        assert!(check("prompt_alias.deleted").is_ok());
        assert!(check("prompt_alias.set").is_err());
    }

    #[test]
    fn a_change_of_tags_is_an_event_for_each_tag() {
        let changed = event(EventType::VersionUpdated, Some("iris"))
            .with("tags_set", json!({"a": "1", "b": "2"}))
            .with("tags_removed", json!(["c"]));
        let actions: Vec<&str> = actions_of(&changed)
            .iter()
            .map(|(action, _)| *action)
            .collect();
        assert_eq!(actions, ["set", "set", "deleted"]);
        let only_deleted = Filter {
            mlflow_events: vec!["model_version_tag.deleted".into()],
            ..Filter::default()
        };
        assert!(are_wanted(&only_deleted, &changed, false));
        assert!(!are_wanted(&only_deleted, &changed, true));
        let described = event(EventType::VersionUpdated, Some("iris"));
        assert!(!may_be_wanted(&Filter::default(), &described));
        assert!(!may_be_wanted(
            &Filter::default(),
            &event(EventType::VersionReady, Some("iris"))
        ));
    }
}
