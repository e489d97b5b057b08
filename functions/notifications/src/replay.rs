//! Sending again: one delivery, all dead letters, or what happened in a time.
//!
//! A replay keeps the event's id, so that a receiver that has it knows it. One request asks for each delivery once,
//! however often the request is sent, and what waits already is not asked for again.

use crate::dispatch::due_of;
use crate::subscriptions;
use serde::{Deserialize, Serialize};
use shared::domain::subscription::{DeliveryStatus, SubscriptionStatus};
use shared::domain::{Delivery, Event, Subscription, Timestamp};
use shared::dynamodb::keys::time_prefix;
use shared::dynamodb::{Outcome, keys};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};

/// Most deliveries that one request lets be sent again.
const MOST: usize = 100;

/// The body that asks for a replay: by ids, all dead letters, or a time.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replay {
    #[serde(default)]
    event_ids: Vec<String>,
    #[serde(default)]
    status: Option<DeliveryStatus>,
    #[serde(default)]
    since: Option<Timestamp>,
    #[serde(default)]
    until: Option<Timestamp>,
    /// Where a former answer said to go on.
    #[serde(default)]
    after_event_id: Option<String>,
}

/// What was asked for again.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ReplayView {
    /// The events that are sent again.
    replayed: Vec<String>,
    /// Events that wait to be sent already.
    pending: Vec<String>,
    /// Whether there are more; the same request with `after_event_id` goes on.
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_event_id: Option<String>,
}

/// Lets deliveries of a subscription be sent again, each at the end of its lane.
pub(crate) async fn run(
    app: &App,
    caller: &Caller,
    id: &str,
    wanted: Replay,
) -> Result<Outcome<ReplayView>> {
    if let Some(stored) = subscriptions::earlier(app, caller).await? {
        return Ok(Outcome::Replayed(stored));
    }
    let subscription = subscriptions::get(app, caller, id).await?;
    if subscription.status == SubscriptionStatus::Disabled {
        return Err(Error::new(
            ErrorCode::Conflict,
            format!("subscription `{id}` is disabled; set its status to `active` first"),
        ));
    }
    let (found, after_event_id) = find(app, &subscription, &wanted).await?;
    // A crash between two of them, and the same request again, must not send the first of them twice more.
    let token = caller.idempotency.as_ref().map_or_else(
        || caller.request_id.clone(),
        |idempotency| idempotency.key.clone(),
    );
    let mut view = ReplayView {
        replayed: Vec::new(),
        pending: Vec::new(),
        has_more: after_event_id.is_some(),
        after_event_id,
    };
    for (delivery, event) in found {
        if delivery.replay.as_ref() == Some(&token) {
            view.replayed.push(delivery.event_id);
        } else if delivery.status == DeliveryStatus::Pending
            || !again(app, &subscription, &delivery, &event, &token).await?
        {
            view.pending.push(delivery.event_id);
        } else {
            view.replayed.push(delivery.event_id);
        }
    }
    tracing::info!(
        subscription.id = id,
        count = view.replayed.len(),
        "Deliveries of subscription `{id}` are sent again"
    );
    subscriptions::keep(app, caller, view).await
}

/// The deliveries that a request names, and where the next request goes on.
async fn find(
    app: &App,
    subscription: &Subscription,
    wanted: &Replay,
) -> Result<(Vec<(Delivery, Event)>, Option<String>)> {
    let (tenant, id) = (&subscription.tenant, subscription.id.as_str());
    let is_range = wanted.since.is_some() || wanted.until.is_some();
    match (wanted.event_ids.as_slice(), wanted.status, is_range) {
        ([], Some(DeliveryStatus::Exhausted), false) => {
            let page = app
                .registry
                .dead_letters(tenant, id, MOST, wanted.after_event_id.clone())
                .await?;
            let found = app.registry.deliveries_of(tenant, id, &page.items).await?;
            Ok((found, page.after))
        }
        ([], None | Some(DeliveryStatus::Exhausted | DeliveryStatus::Delivered), true) => {
            let low = wanted.since.map_or_else(|| "0".to_owned(), time_prefix);
            // `~` sorts after every character of a ULID, so that the whole millisecond is in it.
            let high = wanted.until.map_or_else(
                || "~".to_owned(),
                |until| format!("{}~", time_prefix(until)),
            );
            let page = app
                .registry
                .deliveries_between(
                    tenant,
                    id,
                    (&low, &high),
                    MOST,
                    wanted.after_event_id.clone(),
                )
                .await?;
            let found = page
                .items
                .into_iter()
                .filter(|(delivery, _)| {
                    wanted.status.is_none_or(|status| delivery.status == status)
                })
                .collect();
            Ok((found, page.after))
        }
        (ids, None, false) if (1..=MOST).contains(&ids.len()) => {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids.dedup();
            let found = app.registry.deliveries_of(tenant, id, &ids).await?;
            if let Some(missing) = ids
                .iter()
                .find(|id| !found.iter().any(|(delivery, _)| delivery.event_id == **id))
            {
                return Err(Error::invalid(
                    "event_ids",
                    format!(
                        "event `{}` was never delivered to this subscription; see its deliveries",
                        missing
                            .chars()
                            .take(40)
                            .flat_map(char::escape_debug)
                            .collect::<String>()
                    ),
                ));
            }
            Ok((found, None))
        }
        _ => Err(Error::invalid(
            "event_ids",
            format!(
                "say what to send again: `event_ids` with 1 to {MOST} ids, or `status` `exhausted` for all dead letters, or `since` and `until`, with `status` if you like"
            ),
        )),
    }
}

/// Lets one delivery wait again.
async fn again(
    app: &App,
    subscription: &Subscription,
    before: &Delivery,
    event: &Event,
    token: &str,
) -> Result<bool> {
    let lane = match subscription.digest_minutes {
        Some(_) => "digest".to_owned(),
        None => keys::lane(event.home()),
    };
    let after = Delivery {
        status: DeliveryStatus::Pending,
        due_at: due_of(subscription, app.clock.now()),
        place: keys::lane_place(&lane, &app.ids.next()),
        revision: before.revision + 1,
        round: 0,
        replays: before.replays + 1,
        replay: Some(token.to_owned()),
        ..before.clone()
    };
    app.registry
        .replay(&subscription.tenant, before, &after, event)
        .await
}
