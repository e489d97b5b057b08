//! Versions that were registered from logged models: an attribute of the logged model's item for each.
//!
//! MLflow's server keeps them in a tag, which clients read and write too. Here the transaction that registers a
//! version adds the attribute, without reading the tags, and whoever reads the logged model sees the tag.

use crate::domain::VersionId;
use crate::domain::tracking::LoggedModelId;
use crate::domain::tracking::logged_model::VERSIONS_TAG;
use crate::domain::version::Origin;
use crate::dynamodb::items::as_number;
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::registry::Registry;
use crate::dynamodb::table::{Expression, Item, Write};
use crate::error::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What the attributes begin with that link a logged model to versions: `^<model>#<number>`.
const LINK: &str = "^";
/// Most versions that a logged model names: more would not fit in a tag of MLflow's.
const MOST_LINKS: u64 = 200;

/// The attributes of a logged model's item that link it to versions.
pub(super) fn links_of(item: &Item) -> impl Iterator<Item = (String, AttributeValue)> {
    item.iter()
        .filter(|(name, _)| name.starts_with(LINK))
        .map(|(name, value)| (name.clone(), value.clone()))
}

/// The tags of a logged model, with the versions that were registered from it under the key that MLflow has for them.
///
/// What a client wrote there itself stays as it is, and comes first.
pub(super) fn with_versions(
    mut tags: BTreeMap<String, String>,
    item: &Item,
) -> BTreeMap<String, String> {
    let mut linked: Vec<(&str, u32)> = item
        .keys()
        .filter_map(|name| name.strip_prefix(LINK)?.rsplit_once('#'))
        .filter_map(|(name, number)| Some((name, number.parse().ok()?)))
        .collect();
    if linked.is_empty() {
        return tags;
    }
    linked.sort_unstable();
    let mut shown: Vec<Value> = match tags.get(VERSIONS_TAG).map(|tag| serde_json::from_str(tag)) {
        None => Vec::new(),
        Some(Ok(shown)) => shown,
        // It is no list, so it is the client's own.
        Some(Err(_)) => return tags,
    };
    let told = shown.len();
    for (name, number) in linked {
        // Clients write the number as a text or as a number.
        let is_link = |one: &Value| {
            let version = &one["version"];
            one["name"] == name
                && (*version == number || version.as_str() == Some(&number.to_string()))
        };
        if !shown.iter().any(is_link) {
            shown.push(json!({"name": name, "version": number}));
        }
    }
    if shown.len() == told {
        return tags;
    }
    let shown = shown.iter().map(spaced).collect::<Vec<_>>().join(", ");
    tags.insert(VERSIONS_TAG.to_owned(), format!("[{shown}]"));
    tags
}

/// JSON of a flat object as Python writes it.
fn spaced(object: &Value) -> String {
    let Value::Object(fields) = object else {
        return object.to_string();
    };
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{}: {value}", json!(name)))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

impl Registry {
    /// The write that links a logged model to a version that was registered from it; nothing if there is no such model.
    ///
    /// It is refused if the logged model names as many versions as it can.
    pub(in crate::dynamodb::registry) async fn link_to_logged_model(
        &self,
        version: &VersionId,
        origin: &Origin,
    ) -> Result<Option<Write>> {
        let id = origin.model_id.as_ref();
        let Some(id) = id.and_then(|id| LoggedModelId::parse(id.as_str()).ok()) else {
            return Ok(None);
        };
        let Some(place) = self.place_of(&version.tenant, id.as_str()).await? else {
            return Ok(None);
        };
        let name = format!("{LINK}{}#{}", version.model.as_str(), version.number.get());
        Ok(Some(Write::Update {
            key: Key {
                pk: keys::logged_models(&version.tenant, place.experiment),
                sk: place.sk,
            },
            update: Expression::new("SET #link = :yes ADD #registered :yes")
                .named("link", name)
                .value("yes", as_number(1)),
            condition: Expression::new(
                "attribute_exists(#pk) AND (attribute_not_exists(#registered) OR #registered < :most)",
            )
            .value("most", as_number(MOST_LINKS)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(stored: Option<&str>, links: &[&str]) -> Option<String> {
        let tags = stored.map(|tag| (VERSIONS_TAG.to_owned(), tag.to_owned()));
        let links = links.iter().map(|name| ((*name).to_owned(), as_number(1)));
        with_versions(tags.into_iter().collect(), &links.collect()).remove(VERSIONS_TAG)
    }

    #[test]
    fn versions_are_told_in_mlflows_tag_after_what_clients_wrote_there() {
        assert_eq!(tag(None, &["rev"]), None);
        assert_eq!(
            tag(None, &["^iris#10", "^iris#2", "^a#b#1"]).unwrap(),
            r#"[{"name": "a#b", "version": 1}, {"name": "iris", "version": 2}, {"name": "iris", "version": 10}]"#
        );
        let written = r#"[{"name":"iris","version":"2"}]"#;
        assert_eq!(tag(Some(written), &["^iris#2"]).unwrap(), written);
        assert_eq!(
            tag(Some(written), &["^iris#3"]).unwrap(),
            r#"[{"name": "iris", "version": "2"}, {"name": "iris", "version": 3}]"#
        );
        assert_eq!(tag(Some("mine"), &["^iris#3"]).unwrap(), "mine");
    }
}
