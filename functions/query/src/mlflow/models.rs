//! Search of registered models.

use super::conditions::{Attributes, Conditions, is_prompt};
use super::order::{By, Order, Place, place_of, token_of};
use axum::extract::State;
use serde_json::json;
use shared::domain::{Model, ModelName};
use shared::http::{Caller, Pages, Reply};
use shared::mlflow::{Fields, limits, lookups};
use shared::{App, ErrorCode, Result};

/// Models on a page unless the caller says how many.
const DEFAULT_RESULTS: usize = 100;
/// Most models on a page.
const MAX_RESULTS: usize = 1_000;
/// Models that one look at the list reads.
const LOOK: usize = 1_000;

const ATTRIBUTES: Attributes = Attributes {
    texts: &["name"],
    listed: &["name"],
    numbers: &[],
};
const KEYS: [(&str, By); 3] = [
    ("name", By::Name),
    ("timestamp", By::Updated),
    ("last_updated_timestamp", By::Updated),
];

pub(super) async fn search_registered_models(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let filter = fields.text("filter")?.unwrap_or_default();
    let most = limits::max_results(&fields, DEFAULT_RESULTS, MAX_RESULTS)?;
    let clauses = fields.texts("order_by")?;
    let token = fields.text("page_token")?;
    let conditions = Conditions::parse(&filter, &ATTRIBUTES)?;
    let order = Order::parse(&clauses, &KEYS, &[], &[(By::Name, true)])?;
    let pages = Pages::new(&app, &caller, &["mlflow-models", &filter, &order.text()]);
    let after = place_of(&pages, token.as_deref())?;
    // One more than the page holds tells whether there is another.
    let mut found = found(&app, &caller, &conditions, &order, after, most + 1).await?;
    let has_more = found.len() > most;
    found.truncate(most);
    let mut answer = json!({});
    if has_more && let Some(last) = found.last() {
        answer["next_page_token"] = token_of(&pages, &place(last))?;
    }
    let shown = lookups::registered_models(&app, &found).await?;
    if !shown.is_empty() {
        answer["registered_models"] = shown.into();
    }
    Reply::ok(answer)
}

fn place(model: &Model) -> Place {
    Place {
        name: model.name.to_string(),
        number: 0,
        created: 0,
        updated: model.updated_at.millis(),
    }
}

/// Whether a search shows a model.
fn is_wanted(caller: &Caller, conditions: &Conditions, model: &Model) -> bool {
    model.deleted_at.is_none()
        && caller.sees(&model.name)
        && (conditions.wants_prompts || !is_prompt(&model.notes))
        && conditions.hold_for_attributes(|_| model.name.to_string())
        && conditions.hold_for_tags(&model.notes)
}

async fn found(
    app: &App,
    caller: &Caller,
    conditions: &Conditions,
    order: &Order,
    after: Option<Place>,
    most: usize,
) -> Result<Vec<Model>> {
    let mut wanted = Vec::new();
    if let Some(names) = conditions.only("name") {
        for name in names {
            wanted.extend(named(app, caller, &name).await?);
        }
        wanted.retain(|model| is_wanted(caller, conditions, model));
    } else {
        let prefix = conditions.prefix("name");
        let by_name = match order.first() {
            Some((By::Name, is_ascending)) => Some(is_ascending),
            _ => None,
        };
        let is_descending = by_name == Some(false);
        // By name, the list goes on where the last page ended, and ends with this one.
        let mut from = after
            .as_ref()
            .filter(|_| by_name.is_some())
            .map(|place| place.name.clone());
        // Where every model that is read is shown, no more are read than are shown.
        let look = if by_name.is_some() && conditions.are_none() {
            most
        } else {
            LOOK.max(most)
        };
        loop {
            let page = app
                .registry
                .models(&caller.tenant, &prefix, is_descending, look, from)
                .await?;
            wanted.extend(
                page.items
                    .into_iter()
                    .filter(|model| is_wanted(caller, conditions, model)),
            );
            from = page.after;
            if from.is_none() || by_name.is_some() && wanted.len() >= most {
                break;
            }
        }
    }
    wanted.sort_by(|left, right| order.compare(&place(left), &place(right)));
    if let Some(after) = after {
        wanted.retain(|model| order.compare(&place(model), &after).is_gt());
    }
    wanted.truncate(most);
    Ok(wanted)
}

/// The model of a name, if there can be and is one.
pub(super) async fn named(app: &App, caller: &Caller, name: &str) -> Result<Option<Model>> {
    let Ok(name) = ModelName::parse(name) else {
        return Ok(None);
    };
    match app.registry.model(&caller.tenant, &name).await {
        Ok(model) => Ok(Some(model)),
        Err(error) if error.code == ErrorCode::ModelNotFound => Ok(None),
        Err(error) => Err(error),
    }
}
