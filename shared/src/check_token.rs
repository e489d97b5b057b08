//! The one-time tokens with which automatic checks answer.
//!
//! A token is made from the deployment's secret and from what it is for, and stands nowhere: not in the table, not in
//! the events that people read. It is added to `check.requested` on its way to a subscription, and is used up with the
//! check's answer.

use crate::config::Config;
use crate::domain::{Event, EventType, ModelName, TenantName};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

fn mac(
    config: &Config,
    tenant: &TenantName,
    model: &ModelName,
    request: &str,
    check: &str,
) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(config.cursor_secret.as_bytes())
        .expect("HMAC takes keys of any length");
    for part in [
        "check-token",
        tenant.as_str(),
        model.as_str(),
        request,
        check,
    ] {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    mac
}

/// Whether a token is the one for a check of a request.
pub fn is_genuine(
    config: &Config,
    tenant: &TenantName,
    model: &ModelName,
    (request, check): (&str, &str),
    token: &str,
) -> bool {
    hex::decode(token).is_ok_and(|given| {
        mac(config, tenant, model, request, check)
            .verify_slice(&given)
            .is_ok()
    })
}

/// The event as it is sent: one that asks for a check carries the token to answer with.
pub fn to_delivered_wire(config: &Config, event: &Event) -> Value {
    let mut wire = event.to_wire();
    let text = |name: &str| event.data.get(name).and_then(Value::as_str);
    if event.kind == EventType::CheckRequested
        && let (Some(model), Some(request), Some(check)) =
            (&event.model, text("request_id"), text("check"))
    {
        let token = mac(config, &event.tenant, model, request, check).finalize();
        wire["data"]["token"] = Value::from(hex::encode(token.into_bytes()));
    }
    wire
}
