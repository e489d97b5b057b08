//! Verifies an export of a chain from itself alone, and names the first event that is not as it was.

mod read;

use super::{Link, NOTHING_BEFORE};
use read::{Entry, Header, header_fault, read};
use std::collections::HashMap;
use std::fmt;

/// A hash of a chain that is trusted because it was kept elsewhere, such as in a seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The sequence of the event.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
}

/// What was found to be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Id of the model, as the export says.
    pub model_id: Option<String>,
    /// Sequence of the first event.
    pub first_sequence: u64,
    /// Sequence of the last event; one less than the first if there is none.
    pub last_sequence: u64,
    /// Hash of the last event.
    pub last_hash: String,
    /// How many anchors were found in the chain.
    pub anchors: usize,
    /// Whether something says where the export ends: its header, or an anchor of its last event.
    pub has_end: bool,
}

/// What was done to an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// An event, or its place, was changed.
    Changed,
    /// An event is missing.
    Dropped,
    /// An event was added.
    Inserted,
    /// Events stand in another order.
    Reordered,
    /// The first line, which says what the export holds, says two things.
    Header,
}

impl FaultKind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Dropped => "dropped",
            Self::Inserted => "inserted",
            Self::Reordered => "reordered",
            Self::Header => "header",
        }
    }
}

/// The first event that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What was done.
    pub kind: FaultKind,
    /// The sequence of the event, or the one that belongs where it stands.
    pub sequence: u64,
    /// Its line in the export, counted from 1.
    pub line: usize,
    /// What was found, in a sentence without a full stop.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == FaultKind::Header {
            return write!(formatter, "the header is not right: {}", self.message);
        }
        write!(
            formatter,
            "event {} was {} (line {}): {}",
            self.sequence,
            self.kind.as_str(),
            self.line,
            self.message
        )
    }
}

impl std::error::Error for Fault {}

/// Verifies an export in JSON Lines: every hash, every link, the sequence without a gap, and what header and anchors say.
///
/// Without a header, the chain must begin with its first event; that its end is missing can only be told by a header or
/// an anchor.
pub fn verify(export: &str, anchors: &[Anchor]) -> Result<Verified, Fault> {
    // Editors of texts put a mark there that means nothing.
    let export = export.strip_prefix('\u{feff}').unwrap_or(export);
    let (header, entries) = read(export);
    let has_header = header.is_some();
    let header = header.unwrap_or_default();
    header.check(&entries)?;
    let first = header.first_sequence.unwrap_or(1);
    let mut previous = header
        .previous_hash
        .clone()
        .unwrap_or_else(|| NOTHING_BEFORE.to_owned());
    let by_sequence = index(&entries);
    let mut expected = first;
    for entry in &entries {
        let link = check(entry, expected, &previous, &by_sequence, &header)?;
        previous.clone_from(&link.hash);
        expected += 1;
    }
    let last = expected - 1;
    // The line of an event; one that is missing belongs behind the last.
    let line_of = |sequence: u64| {
        let place = usize::try_from(sequence.saturating_sub(first)).unwrap_or(usize::MAX);
        entries
            .get(place)
            .or(entries.last())
            .map_or(2, |entry| entry.line + usize::from(sequence > last))
    };
    let fault = |kind, sequence, message: String| Fault {
        kind,
        sequence,
        line: line_of(sequence),
        message,
    };
    if let Some(said) = header.last_sequence {
        if said > last {
            return Err(fault(
                FaultKind::Dropped,
                last + 1,
                format!("the export ends with event {last}, and its header says {said}"),
            ));
        }
        if said < last {
            return Err(fault(
                FaultKind::Inserted,
                said + 1,
                format!("the header says that the export ends with event {said}"),
            ));
        }
    }
    if header.last_hash.is_some_and(|said| said != previous) && last >= first {
        return Err(fault(
            FaultKind::Changed,
            last,
            "its hash is not the one that the header says, so it was changed, or one before it and all hashes behind that made anew"
                .to_owned(),
        ));
    }
    if let Some((sequence, hash)) = &header.head {
        if header.is_open_end && *sequence > last {
            return Err(fault(
                FaultKind::Dropped,
                last + 1,
                format!(
                    "the export ends with event {last}, and the chain ended with event {sequence} when it was made"
                ),
            ));
        }
        if *sequence < last || (*sequence == last && last >= first && *hash != previous) {
            return Err(header_fault(
                "what it says of the end of the chain does not fit the events",
            ));
        }
    }
    let mut found = 0;
    let mut trusted = first;
    let mut anchors = anchors.to_vec();
    anchors.sort_by_key(|anchor| anchor.sequence);
    for anchor in &anchors {
        if anchor.sequence < first {
            continue;
        }
        if anchor.sequence > last {
            return Err(fault(
                FaultKind::Dropped,
                last + 1,
                format!(
                    "the export ends with event {last}, and a seal holds event {}",
                    anchor.sequence
                ),
            ));
        }
        let entry = by_sequence
            .get(&anchor.sequence)
            .and_then(|entries| entries.first());
        if entry
            .and_then(|entry| entry.link.as_ref())
            .is_none_or(|link| link.hash != anchor.hash)
        {
            return Err(fault(
                FaultKind::Changed,
                trusted,
                format!(
                    "event {} has not the hash that was sealed, so one of the events from {trusted} to {} was changed and the hashes behind it made anew",
                    anchor.sequence, anchor.sequence
                ),
            ));
        }
        trusted = anchor.sequence + 1;
        found += 1;
    }
    Ok(Verified {
        has_end: has_header || (last >= first && trusted > last),
        model_id: header.model_id.or_else(|| {
            let first = entries.first()?;
            first.event["model_id"].as_str().map(str::to_owned)
        }),
        first_sequence: first,
        last_sequence: last,
        last_hash: previous,
        anchors: found,
    })
}

