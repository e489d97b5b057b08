//! Versions: one, and pages of them.

use serde::Deserialize;
use serde_json::Value;
use shared::domain::{ModelName, VersionId};
use shared::http::views::{FullVersionView, VersionView};
use shared::http::{Caller, Pages, Paging};
use shared::{App, Result};

/// Which versions, and which page of them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListVersions {
    #[serde(default)]
    include_deleted: bool,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    order: Option<String>,
}

pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    params: &ListVersions,
) -> Result<Value> {
    let paging = Paging {
        limit: params.limit,
        cursor: params.cursor.clone(),
        order: params.order.clone(),
    };
    let limit = paging.limit()?;
    let is_ascending = paging.is_second("newest", "oldest")?;
    let scope = [
        "versions",
        model.as_str(),
        if is_ascending { "oldest" } else { "newest" },
        if params.include_deleted {
            "all"
        } else {
            "live"
        },
    ];
    let pages = Pages::new(app, caller, &scope);
    let after = pages.after(params.cursor.as_deref())?;
    let page = app
        .registry
        .versions(&caller.tenant, model, is_ascending, limit, after)
        .await?;
    let versions = page
        .items
        .iter()
        .filter(|version| params.include_deleted || version.deleted_at.is_none())
        .map(|version| serde_json::to_value(VersionView::of(app, version)).unwrap_or_default())
        .collect();
    Ok(pages.render("versions", versions, page.after.as_deref()))
}

pub(crate) async fn get(app: &App, id: &VersionId) -> Result<FullVersionView> {
    let version = app.registry.glance_version(id).await?;
    let id = &version.id;
    let notes = app
        .load_document(id, "notes", &version.notes)
        .await?
        .unwrap_or_default();
    let metadata = app
        .load_document(id, "metadata", &version.metadata)
        .await?
        .unwrap_or_default();
    Ok(FullVersionView::of(app, &version, notes, metadata))
}
