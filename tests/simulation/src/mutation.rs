//! Writes with one condition removed, to show that each is needed.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Between the fields of a site, and between the parts of its condition, where sites are kept as text.
const FIELD: char = '\t';
const PART: &str = " AND ";

/// One part of the condition of one kind of write: what lies between two `AND`s.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// What is written, such as `Put T#M/A`.
    pub write: String,
    /// The parts that every condition of the write has, in order; parts that differ only in what was seen are one.
    pub condition: Vec<String>,
    /// Which part is meant.
    pub part: String,
}

impl fmt::Display for Site {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let condition = self.condition.join(PART);
        write!(
            formatter,
            "{}{FIELD}{}{FIELD}{condition}",
            self.write, self.part
        )
    }
}

impl FromStr for Site {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut fields = text.split(FIELD).map(str::to_owned);
        let mut next = || {
            fields
                .next()
                .ok_or_else(|| anyhow::anyhow!("no site: {text}"))
        };
        let (write, part, condition) = (next()?, next()?, next()?);
        Ok(Self {
            write,
            part,
            condition: condition
                .split(PART)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// The registry without some parts of conditions, in every write of their kinds.
#[derive(Debug, Clone)]
pub struct Mutation(pub Vec<Site>);

impl Mutation {
    /// Removes the parts from the writes of a request.
    pub fn remove_from(&self, operation: &str, body: &mut Value) {
        each_write(operation, body, &mut |verb, write| {
            let Some(condition) = write["ConditionExpression"].as_str() else {
                return;
            };
            let parts = parts(condition);
            let (condition, kind) = (common(names_of(&parts)), kind(verb, write));
            let removed: Vec<&str> = self
                .0
                .iter()
                .filter(|site| site.condition == condition && site.write == kind)
                .map(|site| site.part.as_str())
                .collect();
            if removed.is_empty() {
                return;
            }
            let kept: Vec<String> = parts
                .iter()
                .filter(|part| !removed.contains(&name_of(part).as_str()))
                .map(|part| format!("({part})"))
                .collect();
            let kept = kept.join(PART);
            let update = write["UpdateExpression"].as_str().unwrap_or_default();
            let used = format!("{kept} {update}");
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
        // A check of nothing is no write.
        if let Some(writes) = body["TransactItems"].as_array_mut() {
            writes.retain(|write| {
                write
                    .get("ConditionCheck")
                    .is_none_or(|check| check.get("ConditionExpression").is_some())
            });
        }
    }
}

/// Whether an expression names a placeholder as a whole word.
pub(crate) fn mentions(expression: &str, name: &str) -> bool {
    expression.match_indices(name).any(|(at, _)| {
        !expression[at + name.len()..]
            .starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
    })
}

/// Adds every site of a request.
pub(crate) fn collect(operation: &str, body: &Value, sites: &mut BTreeSet<Site>) {
    each_part(operation, body, &mut |site, _, _| {
        if !sites.contains(site) {
            sites.insert(site.clone());
        }
    });
}

/// Shows every part of every condition of a request, with the write that carries it and its words.
pub fn each_part(operation: &str, body: &Value, see: &mut dyn FnMut(&Site, &Value, &str)) {
    each_write(operation, &mut body.clone(), &mut |verb, write| {
        let Some(condition) = write["ConditionExpression"].as_str() else {
            return;
        };
        let parts = parts(condition);
        let mut site = Site {
            write: kind(verb, write),
            condition: common(names_of(&parts)),
            part: String::new(),
        };
        for part in &parts {
            site.part = name_of(part);
            see(&site, write, part);
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
    let condition = unwrapped(condition.trim());
    let (mut depth, mut from, mut found) = (0_i32, 0, Vec::new());
    let (mut is_alternative, mut is_range) = (false, false);
    for (at, letter) in condition.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ' ' if depth == 0 => {
                let rest = &condition[at..];
                is_alternative |= rest.starts_with(" OR ");
                is_range |= rest.starts_with(" BETWEEN ");
                if rest.starts_with(PART) {
                    found.push(&condition[from..at]);
                    from = at + PART.len();
                }
            }
            _ => {}
        }
    }
    if is_alternative || is_range || found.is_empty() {
        return vec![condition];
    }
    found.push(&condition[from..]);
    found.into_iter().flat_map(parts).collect()
}

/// A condition without the parentheses around all of it.
fn unwrapped(condition: &str) -> &str {
    let Some(inner) = condition
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
    else {
        return condition;
    };
    let mut depth = 0;
    for letter in inner.chars() {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth < 0 {
            return condition;
        }
    }
    unwrapped(inner.trim())
}

/// The parts that a write always has: some come with what is written, and with what was seen.
fn common(mut names: Vec<String>) -> Vec<String> {
    const UNMARKED: &str = "attribute_not_exists(#away)";
    let has = |names: &[String], wanted: &str| names.iter().any(|name| name == wanted);
    // A promotion that a protection guards rests on more of the version.
    if has(&names, "contains(#val, :report)") {
        names.retain(|name| name != "contains(#val, :report)" && name != "#rev = :rev");
    }
    if has(&names, "#top as seen") {
        names.retain(|name| name != "#pointers as seen");
    }
    // A purge rests on whether there was a package, and a claim on files.
    if has(&names, "attribute_not_exists(#purged)") && !has(&names, "#status = :ready") {
        let claims = ["attribute_not_exists(#pkg)", "attribute_not_exists(#held)"];
        names.retain(|name| !claims.contains(&name.as_str()));
    }
    names.retain(|name| name != UNMARKED);
    names
}

/// The names of parts, each once.
fn names_of(parts: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for part in parts {
        let name = name_of(part);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What a part says; that something is as it was seen is one thing, whether it was there or not.
fn name_of(part: &str) -> String {
    const SEEN: [&str; 8] = [
        "depr",
        "eol",
        "top",
        "floor",
        "pointers",
        "stages",
        "protections",
        "waivers",
    ];
    let part = unwrapped(part.trim());
    let absent = part
        .strip_prefix("attribute_not_exists(#")
        .and_then(|rest| rest.strip_suffix(')'));
    let equal = part.strip_prefix('#').and_then(|rest| {
        let (name, value) = rest.split_once(" = :")?;
        (value == name || value.strip_prefix("seen_") == Some(name)).then_some(name)
    });
    let seen = absent
        .or(equal)
        .map(|name| name.trim_end_matches(|letter: char| letter.is_ascii_digit()))
        .filter(|name| SEEN.contains(name));
    seen.map_or_else(|| part.to_owned(), |name| format!("#{name} as seen"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_taken_apart_where_all_parts_must_hold() {
        assert_eq!(
            parts("((#a = :a AND #b = :b) AND (attribute_not_exists(#c))) AND (#d OR #e AND #f)"),
            [
                "#a = :a",
                "#b = :b",
                "attribute_not_exists(#c)",
                "#d OR #e AND #f"
            ]
        );
        assert_eq!(parts("(a) OR (b)"), ["(a) OR (b)"]);
        assert_eq!(
            names_of(&[
                "#top0 = :seen_top0",
                "attribute_not_exists(#top1)",
                "#x = :y"
            ]),
            ["#top as seen", "#x = :y"]
        );
    }
}