fn index(entries: &[Entry]) -> HashMap<u64, Vec<&Entry>> {
    let mut index: HashMap<u64, Vec<&Entry>> = HashMap::new();
    for entry in entries.iter().filter(|entry| entry.is_whole) {
        if let Some(sequence) = entry.sequence() {
            index.entry(sequence).or_default().push(entry);
        }
    }
    index
}

/// Checks that an entry is the event that belongs here, or says what was done.
fn check<'a>(
    entry: &'a Entry,
    expected: u64,
    previous: &str,
    by_sequence: &HashMap<u64, Vec<&Entry>>,
    header: &Header,
) -> Result<&'a Link, Fault> {
    let fault = |kind, message: String| Fault {
        kind,
        sequence: expected,
        line: entry.line,
        message,
    };
    let is_elsewhere = |sequence: u64| {
        by_sequence
            .get(&sequence)
            .is_some_and(|entries| entries.iter().any(|other| other.line != entry.line))
    };
    if entry.is_foreign {
        return Err(fault(
            FaultKind::Inserted,
            "it is an event of another model or tenant".to_owned(),
        ));
    }
    if entry.is_header {
        return Err(fault(
            FaultKind::Inserted,
            "it is the header of another export".to_owned(),
        ));
    }
    let Some(link) = &entry.link else {
        return Err(if is_elsewhere(expected) {
            fault(
                FaultKind::Inserted,
                "it has no place in the chain".to_owned(),
            )
        } else {
            fault(
                FaultKind::Changed,
                "its place in the chain is not readable".to_owned(),
            )
        });
    };
    if !entry.is_whole {
        if entry.is_whole_at(link.sequence + 1) {
            return Err(fault(
                FaultKind::Dropped,
                "the events behind it were numbered anew".to_owned(),
            ));
        }
        if link.sequence > 1 && entry.is_whole_at(link.sequence - 1) {
            return Err(Fault {
                sequence: expected.saturating_sub(1).max(1),
                ..fault(
                    FaultKind::Inserted,
                    "the events behind it were numbered anew".to_owned(),
                )
            });
        }
        return Err(
            if header.last_sequence.is_some_and(|last| expected > last) {
                fault(
                    FaultKind::Inserted,
                    "the header says that the export ends before it".to_owned(),
                )
            } else if is_elsewhere(expected) {
                fault(
                    FaultKind::Inserted,
                    format!(
                        "its hash is not that of what it says, and event {expected} stands elsewhere"
                    ),
                )
            } else {
                fault(
                    FaultKind::Changed,
                    "its hash is not that of what it says".to_owned(),
                )
            },
        );
    }
    if link.sequence != expected {
        if link.sequence < expected {
            return Err(fault(
                FaultKind::Inserted,
                format!("event {} stands in the export twice", link.sequence),
            ));
        }
        return Err(if is_elsewhere(expected) {
            fault(
                FaultKind::Reordered,
                format!(
                    "event {} stands where event {expected} belongs",
                    link.sequence
                ),
            )
        } else {
            fault(
                FaultKind::Dropped,
                format!("event {} follows event {}", link.sequence, expected - 1),
            )
        });
    }
    let next = by_sequence.get(&(expected + 1));
    let leads_on = |candidate: &Link| {
        next.is_some_and(|next| {
            next.iter().any(|after| {
                after
                    .link
                    .as_ref()
                    .is_some_and(|after| after.previous_hash == candidate.hash)
            })
        })
    };
    if link.previous_hash != previous {
        return Err(if is_elsewhere(expected) {
            fault(
                FaultKind::Inserted,
                "it does not follow the event before it, and another one of its sequence does"
                    .to_owned(),
            )
        } else {
            fault(
                FaultKind::Changed,
                "it does not follow the event before it".to_owned(),
            )
        });
    }
    let is_end = header.last_hash.as_ref() == Some(&link.hash);
    let has_rival = by_sequence.get(&expected).is_some_and(|entries| {
        entries.iter().any(|other| {
            other
                .link
                .as_ref()
                .is_some_and(|other| other.hash != link.hash)
        })
    });
    if has_rival {
        // Of several events of one sequence, the one that the next event follows is genuine.
        if !leads_on(link) && !is_end {
            return Err(fault(
                FaultKind::Inserted,
                "another event of its sequence leads on".to_owned(),
            ));
        }
    } else if next.is_some() && !leads_on(link) {
        return Err(fault(
            FaultKind::Changed,
            "the next event follows another hash, so its own was made anew".to_owned(),
        ));
    }
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::super::canonical;
    use super::*;
    use crate::domain::audit::hash;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Lines of an export, the header first if there is one.
    fn export(count: u64, with_header: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let mut last: Option<Link> = None;
        for number in 1..=count {
            let mut event = json!({
                "id": format!("e{number}"), "model_id": "iris", "tenant": "default",
                "time": format!("2026-03-01T00:00:{number:02}.000Z"), "data": {"x": 1.5},
            });
            let link = Link::after(last.as_ref(), &event).unwrap();
            event["chain"] = serde_json::to_value(&link).unwrap();
            lines.push(canonical(&event).unwrap());
            last = Some(link);
        }
        if with_header {
            let header = json!({
                "slipway_audit": 1, "model_id": "iris", "first_sequence": 1, "last_sequence": count,
                "previous_hash": NOTHING_BEFORE, "last_hash": last.map(|link| link.hash),
            });
            lines.insert(0, header.to_string());
        }
        lines
    }

    fn found(lines: &[String]) -> (FaultKind, u64) {
        let fault = verify(&lines.join("\n"), &[]).unwrap_err();
        (fault.kind, fault.sequence)
    }

    #[test]
    fn an_untouched_export_is_right_whatever_the_whitespace() {
        let verified = verify(&export(5, true).join("\n"), &[]).unwrap();
        assert_eq!((verified.first_sequence, verified.last_sequence), (1, 5));
        let pretty = export(5, false)
            .join("\n")
            .replace(',', ", ")
            .replace("\":", "\" : ");
        verify(&pretty, &[]).unwrap();
        verify("", &[]).unwrap();
    }

    #[test]
    fn what_is_no_event_is_no_part_of_an_export() {
        let lines = export(3, true);
        let twice = [lines.clone(), lines.clone()].concat();
        assert_eq!(found(&twice), (FaultKind::Inserted, 4));
        let mut headed = lines.clone();
        headed.insert(0, lines[0].clone());
        assert_eq!(found(&headed), (FaultKind::Inserted, 1));
        let mut placed = lines.clone();
        placed[2] = placed[2].replacen("\"sequence\"", "\"x\":1,\"sequence\"", 1);
        assert_eq!(found(&placed), (FaultKind::Changed, 2));
        verify(&format!("\u{feff}{}", lines.join("\n")), &[]).unwrap();
    }

    #[test]
    fn an_end_that_the_header_contradicts_is_told() {
        let whole = export(5, true);
        let header = |sequence: u64, hash: &Value, to: Value| {
            let mut header: Value = serde_json::from_str(&whole[0]).unwrap();
            header["head"] = json!({"sequence": sequence, "hash": hash});
            header["to"] = to;
            let lines: Vec<String> = std::iter::once(header.to_string())
                .chain(whole[1..].iter().cloned())
                .collect();
            verify(&lines.join("\n"), &[]).map_err(|fault| (fault.kind, fault.sequence))
        };
        let end: Value = serde_json::from_str(&whole[0]).unwrap();
        let end = &end["last_hash"];
        header(5, end, Value::Null).unwrap();
        header(9, &json!("sha256:9"), json!("2026-04-01T00:00:00.000Z")).unwrap();
        let cut = header(9, &json!("sha256:9"), Value::Null);
        assert_eq!(cut, Err((FaultKind::Dropped, 6)));
        let other = header(5, &json!("sha256:9"), Value::Null);
        assert_eq!(other, Err((FaultKind::Header, 0)));
        assert!(!verify(&whole[1..].join("\n"), &[]).unwrap().has_end);
        assert!(!verify("", &[]).unwrap().has_end);
    }

    #[test]
    fn a_header_that_says_something_else_is_told() {
        let whole = export(5, true);
        let told = |name: &str, value: Value| {
            let mut header: Value = serde_json::from_str(&whole[0]).unwrap();
            header[name] = value;
            let lines = [&[header.to_string()], &whole[1..]].concat();
            verify(&lines.join("\n"), &[]).map_err(|fault| (fault.kind, fault.sequence))
        };
        for form in [json!(2), json!("1"), Value::Null] {
            assert_eq!(told("slipway_audit", form), Err((FaultKind::Header, 0)));
        }
        assert_eq!(
            told("tenant", json!("other")),
            Err((FaultKind::Inserted, 1))
        );
        assert_eq!(
            told("model_id", json!("other")),
            Err((FaultKind::Inserted, 1))
        );
        assert_eq!(
            told("last_sequence", json!(4)),
            Err((FaultKind::Inserted, 5))
        );
        assert_eq!(
            told("last_sequence", json!(6)),
            Err((FaultKind::Dropped, 6))
        );
        assert_eq!(
            told("from", json!("2099-01-01T00:00:00Z")),
            Err((FaultKind::Header, 0))
        );
        assert_eq!(
            told("to", json!("1999-01-01T00:00:00Z")),
            Err((FaultKind::Header, 0))
        );
    }

    #[test]
    fn what_is_added_at_the_end_is_inserted_there() {
        let mut lines = export(5, true);
        lines.push(lines[5].replacen("\"id\":\"", "\"id\":\"x", 1));
        let fault = verify(&lines.join("\n"), &[]).unwrap_err();
        assert_eq!(
            (fault.kind, fault.sequence, fault.line),
            (FaultKind::Inserted, 6, 7)
        );
    }

    #[test]
    fn a_field_that_is_named_twice_is_a_change() {
        let mut lines = export(3, false);
        lines[1] = lines[1].replacen('{', r#"{"id":"other","#, 1);
        assert_eq!(found(&lines), (FaultKind::Changed, 2));
    }

    #[test]
    fn a_tail_that_is_missing_is_told_by_header_or_seal() {
        let mut lines = export(5, true);
        let sealed: Link = serde_json::from_value(
            serde_json::from_str::<Value>(&lines[5]).unwrap()["chain"].clone(),
        )
        .unwrap();
        lines.truncate(4);
        assert_eq!(found(&lines), (FaultKind::Dropped, 4));
        let anchor = Anchor {
            sequence: 5,
            hash: sealed.hash,
        };
        let fault = verify(&lines[1..].join("\n"), &[anchor]).unwrap_err();
        assert_eq!((fault.kind, fault.sequence), (FaultKind::Dropped, 4));
    }

    #[test]
    fn a_chain_that_was_made_anew_is_told_by_a_seal() {
        let original = verify(&export(5, false).join("\n"), &[]).unwrap();
        let mut last = None;
        let mut lines = Vec::new();
        for number in 1..=5 {
            let mut event = json!({"id": format!("forged{number}"), "model_id": "iris"});
            let link = Link::after(last.as_ref(), &event).unwrap();
            event["chain"] = serde_json::to_value(&link).unwrap();
            lines.push(event.to_string());
            last = Some(link);
        }
        verify(&lines.join("\n"), &[]).unwrap();
        let anchor = Anchor {
            sequence: original.last_sequence,
            hash: original.last_hash,
        };
        let fault = verify(&lines.join("\n"), &[anchor]).unwrap_err();
        assert_eq!((fault.kind, fault.sequence), (FaultKind::Changed, 1));
    }

    proptest! {
        #[test]
        fn every_change_of_one_event_is_named(
            count in 2_u64..12, at in 0_usize..12, other in 0_usize..12, header: bool, edit in 0_u8..7
        ) {
            let mut lines = export(count, header);
            let skip = usize::from(header);
            let total = usize::try_from(count).unwrap();
            let (at, other) = (at % total, other % total);
            let sequence = at as u64 + 1;
            let mut parsed: Value = serde_json::from_str(&lines[skip + at]).unwrap();
            let expected = match edit {
                0 => {
                    parsed["data"]["x"] = json!(2.5);
                    lines[skip + at] = parsed.to_string();
                    (FaultKind::Changed, sequence)
                }
                1 => {
                    parsed["chain"]["hash"] = json!("sha256:00");
                    lines[skip + at] = parsed.to_string();
                    (FaultKind::Changed, sequence)
                }
                2 => {
                    // Changed and hashed anew: the next event, or the header, tells.
                    prop_assume!(header || at + 1 < total);
                    parsed["data"]["x"] = json!(2.5);
                    let mut link: Link = serde_json::from_value(parsed["chain"].clone()).unwrap();
                    parsed.as_object_mut().unwrap().remove("chain");
                    link.hash = hash(&parsed, link.sequence, &link.previous_hash).unwrap();
                    parsed["chain"] = serde_json::to_value(&link).unwrap();
                    lines[skip + at] = parsed.to_string();
                    (FaultKind::Changed, sequence)
                }
                3 => {
                    prop_assume!(header || at + 1 < total);
                    lines.remove(skip + at);
                    (FaultKind::Dropped, sequence)
                }
                4 => {
                    let forged = json!({"id": "forged", "model_id": "iris"});
                    lines.insert(skip + at, forged.to_string());
                    (FaultKind::Inserted, sequence)
                }
                5 => {
                    // A copy of an event, somewhere behind it.
                    let to = at.max(other) + 1;
                    let copy = lines[skip + at].clone();
                    lines.insert(skip + to, copy);
                    (FaultKind::Inserted, to as u64 + 1)
                }
                _ => {
                    prop_assume!(at != other);
                    lines.swap(skip + at, skip + other);
                    (FaultKind::Reordered, at.min(other) as u64 + 1)
                }
            };
            prop_assert_eq!(found(&lines), expected);
        }
    }
}
