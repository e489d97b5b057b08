//! Why a write was refused: the parts of conditions that did not hold.
//!
//! A run without a part of a condition goes as the run with it, until a write is refused for that part alone. So the
//! refusals of one run tell which parts are worth leaving out in that run, and which ones another part stands in for.

use crate::mutation::{Site, each_part};
use crate::network::Request;
use dynoxide::Database;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The parts that refuse a request as the table is, unless there are more than anybody would leave out together.
pub(crate) fn blame(table: &Database, request: &Request, most: usize) -> Option<BTreeSet<Site>> {
    let mut failed = BTreeSet::new();
    each_part(
        &request.operation,
        &request.body(),
        &mut |site, write, part| {
            if failed.len() <= most && !failed.contains(site) && !holds(table, write, part) {
                failed.insert(site.clone());
            }
        },
    );
    (!failed.is_empty() && failed.len() <= most).then_some(failed)
}

/// Whether a part of a write's condition holds.
fn holds(table: &Database, write: &Value, part: &str) -> bool {
    let key = write.get("Key").cloned().unwrap_or_else(|| {
        let item = &write["Item"];
        json!({"pk": item["pk"], "sk": item["sk"]})
    });
    let mut check =
        json!({"TableName": write["TableName"], "Key": key, "ConditionExpression": part});
    for names in ["ExpressionAttributeNames", "ExpressionAttributeValues"] {
        let Some(Value::Object(map)) = write.get(names) else {
            continue;
        };
        let used: serde_json::Map<String, Value> = map
            .iter()
            .filter(|(name, _)| crate::mutation::mentions(part, name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !used.is_empty() {
            check[names] = used.into();
        }
    }
    let request = json!({"TransactItems": [{"ConditionCheck": check}]});
    let request = serde_json::from_value(request).expect("the request is valid");
    table.transact_write_items(request).is_ok()
}
