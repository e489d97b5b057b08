//! Writes with one condition removed, to show that each is needed.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// One part of the condition of one kind of write: what lies between two `AND`s.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// What is written, such as `Put T#/A#`.
    pub write: String,
    /// The whole condition.
    pub condition: String,
    /// Which part, from 0.
    pub part: usize,
}

impl fmt::Display for Site {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = parts(&self.condition);
        let part = parts.get(self.part).copied().unwrap_or_default();
        write!(formatter, "{}: `{part}`", self.write)?;
        if parts.len() > 1 {
            write!(formatter, " of `{}`", self.condition)?;
        }
        Ok(())
    }
}

/// The registry with one condition removed from every write of a kind.
#[derive(Debug, Clone)]
pub struct Mutation(pub Site);

impl Mutation {
    /// Removes the condition from the writes of a request.
    pub(crate) fn remove_from(&self, operation: &str, body: &mut Value) {
        each_write(operation, body, &mut |verb, write| {
            let Some(condition) = write["ConditionExpression"].as_str() else {
                return;
            };
            if condition != self.0.condition || kind(verb, write) != self.0.write {
                return;
            }
            let kept: Vec<&str> = parts(condition)
                .into_iter()
                .enumerate()
                .filter(|(index, _)| *index != self.0.part)
                .map(|(_, part)| part)
                .collect();
            let kept = kept.join(" AND ");
            let used = format!(
                "{kept} {}",
                write["UpdateExpression"].as_str().unwrap_or_default()
            );
            let Value::Object(fields) = write else { return };
            if kept.is_empty() {
                fields.remove("ConditionExpression");
            } else {
                fields.insert("ConditionExpression".to_owned(), kept.into());
            }
            for names in ["ExpressionAttributeNames", "ExpressionAttributeValues"] {
                let is_empty = match fields.get_mut(names) {
                    Some(Value::Object(map)) => {
                        map.retain(|name, _| mentions(&used, name));
                        map.is_empty()
                    }
                    _ => false,
                };
                if is_empty {
                    fields.remove(names);
                }
            }
        });
    }
}

/// Whether an expression names a placeholder as a whole word.
fn mentions(expression: &str, name: &str) -> bool {
    expression.match_indices(name).any(|(at, _)| {
        !expression[at + name.len()..]
            .starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
    })
}

/// Adds every site of a request.
pub(crate) fn collect(operation: &str, body: &Value, sites: &mut BTreeSet<Site>) {
    each_write(operation, &mut body.clone(), &mut |verb, write| {
        let Some(condition) = write["ConditionExpression"].as_str() else {
            return;
        };
        for part in 0..parts(condition).len() {
            sites.insert(Site {
                write: kind(verb, write),
                condition: condition.to_owned(),
                part,
            });
        }
    });
}

fn each_write(operation: &str, body: &mut Value, see: &mut dyn FnMut(&str, &mut Value)) {
    match operation {
        "PutItem" => see("Put", body),
        "UpdateItem" => see("Update", body),
        "DeleteItem" => see("Delete", body),
        "TransactWriteItems" => {
            let writes = body["TransactItems"].as_array_mut();
            for write in writes.into_iter().flatten() {
                for verb in ["Put", "Update", "Delete", "ConditionCheck"] {
                    if let Some(write) = write.get_mut(verb) {
                        see(verb, write);
                    }
                }
            }
        }
        _ => {}
    }
}

/// The parts of a condition that all must hold; alternatives are one part.
fn parts(condition: &str) -> Vec<&str> {
    if condition.contains(" OR ") || condition.contains(" BETWEEN ") {
        vec![condition]
    } else {
        condition.split(" AND ").collect()
    }
}

/// What a write is about: its verb, and the shape of its key without names and numbers.
fn kind(verb: &str, write: &Value) -> String {
    let key = if verb == "Put" {
        &write["Item"]
    } else {
        &write["Key"]
    };
    let shape = |name: &str| {
        let text = key[name]["S"].as_str().unwrap_or_default().to_owned();
        text.split('#')
            .filter(|word| {
                !word.is_empty()
                    && word.len() <= 8
                    && word.chars().all(|letter| letter.is_ascii_uppercase())
            })
            .collect::<Vec<_>>()
            .join("#")
    };
    format!("{verb} {}/{}", shape("pk"), shape("sk"))
}
