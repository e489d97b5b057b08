//! Walks messages in the protocol buffer wire format, field by field, without decoding payloads.
//!
//! Specification: <https://protobuf.dev/programming-guides/encoding/>.
//! A field of bytes is answered as a range of the file, so that a payload of gigabytes costs nothing.
//! Groups, field number zero and varints beyond 64 bits are refused; a singular field that occurs twice is refused by
//! [`Fields::next`] where the caller names it, because parsers merge such fields in ways that differ.

use crate::rules::Rule;
use crate::window::{Stop, Window};
use std::ops::Range;

/// Reads messages through a window, and counts what it visits.
pub(crate) struct Wire<'a> {
    /// The view of the file.
    pub(crate) window: Window<'a>,
    rule: &'static Rule,
    fields: u64,
}

/// One field of a message.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    /// The field number.
    pub(crate) number: u64,
    /// Where the field begins.
    pub(crate) offset: u64,
    /// The value.
    pub(crate) value: FieldValue,
}

/// The value of a field, as far as the wire format tells.
#[derive(Debug, Clone)]
pub(crate) enum FieldValue {
    /// A varint, or a fixed number of 32 or 64 bits.
    Number(u64),
    /// Bytes, a string, packed numbers or a message: where they lie.
    Bytes(Range<u64>),
}

impl Field {
    /// The number, if the field is one.
    pub(crate) fn as_number(&self) -> Option<u64> {
        match self.value {
            FieldValue::Number(number) => Some(number),
            FieldValue::Bytes(_) => None,
        }
    }

    /// The range, if the field is one.
    pub(crate) fn as_range(&self) -> Option<Range<u64>> {
        match &self.value {
            FieldValue::Number(_) => None,
            FieldValue::Bytes(range) => Some(range.clone()),
        }
    }
}

/// Walks the fields of one message.
pub(crate) struct Fields {
    at: u64,
    end: u64,
    /// Bit `n` is set once field `n` was seen.
    seen: u128,
    singular: &'static [u32],
}

impl<'a> Wire<'a> {
    /// Most fields that one file may have outside of payloads.
    const MAX_FIELDS: u64 = 20_000_000;

    /// Walks messages of the file behind `window`; broken ones are told by `rule`.
    pub(crate) fn new(window: Window<'a>, rule: &'static Rule) -> Self {
        Self {
            window,
            rule,
            fields: 0,
        }
    }

    /// Whether the file has more fields than are looked at.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.fields > Wire::MAX_FIELDS
    }

    /// Stops because the wire format is broken at `offset`.
    pub(crate) fn broken(&self, offset: u64, detail: impl Into<String>) -> Stop {
        Stop::at(self.rule, offset, detail)
    }

    /// Reads a varint at `*at`, and moves past it.
    pub(crate) fn varint(&mut self, at: &mut u64, end: u64) -> Result<u64, Stop> {
        let start = *at;
        let length = usize::try_from(end.saturating_sub(start).min(10)).unwrap_or(10);
        let bytes = self
            .window
            .get(start, length)?
            .ok_or_else(|| self.broken(start, "a message ends after the file"))?;
        let mut value = 0u64;
        for (index, byte) in bytes.iter().enumerate() {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && *byte > 1 {
                break;
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                *at = start + index as u64 + 1;
                return Ok(value);
            }
        }
        Err(self.broken(start, "a number does not end, or is larger than 64 bits"))
    }

    /// The bytes in `range`, if there are at most `limit`.
    pub(crate) fn bytes(&mut self, range: &Range<u64>, limit: usize) -> Result<bytes::Bytes, Stop> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        if length > limit {
            return Err(self.broken(
                range.start,
                format!("{length} bytes stand where at most {limit} are usual"),
            ));
        }
        self.window
            .get(range.start, length)?
            .ok_or_else(|| self.broken(range.start, "a field ends after the file"))
    }

    /// The UTF-8 text in `range`, if it has at most `limit` bytes.
    pub(crate) fn text(&mut self, range: &Range<u64>, limit: usize) -> Result<String, Stop> {
        let bytes = self.bytes(range, limit)?;
        String::from_utf8(bytes.to_vec())
            .map_err(|_| self.broken(range.start, "a string is not UTF-8"))
    }
}

impl Fields {
    /// Walks the message in `range`; each field of `singular` may occur once.
    pub(crate) fn new(range: Range<u64>, singular: &'static [u32]) -> Self {
        Self {
            at: range.start,
            end: range.end,
            seen: 0,
            singular,
        }
    }

