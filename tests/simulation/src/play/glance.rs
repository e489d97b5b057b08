//! What the one who draws wishes sees: everything, so that more is done than refused.

use super::{RUNS_TENANT, Run, TABLE};
use crate::draw::MODELS;
use serde_json::{Value, json};

/// What of a home is likely to be asked for.
#[derive(Debug, Default)]
pub(super) struct Likely {
    /// Versions that can be promoted.
    pub(super) ready: Vec<u32>,
    /// Versions that wait for their judgement.
    pub(super) pending: Vec<u32>,
    /// Versions that are deleted.
    pub(super) deleted: Vec<u32>,
    /// Open requests.
    pub(super) requests: Vec<String>,
}

impl Run<'_> {
    /// What of a home is likely to be asked for.
    pub(super) fn likely(&self, home: &str) -> Likely {
        let mut likely = Likely::default();
        let partition = format!("T#{RUNS_TENANT}#M#{home}");
        likely.requests = self
            .partition(&partition, "Q#")
            .iter()
            .filter_map(|item| item["id"]["S"].as_str())
            .map(str::to_owned)
            .collect();
        for item in self.partition(&partition, "V#") {
            let text = |name: &str| item[name]["S"].as_str().unwrap_or_default();
            let number = text("sk").strip_prefix("V#");
            let Some(number) = number.and_then(|number| number.parse().ok()) else {
                continue;
            };
            match text("status") {
                _ if item.get("deleted").is_some() => likely.deleted.push(number),
                "READY" => likely.ready.push(number),
                "PENDING_REGISTRATION" => likely.pending.push(number),
                _ => {}
            }
        }
        likely
    }

    /// The names that mean models which are not deleted, with their homes and how many versions they have.
    pub(super) fn live_models(&self) -> Vec<(&'static str, String, u32)> {
        let heads = self.partition(&format!("T#{RUNS_TENANT}#M"), "");
        heads
            .iter()
            .filter(|head| head.get("former").is_none() && head.get("deleted").is_none())
            .filter_map(|head| {
                let called = head["sk"]["S"].as_str()?;
                let name = MODELS.iter().find(|name| **name == called)?;
                let home = head["home"]["S"].as_str().unwrap_or(called);
                let next: u32 = head["next"]["N"].as_str()?.parse().ok()?;
                Some((*name, home.to_owned(), next - 1))
            })
            .collect()
    }

    /// What lies under a prefix of a partition: who draws wishes knows all, so that more is done than refused.
    fn partition(&self, pk: &str, prefix: &str) -> Vec<Value> {
        let mut request = json!({
            "TableName": TABLE,
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": pk}},
        });
        if !prefix.is_empty() {
            request["KeyConditionExpression"] = "pk = :pk AND begins_with(sk, :sk)".into();
            request["ExpressionAttributeValues"][":sk"] = json!({"S": prefix});
        }
        let request = serde_json::from_value(request).expect("the request is valid");
        let found = self.table.query(request).expect("the table can be read");
        let mut found = serde_json::to_value(found).expect("items can be written");
        match found["Items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        }
    }
}
