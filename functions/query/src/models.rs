//! Registered models: one, by name, by prefix, by tag.

use serde::Deserialize;
use serde_json::Value;
use shared::domain::ModelName;
use shared::domain::model::deleted_model;
use shared::http::views::ModelView;
use shared::http::{Caller, Pages, Paging};
use shared::{App, Error, Result};

/// Which models, and which page of them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListModels {
    /// Names that begin so.
    #[serde(default)]
    prefix: Option<String>,
    /// Models that carry this tag, written `key=value`; the first `=` separates.
    #[serde(default)]
    tag: Option<String>,
    #[serde(default)]
    include_deleted: bool,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    order: Option<String>,
}

pub(crate) async fn list(app: &App, caller: &Caller, params: &ListModels) -> Result<Value> {
    let paging = Paging {
        limit: params.limit,
        cursor: params.cursor.clone(),
        order: params.order.clone(),
    };
    let limit = paging.limit()?;
    let is_descending = paging.is_second("asc", "desc")?;
    let prefix = params.prefix.as_deref().unwrap_or_default();
    if prefix.chars().count() > 256 {
        return Err(Error::invalid(
            "prefix",
            "the prefix is longer than a model's name can be; shorten it",
        ));
    }
    let scope = [
        "models",
        prefix,
        params.tag.as_deref().unwrap_or_default(),
        if is_descending { "desc" } else { "asc" },
        if params.include_deleted {
            "all"
        } else {
            "live"
        },
    ];
    let pages = Pages::new(app, caller, &scope);
    let after = pages.after(params.cursor.as_deref())?;
    let page = match &params.tag {
        None => {
            app.registry
                .models(&caller.tenant, prefix, is_descending, limit, after)
                .await?
        }
        Some(tag) => {
            let (key, value) = tag.split_once('=').ok_or_else(|| {
                Error::invalid(
                    "tag",
                    "write the tag as `key=value`, such as `tag=team=vision`",
                )
            })?;
            if is_descending || !prefix.is_empty() {
                return Err(Error::invalid(
                    "tag",
                    "a search by tag takes neither `prefix` nor `order`; leave them out",
                ));
            }
            app.registry
                .models_with_tag(&caller.tenant, (key, value), limit, after)
                .await?
        }
    };
    let models = page
        .items
        .iter()
        .filter(|model| params.include_deleted || model.deleted_at.is_none())
        .filter(|model| caller.sees(&model.name))
        .map(|model| serde_json::to_value(ModelView::from(model)).unwrap_or_default())
        .collect();
    Ok(pages.render("models", models, page.after.as_deref()))
}

pub(crate) async fn get(app: &App, caller: &Caller, name: &ModelName) -> Result<ModelView> {
    let model = app.registry.model(&caller.tenant, name).await?;
    match model.deleted_at {
        None => Ok(ModelView::from(&model)),
        Some(at) => Err(deleted_model(name, at)),
    }
}
