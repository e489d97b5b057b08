//! Aliases and events: what serves, and what was.

use serde_json::{Value, json};
use shared::domain::alias::alias_not_found;
use shared::domain::{AliasName, Event, ModelName};
use shared::dynamodb::Page;
use shared::http::views::AliasView;
use shared::http::{Caller, Pages, Paging};
use shared::{App, ErrorCode, Result};

pub(crate) async fn aliases(app: &App, caller: &Caller, model: &ModelName) -> Result<Value> {
    let aliases = app.registry.aliases(&caller.tenant, model).await?;
    let views: Vec<AliasView> = aliases
        .iter()
        .map(|alias| AliasView::of(app, alias))
        .collect();
    Ok(json!({"aliases": views}))
}

/// What an alias holds: one read, however many versions there are.
pub(crate) async fn alias(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    name: &AliasName,
) -> Result<AliasView> {
    match app.registry.find_alias(&caller.tenant, model, name).await? {
        Some(alias) if alias.version.is_some() => Ok(AliasView::of(app, &alias)),
        _ => Err(alias_not_found(name, model)),
    }
}

pub(crate) async fn of_alias(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    name: &AliasName,
    paging: &Paging,
) -> Result<Value> {
    let is_ascending = paging.is_second("newest", "oldest")?;
    let scope = [
        "history",
        model.as_str(),
        name.as_str(),
        order(is_ascending),
    ];
    let pages = Pages::new(app, caller, &scope);
    let after = pages.after(paging.cursor.as_deref())?;
    let is_first = after.is_none();
    let page = app
        .registry
        .alias_history(
            &caller.tenant,
            model,
            name,
            is_ascending,
            paging.limit()?,
            after,
        )
        .await;
    match page {
        Ok(page) if page.items.is_empty() && is_first => Err(alias_not_found(name, model)),
        Err(error) if error.code == ErrorCode::ModelNotFound => Err(alias_not_found(name, model)),
        page => Ok(render(&pages, &page?)),
    }
}

pub(crate) async fn of_model(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    paging: &Paging,
) -> Result<Value> {
    let is_ascending = paging.is_second("newest", "oldest")?;
    let pages = Pages::new(
        app,
        caller,
        &["events", model.as_str(), order(is_ascending)],
    );
    let after = pages.after(paging.cursor.as_deref())?;
    let page = app
        .registry
        .model_events(&caller.tenant, model, is_ascending, paging.limit()?, after)
        .await?;
    Ok(render(&pages, &page))
}

fn order(is_ascending: bool) -> &'static str {
    if is_ascending { "oldest" } else { "newest" }
}

fn render(pages: &Pages, page: &Page<Event>) -> Value {
    pages.render(
        "events",
        page.items.iter().map(Event::to_wire).collect(),
        page.after.as_deref(),
    )
}
