//! Search of versions.
//!
//! A search that names models reads those; one that names runs reads what was registered from them; any other reads all
//! models of the tenant. Each model's versions are one partition, so that no other row is read.

use super::conditions::{Attributes, Conditions, is_prompt};
use super::models::named;
use super::order::{By, Order, Place, place_of, token_of};
use axum::extract::State;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use shared::domain::tracking::RunId;
use shared::domain::{Model, Version};
use shared::http::{Caller, Pages, Reply};
use shared::mlflow::{Fields, limits, lookups, shapes};
use shared::{App, Result};
use std::collections::BTreeSet;

/// Versions on a page unless the caller says how many, and the most that it may say; as in MLflow.
const MAX_RESULTS: usize = 200_000;
/// Versions that one look at a model reads.
const LOOK: usize = 1_000;
/// Models that are looked at at once.
const PARALLEL: usize = 24;
/// Largest page, in bytes of JSON: below what Lambda may answer; the rest is on the next page.
const MAX_PAGE_BYTES: usize = 4_500_000;
/// Versions whose notes are read at once to be shown.
const SHOWN_AT_ONCE: usize = 1_000;

const ATTRIBUTES: Attributes = Attributes {
    texts: &["name", "run_id", "source_path"],
    listed: &["name", "run_id"],
    numbers: &["version_number"],
};
const KEYS: [(&str, By); 4] = [
    ("name", By::Name),
    ("version_number", By::Number),
    ("creation_timestamp", By::Created),
    ("last_updated_timestamp", By::Updated),
];

pub(super) async fn search_model_versions(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let filter = fields.text("filter")?.unwrap_or_default();
    let most = limits::max_results(&fields, MAX_RESULTS, MAX_RESULTS)?;
    let clauses = fields.texts("order_by")?;
    let token = fields.text("page_token")?;
    let conditions = Conditions::parse(&filter, &ATTRIBUTES)?;
    let order = Order::parse(
        &clauses,
        &KEYS,
        &[(By::Updated, false)],
        &[(By::Name, true), (By::Number, false)],
    )?;
    let pages = Pages::new(&app, &caller, &["mlflow-versions", &filter, &order.text()]);
    let after = place_of(&pages, token.as_deref())?;
    let mut rows: Vec<(Place, Version)> = found(&app, &caller, &conditions)
        .await?
        .into_iter()
        .map(|version| (place(&version), version))
        .filter(|(place, _)| {
            after
                .as_ref()
                .is_none_or(|after| order.compare(place, after).is_gt())
        })
        .collect();
    rows.sort_by(|(left, _), (right, _)| order.compare(left, right));
    render(&app, &pages, rows, most).await
}

/// Shows as many rows as the page takes.
async fn render(
    app: &App,
    pages: &Pages,
    rows: Vec<(Place, Version)>,
    most: usize,
) -> Result<Reply> {
    let total = rows.len();
    let (places, versions): (Vec<Place>, Vec<Version>) = rows.into_iter().take(most).unzip();
    let mut shown: Vec<Value> = Vec::new();
    let mut bytes = 0;
    'page: for chunk in versions.chunks(SHOWN_AT_ONCE) {
        for version in lookups::model_versions(app, chunk).await? {
            bytes += version.to_string().len() + 1;
            if bytes > MAX_PAGE_BYTES && !shown.is_empty() {
                break 'page;
            }
            shown.push(version);
        }
    }
    let mut answer = json!({});
    if shown.len() < total
        && let Some(last) = places.get(shown.len().saturating_sub(1))
    {
        answer["next_page_token"] = token_of(pages, last)?;
    }
    if !shown.is_empty() {
        answer["model_versions"] = shown.into();
    }
    Reply::ok(answer)
}

fn place(version: &Version) -> Place {
    Place {
        name: version.id.model.to_string(),
        number: version.id.number.get(),
        created: version.created_at.millis(),
        updated: version.updated_at.millis(),
    }
}

/// Every version that a search shows, in no order.
async fn found(app: &App, caller: &Caller, conditions: &Conditions) -> Result<Vec<Version>> {
    let candidates = candidates(app, caller, conditions).await?;
    let found: Vec<Vec<Version>> = stream::iter(candidates)
        .map(|model| async move { of_model(app, conditions, &model).await })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// The models among whose versions the search looks.
async fn candidates(app: &App, caller: &Caller, conditions: &Conditions) -> Result<Vec<Model>> {
    let mut models = Vec::new();
    if let Some(names) = conditions.only("name") {
        for name in names {
            models.extend(named(app, caller, &name).await?);
        }
    } else if let Some(runs) = conditions
        .only("run_id")
        .filter(|runs| runs.iter().all(|run| RunId::parse(run.as_str()).is_ok()))
    {
        let mut names = BTreeSet::new();
        for run in runs {
            let run = RunId::parse(run)?;
            let mut after = None;
            loop {
                let page = app
                    .registry
                    .versions_of_run(&caller.tenant, &run, LOOK, after)
                    .await?;
                // A model that was deleted and the one that has its name now are one name.
                names.extend(page.items.into_iter().map(|link| link.model.to_string()));
                after = page.after;
                if after.is_none() {
                    break;
                }
            }
        }
        for name in names {
            models.extend(named(app, caller, &name).await?);
        }
    } else {
        let prefix = conditions.prefix("name");
        let mut after = None;
        loop {
            let page = app
                .registry
                .models(&caller.tenant, &prefix, false, LOOK, after)
                .await?;
            models.extend(page.items);
            after = page.after;
            if after.is_none() {
                break;
            }
        }
    }
    models.retain(|model| {
        model.deleted_at.is_none() && model.version_count() > 0 && caller.sees(&model.name)
    });
    Ok(models)
}

/// The versions of a model that a search shows.
async fn of_model(app: &App, conditions: &Conditions, model: &Model) -> Result<Vec<Version>> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = app.registry.all_versions(model, LOOK, after).await?;
        found.extend(page.items.into_iter().filter(|version| {
            version.deleted_at.is_none()
                && conditions.hold_for_attributes(|key| attribute(version, key))
        }));
        after = page.after;
        if after.is_none() {
            break;
        }
    }
    let notes = app.notes_of(&found).await?;
    let is_hidden = !conditions.wants_prompts && notes.iter().any(is_prompt);
    if is_hidden {
        // One version that is a prompt makes all of them prompts, as in MLflow's server.
        return Ok(Vec::new());
    }
    if conditions.has_tags() {
        let mut notes = notes.iter();
        found.retain(|_| {
            notes
                .next()
                .is_some_and(|notes| conditions.hold_for_tags(notes))
        });
    }
    Ok(found)
}

fn attribute(version: &Version, key: &str) -> String {
    let origin = version.origin.as_ref();
    match key {
        "name" => version.id.model.to_string(),
        "version_number" => version.id.number.to_string(),
        "run_id" => origin
            .and_then(|origin| origin.run_id.clone())
            .unwrap_or_default(),
        _ => origin.map_or_else(
            || shapes::artifact_uri(version),
            |origin| origin.source.clone(),
        ),
    }
}
