//! Verifies an export of a chain from itself alone, and names the first event that is not as it was.

use super::{Link, NOTHING_BEFORE, hash};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
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

/// One line of an export that is no header.
struct Entry {
    line: usize,
    event: Value,
    link: Option<Link>,
    /// Whether its hash is that of what it says.
    is_whole: bool,
    is_foreign: bool,
    /// Whether it is the header of another export.
    is_header: bool,
}

impl Entry {
    fn sequence(&self) -> Option<u64> {
        self.link.as_ref().map(|link| link.sequence)
    }

    fn is_whole_at(&self, sequence: u64) -> bool {
        self.link.as_ref().is_some_and(|link| {
            hash(&self.event, sequence, &link.previous_hash).is_ok_and(|hash| hash == link.hash)
        })
    }
}

/// What the first line of an export says of the rest.
#[derive(Default)]
struct Header {
    model_id: Option<String>,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
    previous_hash: Option<String>,
    last_hash: Option<String>,
    /// The end of the chain when it was exported, and whether the export goes up to there.
    head: Option<(u64, String)>,
    is_open_end: bool,
}

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
    let line = entries.last().map_or(1, |entry| entry.line) + 1;
    let fault = |kind, sequence, message: String| Fault {
        kind,
        sequence,
        line,
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
            return Err(Fault {
                kind: FaultKind::Changed,
                sequence: trusted,
                line: entry.map_or(1, |entry| entry.line),
                message: format!(
                    "event {} has not the hash that was sealed, so one of the events from {trusted} to {} was changed and the hashes behind it made anew",
                    anchor.sequence, anchor.sequence
                ),
            });
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
            "it is an event of another model".to_owned(),
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
        return Err(if is_elsewhere(expected) {
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
        });
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

fn header_fault(message: &str) -> Fault {
    Fault {
        kind: FaultKind::Header,
        sequence: 0,
        line: 1,
        message: message.to_owned(),
    }
}

fn read(export: &str) -> (Option<Header>, Vec<Entry>) {
    let mut header: Option<Header> = None;
    let mut entries: Vec<Entry> = Vec::new();
    let lines = export.lines().enumerate();
    for (number, text) in lines.filter(|(_, text)| !text.trim().is_empty()) {
        let parsed = serde_json::from_str::<Strict>(text).map(|strict| strict.0);
        let mut event = parsed.unwrap_or(Value::Null);
        if header.is_none() && entries.is_empty() && event.get("slipway_audit").is_some() {
            header = Some(header_of(&event));
            continue;
        }
        let is_header = event.get("slipway_audit").is_some();
        let link = event
            .as_object_mut()
            .and_then(|fields| fields.remove("chain"))
            .and_then(|link| serde_json::from_value::<Link>(link).ok());
        let model_id = event["model_id"].as_str();
        let wanted = header
            .as_ref()
            .and_then(|header| header.model_id.as_deref())
            .or_else(|| entries.first()?.event["model_id"].as_str());
        let is_foreign = link.is_some() && wanted.is_some() && model_id != wanted;
        let mut entry = Entry {
            line: number + 1,
            is_foreign,
            is_header,
            is_whole: false,
            event,
            link,
        };
        entry.is_whole = entry
            .sequence()
            .is_some_and(|sequence| entry.is_whole_at(sequence));
        // Only a whole event can be one of another model; any other was changed.
        entry.is_foreign &= entry.is_whole;
        entries.push(entry);
    }
    (header, entries)
}

fn header_of(header: &Value) -> Header {
    let text = |name: &str| header[name].as_str().map(str::to_owned);
    Header {
        model_id: text("model_id"),
        first_sequence: header["first_sequence"].as_u64(),
        last_sequence: header["last_sequence"].as_u64(),
        previous_hash: text("previous_hash"),
        last_hash: text("last_hash"),
        head: header["head"]["sequence"]
            .as_u64()
            .zip(header["head"]["hash"].as_str().map(str::to_owned)),
        is_open_end: header["to"].is_null(),
    }
}

/// JSON in which no object names a field twice: two readers could take two things for what it says.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without repeated fields")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, Strict(value))) = access.next_entry::<String, Strict>()? {
            if fields.insert(name, value).is_some() {
                return Err(A::Error::custom("a field stands in an object twice"));
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::super::canonical;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Lines of an export, the header first if there is one.
    fn export(count: u64, with_header: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let mut last: Option<Link> = None;
        for number in 1..=count {
            let mut event =
                json!({"id": format!("e{number}"), "model_id": "iris", "data": {"x": 1.5}});
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
        header(9, &json!("sha256:9"), json!("2026-01-01T00:00:00.000Z")).unwrap();
        let cut = header(9, &json!("sha256:9"), Value::Null);
        assert_eq!(cut, Err((FaultKind::Dropped, 6)));
        let other = header(5, &json!("sha256:9"), Value::Null);
        assert_eq!(other, Err((FaultKind::Header, 0)));
        assert!(!verify(&whole[1..].join("\n"), &[]).unwrap().has_end);
        assert!(!verify("", &[]).unwrap().has_end);
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
