//! Tags: the aliases of a model, and the numbers of its versions.

use crate::find::is_pullable;
use crate::handlers::{PullParams, answer};
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::json;
use shared::domain::{Repository, VersionNumber};
use shared::oci::{OciCode, refused};
use shared::{App, Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Most tags on a page, also where none is asked for.
const MOST_TAGS: usize = 1_000;
/// How many versions are asked for together.
const BATCH: usize = 100;

/// A page of tags in the order of their bytes.
///
/// Only what would be found by its tag is listed, so each version is looked at; their number on a page bounds the reads.
pub(crate) async fn list(
    app: &App,
    name: &str,
    repository: &Repository,
    params: &PullParams,
) -> Result<Response> {
    let limit = match &params.n {
        None => MOST_TAGS,
        Some(text) => text.parse::<usize>().map_err(|error| {
            refused(
                OciCode::Unreadable,
                "`n` is no number; write how many tags you want",
            )
            .with("cause", error.to_string())
        })?,
    }
    .min(MOST_TAGS);
    let head = app
        .registry
        .model_head(&repository.tenant, &repository.model)
        .await?;
    if head.deleted_at.is_some() {
        return Err(refused(
            OciCode::NameUnknown,
            "the model was deleted; restore it first",
        ));
    }
    let last = params.last.as_deref();
    let aliases: BTreeMap<String, VersionNumber> = app
        .registry
        .aliases_at(&repository.tenant, &head.name)
        .await?
        .into_iter()
        .filter_map(|alias| Some((alias.name.to_string(), alias.version?)))
        .filter(|(tag, _)| is_tag(tag) && last.is_none_or(|last| tag.as_str() > last))
        // A number is that of a version.
        .filter(|(tag, _)| {
            !tag.parse()
                .is_ok_and(|number: u32| number <= head.version_count())
        })
        .collect();
    let numbers = numbers_after(last, head.version_count())
        .map(|number| (number.to_string(), number))
        .filter_map(|(tag, number)| Some((tag, VersionNumber::new(number.into()).ok()?)));
    let mut candidates = merged(aliases.into_iter(), numbers);
    let mut tags = Vec::new();
    while tags.len() <= limit && limit > 0 {
        let wanted = (limit + 1 - tags.len()).min(BATCH);
        let batch: Vec<(String, VersionNumber)> = candidates.by_ref().take(wanted).collect();
        if batch.is_empty() {
            break;
        }
        let asked: BTreeSet<VersionNumber> = batch.iter().map(|(_, number)| *number).collect();
        let asked: Vec<VersionNumber> = asked.into_iter().collect();
        let pullable: BTreeSet<VersionNumber> = app
            .registry
            .versions_by_number(&repository.tenant, &head.name, &asked)
            .await?
            .iter()
            .filter(|version| is_pullable(version))
            .map(|version| version.id.number)
            .collect();
        tags.extend(
            batch
                .into_iter()
                .filter(|(_, number)| pullable.contains(number))
                .map(|(tag, _)| tag),
        );
    }
    let has_more = tags.len() > limit;
    tags.truncate(limit);
    let link = tags
        .last()
        .filter(|_| has_more)
        .map(|last| format!("</v2/{repository}/tags/list?n={limit}&last={last}>; rel=\"next\""));
    let mut response = answer(
        "application/json",
        json!({"name": name, "tags": tags}).to_string(),
    );
    if let Some(link) = link {
        let link = HeaderValue::from_str(&link)
            .map_err(|error| Error::internal("answering a page of tags", error))?;
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// Whether a text is a tag of the specification's grammar; not every alias is.
fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The numbers from 1 to `count` in the order of their texts, those after `last`.
fn numbers_after(last: Option<&str>, count: u32) -> impl Iterator<Item = u32> {
    let known: Option<u32> = last.and_then(|last| {
        let number = last.parse().ok()?;
        ((1..=count).contains(&number) && number.to_string() == last).then_some(number)
    });
    let first = match known {
        Some(number) => next_in_text(number, count),
        None => Some(1).filter(|_| count > 0),
    };
    let last = last.unwrap_or_default().to_owned();
    std::iter::successors(first, move |number| next_in_text(*number, count))
        .skip_while(move |number| known.is_none() && number.to_string() <= last)
}

/// The number whose text comes next after that of this one.
fn next_in_text(number: u32, count: u32) -> Option<u32> {
    if let Some(longer) = number.checked_mul(10).filter(|longer| *longer <= count) {
        return Some(longer);
    }
    let mut number = number;
    while number > 0 {
        if number % 10 != 9 && number < count {
            return Some(number + 1);
        }
        number /= 10;
    }
    None
}

/// Two sorted lists as one.
fn merged<T>(
    left: impl Iterator<Item = (String, T)>,
    right: impl Iterator<Item = (String, T)>,
) -> impl Iterator<Item = (String, T)> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some((one, _)), Some((other, _))) if one <= other => left.next(),
        (Some(_), None) => left.next(),
        _ => right.next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_the_order_of_their_texts() {
        for count in [0, 1, 9, 10, 11, 19, 20, 25, 99, 100, 101, 1_234] {
            let mut expected: Vec<String> =
                (1..=count).map(|number: u32| number.to_string()).collect();
            expected.sort();
            for last in [
                None,
                Some("0"),
                Some("1"),
                Some("10"),
                Some("1_"),
                Some("25"),
                Some("9"),
                Some("a"),
                Some(""),
            ] {
                let rest: Vec<String> = expected
                    .iter()
                    .filter(|text| last.is_none_or(|last| text.as_str() > last))
                    .cloned()
                    .collect();
                let found: Vec<String> = numbers_after(last, count)
                    .map(|number| number.to_string())
                    .collect();
                assert_eq!(found, rest, "{count} after {last:?}");
            }
        }
    }

    #[test]
    fn lists_are_merged_in_order() {
        let list = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| ((*text).to_owned(), ()))
                .collect::<Vec<_>>()
                .into_iter()
        };
        let found: Vec<String> = merged(list(&["1a", "champion"]), list(&["1", "10", "2"]))
            .map(|(text, ())| text)
            .collect();
        assert_eq!(found, ["1", "10", "1a", "2", "champion"]);
    }

    #[test]
    fn tags_are_those_of_the_grammar() {
        for (text, expected) in [
            ("champion", true),
            ("_a-b", true),
            ("-a", false),
            ("検査", false),
        ] {
            assert_eq!(is_tag(text), expected, "{text}");
        }
        assert!(!is_tag(&"a".repeat(129)));
    }
}