    /// The next field, or `None` at the end of the message.
    pub(crate) fn next(&mut self, wire: &mut Wire<'_>) -> Result<Option<Field>, Stop> {
        if self.at >= self.end {
            return Ok(None);
        }
        wire.fields += 1;
        let offset = self.at;
        if wire.fields > Wire::MAX_FIELDS {
            return Err(wire.broken(offset, "the file has more fields than any real one"));
        }
        let mut at = self.at;
        let tag = wire.varint(&mut at, self.end)?;
        let number = tag >> 3;
        if number == 0 || number > 0x1fff_ffff {
            return Err(wire.broken(offset, format!("{number} is no field number")));
        }
        if let Some(bit) = u32::try_from(number)
            .ok()
            .filter(|number| *number < 128 && self.singular.contains(number))
        {
            if self.seen >> bit & 1 == 1 {
                return Err(wire.broken(
                    offset,
                    format!("the field {number} occurs twice, which parsers merge differently"),
                ));
            }
            self.seen |= 1 << bit;
        }
        let value = match tag & 7 {
            0 => FieldValue::Number(wire.varint(&mut at, self.end)?),
            fixed @ (1 | 5) => {
                let width = if fixed == 1 { 8 } else { 4 };
                if self.end.saturating_sub(at) < width {
                    return Err(wire.broken(offset, "a number ends after its message"));
                }
                let value = wire
                    .window
                    .number(at, usize::try_from(width).unwrap_or(8))?
                    .unwrap_or(0);
                at += width;
                FieldValue::Number(value)
            }
            2 => {
                let length = wire.varint(&mut at, self.end)?;
                let end = at
                    .checked_add(length)
                    .filter(|end| *end <= self.end)
                    .ok_or_else(|| {
                        wire.broken(
                            offset,
                            format!("the field {number} has {length} bytes, more than its message"),
                        )
                    })?;
                let range = at..end;
                at = end;
                FieldValue::Bytes(range)
            }
            kind => {
                return Err(wire.broken(
                    offset,
                    format!("the wire type {kind} is not used by current formats"),
                ));
            }
        };
        self.at = at;
        Ok(Some(Field {
            number,
            offset,
            value,
        }))
    }
}

/// Walks the first fields of a message that may be cut off, for detection: `(number, wire type)` each.
pub(crate) fn outline(head: &[u8], size: u64) -> Vec<(u64, u8)> {
    let varint = |at: &mut usize| -> Option<u64> {
        let mut value = 0u64;
        for index in 0..10 {
            let byte = *head.get(*at)?;
            *at += 1;
            value |= u64::from(byte & 0x7f).checked_shl(7 * index)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    let mut fields = Vec::new();
    let mut at = 0;
    while at < head.len() && fields.len() < 64 {
        let Some(tag) = varint(&mut at) else { break };
        let kind = (tag & 7) as u8;
        if tag >> 3 == 0 {
            return Vec::new();
        }
        let skip = match kind {
            0 => varint(&mut at).map(|_| 0),
            1 => Some(8),
            5 => Some(4),
            2 => varint(&mut at),
            _ => return Vec::new(),
        };
        fields.push((tag >> 3, kind));
        let Some(next) = skip.and_then(|skip| (at as u64).checked_add(skip)) else {
            break;
        };
        if next > size {
            break;
        }
        at = usize::try_from(next).unwrap_or(usize::MAX);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;
    use ::bytes::Bytes;

    const RULE: Rule = Rule {
        id: "test.wire",
        verdict: Verdict::Malformed,
        why: "",
        fix: "",
    };

    fn walk(bytes: &[u8]) -> Option<Vec<u64>> {
        let source = Bytes::copy_from_slice(bytes);
        let mut wire = Wire::new(Window::new(&source, 16, 2), &RULE);
        let mut fields = Fields::new(0..bytes.len() as u64, &[1]);
        let mut numbers = Vec::new();
        while let Some(field) = fields.next(&mut wire).ok()? {
            numbers.push(field.number);
        }
        Some(numbers)
    }

    #[test]
    fn only_whole_messages_of_current_wire_types_are_walked() {
        for (bytes, expected) in [
            (&[0x08, 0x01, 0x12, 0x02, 0xaa, 0xbb][..], Some(vec![1, 2])),
            (&[0x15, 1, 2, 3, 4], Some(vec![2])),
            (&[], Some(vec![])),
            // A length beyond the message, a number without end, a number of 65 bits, field zero, a group, a repetition.
            (&[0x12, 0x03, 0xaa], None),
            (&[0x10, 0x80], None),
            (
                &[
                    0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02,
                ],
                None,
            ),
            (&[0x00, 0x01], None),
            (&[0x13], None),
            (&[0x08, 0x01, 0x08, 0x02], None),
        ] {
            assert_eq!(walk(bytes), expected, "{bytes:?}");
        }
    }
}

#[cfg(test)]
pub(crate) mod build {
    //! Builds messages for tests.

    fn varint(mut value: u64, out: &mut Vec<u8>) {
        loop {
            let byte = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                out.push(byte);
                return;
            }
            out.push(byte | 0x80);
        }
    }

    /// A field with a number.
    pub(crate) fn number(field: u64, value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        varint(field << 3, &mut out);
        varint(value, &mut out);
        out
    }

    /// A field with bytes, a string or a message.
    pub(crate) fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        varint(field << 3 | 2, &mut out);
        varint(value.as_ref().len() as u64, &mut out);
        out.extend_from_slice(value.as_ref());
        out
    }

    /// A message of several fields.
    pub(crate) fn message(field: u64, fields: &[Vec<u8>]) -> Vec<u8> {
        bytes(field, fields.concat())
    }
}
