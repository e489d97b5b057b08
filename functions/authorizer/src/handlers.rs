//! Transport: parse, call, render.

use crate::tokens::{self, NewToken};
use axum::extract::State;
use serde_json::json;
use shared::http::{Body, Caller, Pages, Paging, Params, Reply, Target, respond};
use shared::{App, Error, Result};

/// Creates a token.
pub(crate) async fn create_token(
    State(app): State<App>,
    caller: Caller,
    Body(new): Body<NewToken>,
) -> Result<Reply> {
    let outcome = tokens::create(&app, &caller, new).await;
    respond(&app, &caller, 201, outcome).await
}

/// Lists tokens, newest first.
pub(crate) async fn list_tokens(
    State(app): State<App>,
    caller: Caller,
    Params(paging): Params<Paging>,
) -> Result<Reply> {
    if paging.order.is_some() {
        return Err(Error::invalid(
            "order",
            "tokens come newest first only; leave `order` out",
        ));
    }
    let pages = Pages::new(&app, &caller, &["tokens"]);
    let after = pages.after(paging.cursor.as_deref())?;
    let page = tokens::list(&app, &caller, paging.limit()?, after).await?;
    let items = page.items.iter().map(|view| json!(view)).collect();
    Reply::ok(pages.render("tokens", items, page.after.as_deref()))
}

/// Shows one token.
pub(crate) async fn get_token(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(tokens::get(&app, &caller, &target.id()?).await?)
}

/// Revokes a token.
pub(crate) async fn revoke_token(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let outcome = tokens::revoke(&app, &caller, &target.id()?).await;
    respond(&app, &caller, 200, outcome).await
}
