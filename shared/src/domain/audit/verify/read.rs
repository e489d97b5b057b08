//! Reads an export: its header, and its events with their places.

use super::{Fault, FaultKind};
use crate::domain::Timestamp;
use crate::domain::audit::{EXPORT_FORM, Link, hash};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// One line of an export that is no header.
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) event: Value,
    pub(super) link: Option<Link>,
    /// Whether its hash is that of what it says.
    pub(super) is_whole: bool,
    pub(super) is_foreign: bool,
    /// Whether it is the header of another export.
    pub(super) is_header: bool,
}

impl Entry {
    pub(super) fn sequence(&self) -> Option<u64> {
        self.link.as_ref().map(|link| link.sequence)
    }

    pub(super) fn is_whole_at(&self, sequence: u64) -> bool {
        self.link.as_ref().is_some_and(|link| {
            hash(&self.event, sequence, &link.previous_hash).is_ok_and(|hash| hash == link.hash)
        })
    }
}

/// What the first line of an export says of the rest.
#[derive(Default)]
pub(super) struct Header {
    /// Whether nobody knows how to read the export.
    is_of_unknown_form: bool,
    tenant: Option<String>,
    /// The piece that was asked for, as instants.
    from: Option<String>,
    to: Option<String>,
    pub(super) model_id: Option<String>,
    pub(super) first_sequence: Option<u64>,
    pub(super) last_sequence: Option<u64>,
    pub(super) previous_hash: Option<String>,
    pub(super) last_hash: Option<String>,
    /// The end of the chain when it was exported, and whether the export goes up to there.
    pub(super) head: Option<(u64, String)>,
    pub(super) is_open_end: bool,
}

impl Header {
    /// Refuses a header that the events contradict, or of a form that is not known.
    pub(super) fn check(&self, entries: &[Entry]) -> Result<(), Fault> {
        if self.is_of_unknown_form {
            return Err(header_fault(&format!(
                "it is not of the form {EXPORT_FORM}, which alone is known; verify it with the release that exported it"
            )));
        }
        let time = |entry: Option<&Entry>| {
            let time = entry.filter(|entry| entry.is_whole)?.event.get("time")?;
            serde_json::from_value::<Timestamp>(time.clone()).ok()
        };
        let instant = |text: &Option<String>| {
            serde_json::from_value::<Timestamp>(Value::from(text.clone()?)).ok()
        };
        let is_early = instant(&self.from)
            .zip(time(entries.first()))
            .is_some_and(|(from, time)| time < from);
        let is_late = instant(&self.to)
            .zip(time(entries.last()))
            .is_some_and(|(to, time)| time >= to);
        if is_early || is_late {
            return Err(header_fault(
                "the events reach beyond the time that it says",
            ));
        }
        Ok(())
    }
}

pub(super) fn header_fault(message: &str) -> Fault {
    Fault {
        kind: FaultKind::Header,
        sequence: 0,
        line: 1,
        message: message.to_owned(),
    }
}

pub(super) fn read(export: &str) -> (Option<Header>, Vec<Entry>) {
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
        let tenant = header.as_ref().and_then(|header| header.tenant.as_deref());
        let is_foreign = link.is_some()
            && (wanted.is_some() && model_id != wanted
                || tenant.is_some() && event["tenant"].as_str() != tenant);
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
        is_of_unknown_form: header["slipway_audit"] != EXPORT_FORM,
        tenant: text("tenant"),
        from: text("from"),
        to: text("to"),
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
