//! JSON (RFC 8259) and Universal Binary JSON (draft 12, <https://ubjson.org>) as one stream of events.
//!
//! Models in these formats can be larger than memory, so nothing is built: a format's module pulls events and keeps what it needs.
//! Depth, text lengths and the number of keys are bounded, and an object that names a key twice is refused, since
//! readers disagree on which of the two counts.

use crate::cursor::{Cursor, Trouble};
use crate::source::Source;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// One step through a document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Key(String),
    Integer(i64),
    Number(f64),
    Text(String),
    Boolean(bool),
    Null,
    /// The document is over, and nothing follows it.
    End,
}

/// A reader of events.
pub(crate) trait Events {
    /// The next event.
    fn next(&mut self) -> Result<Event, Trouble>;

    /// Offset behind the last event.
    fn offset(&self) -> u64;

    /// Passes over one value, given its first event.
    fn skip(&mut self, first: &Event) -> Result<(), Trouble> {
        let mut depth = match first {
            Event::ObjectStart | Event::ArrayStart => 1_usize,
            _ => return Ok(()),
        };
        while depth > 0 {
            match self.next()? {
                Event::ObjectStart | Event::ArrayStart => depth += 1,
                Event::ObjectEnd | Event::ArrayEnd => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the trouble of an event that does not belong here.
    fn unexpected(&self, expected: &str) -> Trouble {
        Trouble::malformed(self.offset(), format!("expected {expected}"))
    }

    /// Enters an object.
    fn object(&mut self) -> Result<(), Trouble> {
        match self.next()? {
            Event::ObjectStart => Ok(()),
            _ => Err(self.unexpected("an object")),
        }
    }

    /// Enters an array.
    fn array(&mut self) -> Result<(), Trouble> {
        match self.next()? {
            Event::ArrayStart => Ok(()),
            _ => Err(self.unexpected("an array")),
        }
    }

    /// The next key of the object that was entered, or `None` at its end.
    fn key(&mut self) -> Result<Option<String>, Trouble> {
        match self.next()? {
            Event::Key(key) => Ok(Some(key)),
            Event::ObjectEnd => Ok(None),
            _ => Err(self.unexpected("a key")),
        }
    }

    /// Text.
    fn text(&mut self) -> Result<String, Trouble> {
        match self.next()? {
            Event::Text(text) => Ok(text),
            _ => Err(self.unexpected("a text")),
        }
    }

    /// Passes over the next value.
    fn skip_next(&mut self) -> Result<(), Trouble> {
        let first = self.next()?;
        self.skip(&first)
    }
}

/// Bounds of a document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) depth: usize,
    pub(crate) text_bytes: usize,
    /// Most keys of all objects that are open at one time.
    pub(crate) keys: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            depth: 64,
            text_bytes: 4 * 1024 * 1024,
            keys: 500_000,
        }
    }
}

/// An object or array that is open.
#[derive(Debug)]
enum Open {
    /// Hashes of the keys so far.
    Object(HashSet<u64>),
    Array,
    /// An array that said how many values it has; for UBJSON, with their type if they share one.
    Counted {
        left: u64,
        marker: Option<u8>,
    },
}

#[derive(Debug)]
struct Stack {
    open: Vec<Open>,
    keys: usize,
    bounds: Bounds,
}

impl Stack {
    fn new(bounds: Bounds) -> Self {
        Self {
            open: Vec::new(),
            keys: 0,
            bounds,
        }
    }

    fn push(&mut self, open: Open, offset: u64) -> Result<(), Trouble> {
        if self.open.len() >= self.bounds.depth {
            return Err(Trouble::malformed(
                offset,
                format!("nested deeper than {} levels", self.bounds.depth),
            ));
        }
        self.open.push(open);
        Ok(())
    }

    fn pop(&mut self) {
        if let Some(Open::Object(keys)) = self.open.pop() {
            self.keys = self.keys.saturating_sub(keys.len());
        }
    }

    fn key(&mut self, key: &str, offset: u64) -> Result<(), Trouble> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        if let Some(Open::Object(keys)) = self.open.last_mut()
            && !keys.insert(hasher.finish())
        {
            return Err(Trouble::malformed(
                offset,
                format!("the key {} appears twice", crate::cursor::quote(key)),
            ));
        }
        self.keys += 1;
        if self.keys > self.bounds.keys {
            return Err(Trouble::too_large(offset, "too many keys"));
        }
        Ok(())
    }
}

/// What the JSON grammar allows next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// A value or the end of an array that was just opened.
    FirstValue,
    FirstKey,
    /// A comma or the end of what is open.
    Separator,
    Done,
}

/// Events of a JSON document.
pub(crate) struct Json<'a> {
    cursor: Cursor<'a>,
    stack: Stack,
    expect: Expect,
    scratch: Vec<u8>,
}

impl<'a> Json<'a> {
    pub(crate) fn new(source: &'a dyn Source, bounds: Bounds) -> Self {
        Self {
            cursor: Cursor::new(source),
            stack: Stack::new(bounds),
            expect: Expect::Value,
            scratch: Vec::new(),
        }
    }

    fn malformed<T>(&self, detail: &str) -> Result<T, Trouble> {
        Err(Trouble::malformed(self.cursor.offset(), detail))
    }

    fn whitespace(&mut self) -> Result<(), Trouble> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.cursor.peek()? {
            self.cursor.advance(1);
        }
        Ok(())
    }

    fn close(&mut self) {
        self.stack.pop();
        self.expect = if self.stack.open.is_empty() {
            Expect::Done
        } else {
            Expect::Separator
        };
    }

    fn key_event(&mut self) -> Result<Event, Trouble> {
        if self.cursor.peek()? != Some(b'"') {
            return self.malformed("expected a key");
        }
        let offset = self.cursor.offset();
        let key = self.string()?;
        self.stack.key(&key, offset)?;
        self.whitespace()?;
        if self.cursor.byte()? != Some(b':') {
            return self.malformed("expected a colon");
        }
        self.expect = Expect::Value;
        Ok(Event::Key(key))
    }

    fn value(&mut self) -> Result<Event, Trouble> {
        let offset = self.cursor.offset();
        let event = match self.cursor.peek()? {
            Some(b'{') => {
                self.cursor.advance(1);
                self.stack.push(Open::Object(HashSet::new()), offset)?;
                self.expect = Expect::FirstKey;
                return Ok(Event::ObjectStart);
            }
            Some(b'[') => {
                self.cursor.advance(1);
                self.stack.push(Open::Array, offset)?;
                self.expect = Expect::FirstValue;
                return Ok(Event::ArrayStart);
            }
            Some(b'"') => Event::Text(self.string()?),
            Some(byte) if byte == b'-' || byte.is_ascii_alphanumeric() => self.scalar(offset)?,
            _ => return self.malformed("expected a value"),
        };
        self.expect = if self.stack.open.is_empty() {
            Expect::Done
        } else {
            Expect::Separator
        };
        Ok(event)
    }

    fn scalar(&mut self, offset: u64) -> Result<Event, Trouble> {
        self.scratch.clear();
        while let Some(byte) = self.cursor.peek()? {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')) {
                break;
            }
            if self.scratch.len() >= 400 {
                return Err(Trouble::malformed(offset, "a number of over 400 digits"));
            }
            self.scratch.push(byte);
            self.cursor.advance(1);
        }
        let text = std::str::from_utf8(&self.scratch).unwrap_or_default();
        Ok(match text {
            "true" => Event::Boolean(true),
            "false" => Event::Boolean(false),
            "null" => Event::Null,
            // Not in the RFC, but Python and XGBoost write them.
            "NaN" => Event::Number(f64::NAN),
            "Infinity" => Event::Number(f64::INFINITY),
            "-Infinity" => Event::Number(f64::NEG_INFINITY),
            _ if is_json_number(&self.scratch) => {
                if let Ok(integer) = text.parse::<i64>() {
                    Event::Integer(integer)
                } else if let Ok(number) = text.parse::<f64>() {
                    Event::Number(number)
                } else {
                    return Err(Trouble::malformed(offset, "a number that cannot be read"));
                }
            }
            _ => return Err(Trouble::malformed(offset, "expected a value")),
        })
    }

    fn string(&mut self) -> Result<String, Trouble> {
        let start = self.cursor.offset();
        self.cursor.advance(1);
        let mut text = Vec::new();
        loop {
            let window = self.cursor.window()?;
            if window.is_empty() {
                return self.malformed("a text without an end");
            }
            let plain = window
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))
                .unwrap_or(window.len());
            if text.len().saturating_add(plain) > self.stack.bounds.text_bytes {
                return Err(Trouble::too_large(start, "a text is too long"));
            }
            text.extend_from_slice(window.get(..plain).unwrap_or(&[]));
            self.cursor.advance(plain);
            match self.cursor.peek()? {
                Some(b'"') => {
                    self.cursor.advance(1);
                    return String::from_utf8(text)
                        .map_err(|_| Trouble::malformed(start, "a text that is not UTF-8"));
                }
                Some(b'\\') => {
                    self.cursor.advance(1);
                    let character = self.escape()?;
                    let mut buffer = [0; 4];
                    text.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
                }
                Some(0..=0x1f) => return self.malformed("a control character in a text"),
                // The window ended.
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Result<char, Trouble> {
        Ok(match self.cursor.byte()? {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let high = self.hex()?;
                if (0xd800..0xdc00).contains(&high) {
                    if self.cursor.byte()? != Some(b'\\') || self.cursor.byte()? != Some(b'u') {
                        return self.malformed("half a surrogate pair");
                    }
                    let low = self.hex()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return self.malformed("half a surrogate pair");
                    }
                    let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                    match char::from_u32(code) {
                        Some(character) => character,
                        None => return self.malformed("half a surrogate pair"),
                    }
                } else {
                    match char::from_u32(high) {
                        Some(character) => character,
                        None => return self.malformed("half a surrogate pair"),
                    }
                }
            }
            _ => return self.malformed("an escape that JSON does not know"),
        })
    }

    fn hex(&mut self) -> Result<u32, Trouble> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self
                .cursor
                .byte()?
                .and_then(|byte| (byte as char).to_digit(16));
            match digit {
                Some(digit) => code = code * 16 + digit,
                None => return self.malformed("an escape that JSON does not know"),
            }
        }
        Ok(code)
    }
}

/// Tells whether these bytes are a number by the grammar of RFC 8259.
fn is_json_number(bytes: &[u8]) -> bool {
    let mut rest = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let digits = |rest: &[u8]| rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest.first() == Some(&b'0')) {
        return false;
    }
    rest = rest.get(whole..).unwrap_or(&[]);
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = fraction.get(count..).unwrap_or(&[]);
    }
    if let Some((b'e' | b'E', exponent)) = rest.split_first() {
        let exponent = match exponent.split_first() {
            Some((b'+' | b'-', digits)) => digits,
            _ => exponent,
        };
        let count = digits(exponent);
        return count > 0 && count == exponent.len();
    }
    rest.is_empty()
}

impl Events for Json<'_> {
    fn next(&mut self) -> Result<Event, Trouble> {
        self.whitespace()?;
        let next = self.cursor.peek()?;
        match (self.expect, next) {
            (Expect::Done, None) => Ok(Event::End),
            (Expect::Done, Some(_)) => self.malformed("something follows the document"),
            (Expect::FirstValue, Some(b']')) => {
                self.cursor.advance(1);
                self.close();
                Ok(Event::ArrayEnd)
            }
            (Expect::FirstKey, Some(b'}')) => {
                self.cursor.advance(1);
                self.close();
                Ok(Event::ObjectEnd)
            }
            (Expect::FirstKey, _) => self.key_event(),
            (Expect::Value | Expect::FirstValue, _) => self.value(),
            (Expect::Separator, byte) => {
                self.cursor.advance(1);
                match (byte, self.stack.open.last()) {
                    (Some(b','), Some(Open::Object(_))) => {
                        self.whitespace()?;
                        self.key_event()
                    }
                    (Some(b','), Some(_)) => {
                        self.whitespace()?;
                        self.value()
                    }
                    (Some(b'}'), Some(Open::Object(_))) => {
                        self.close();
                        Ok(Event::ObjectEnd)
                    }
                    (Some(b']'), Some(Open::Array)) => {
                        self.close();
                        Ok(Event::ArrayEnd)
                    }
                    _ => self.malformed("expected a comma or an end"),
                }
            }
        }
    }

    fn offset(&self) -> u64 {
        self.cursor.offset()
    }
}

/// Events of a UBJSON document, in the dialect that XGBoost reads and writes.
pub(crate) struct Ubjson<'a> {
    cursor: Cursor<'a>,
    stack: Stack,
    /// The next event of an object is a key.
    is_key_next: bool,
    is_done: bool,
}

impl<'a> Ubjson<'a> {
    pub(crate) fn new(source: &'a dyn Source, bounds: Bounds) -> Self {
        Self {
            cursor: Cursor::new(source),
            stack: Stack::new(bounds),
            is_key_next: false,
            is_done: false,
        }
    }

    fn malformed<T>(&self, detail: &str) -> Result<T, Trouble> {
        Err(Trouble::malformed(self.cursor.offset(), detail))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Trouble> {
        match self.cursor.array()? {
            Some(bytes) => Ok(bytes),
            None => self.malformed("the file ends within a value"),
        }
    }

    /// An integer whose type byte was read.
    fn integer(&mut self, marker: u8) -> Result<Option<i64>, Trouble> {
        Ok(Some(match marker {
            b'i' => i64::from(i8::from_be_bytes(self.fixed()?)),
            b'U' => i64::from(u8::from_be_bytes(self.fixed()?)),
            b'I' => i64::from(i16::from_be_bytes(self.fixed()?)),
            b'l' => i64::from(i32::from_be_bytes(self.fixed()?)),
            b'L' => i64::from_be_bytes(self.fixed()?),
            _ => return Ok(None),
        }))
    }

    /// A length, held against what is left of the file.
    fn length(&mut self) -> Result<u64, Trouble> {
        let [marker] = self.fixed()?;
        let Some(length) = self.integer(marker)? else {
            return self.malformed("a length that is no integer");
        };
        match u64::try_from(length) {
            Ok(length) if length <= self.cursor.remaining() => Ok(length),
            Ok(length) => self.malformed(&format!(
                "a length of {length}, but {} bytes are left",
                self.cursor.remaining()
            )),
            Err(_) => self.malformed("a negative length"),
        }
    }

    fn string(&mut self) -> Result<String, Trouble> {
        let offset = self.cursor.offset();
        let length = self.length()?;
        match usize::try_from(length) {
            Ok(length) if length <= self.stack.bounds.text_bytes => {
                let Some(bytes) = self.cursor.take(length)? else {
                    return self.malformed("the file ends within a text");
                };
                String::from_utf8(bytes)
                    .map_err(|_| Trouble::malformed(offset, "a text that is not UTF-8"))
            }
            _ => Err(Trouble::too_large(offset, "a text is too long")),
        }
    }

    fn array_start(&mut self, offset: u64) -> Result<Event, Trouble> {
        let mut marker = None;
        if self.cursor.peek()? == Some(b'$') {
            self.cursor.advance(1);
            marker = self.cursor.byte()?;
            if self.cursor.peek()? != Some(b'#') {
                return self.malformed("a typed array without a count");
            }
        }
        let open = if self.cursor.peek()? == Some(b'#') {
            self.cursor.advance(1);
            let left = self.length()?;
            // Types without bytes of their own would make a long array out of nothing.
            let width = match marker {
                None | Some(b'i' | b'U') => 1_u64,
                Some(b'I') => 2,
                Some(b'l' | b'd') => 4,
                Some(b'L' | b'D') => 8,
                Some(_) => return self.malformed("a typed array of a type without a width"),
            };
            match left.checked_mul(width) {
                Some(bytes) if bytes <= self.cursor.remaining() => {}
                _ => return self.malformed("a typed array that is longer than the file"),
            }
            Open::Counted { left, marker }
        } else {
            Open::Array
        };
        self.stack.push(open, offset)?;
        Ok(Event::ArrayStart)
    }

    fn value(&mut self, marker: u8) -> Result<Event, Trouble> {
        let offset = self.cursor.offset();
        Ok(match marker {
            b'{' => {
                if matches!(self.cursor.peek()?, Some(b'$' | b'#')) {
                    return self.malformed("an object with a count");
                }
                self.stack.push(Open::Object(HashSet::new()), offset)?;
                self.is_key_next = true;
                Event::ObjectStart
            }
            b'[' => self.array_start(offset)?,
            b'S' => Event::Text(self.string()?),
            b'C' => {
                let [byte] = self.fixed()?;
                if !byte.is_ascii() {
                    return self.malformed("a character that is not ASCII");
                }
                Event::Text(char::from(byte).to_string())
            }
            b'd' => Event::Number(f64::from(f32::from_be_bytes(self.fixed()?))),
            b'D' => Event::Number(f64::from_be_bytes(self.fixed()?)),
            b'T' => Event::Boolean(true),
            b'F' => Event::Boolean(false),
            b'Z' => Event::Null,
            marker => match self.integer(marker)? {
                Some(integer) => Event::Integer(integer),
                None => {
                    return Err(Trouble::malformed(
                        offset.saturating_sub(1),
                        format!("0x{marker:02x} is no type of UBJSON"),
                    ));
                }
            },
        })
    }

    fn close(&mut self) {
        self.stack.pop();
        self.is_key_next = matches!(self.stack.open.last(), Some(Open::Object(_)));
        self.is_done = self.stack.open.is_empty();
    }
}

impl Events for Ubjson<'_> {
    fn next(&mut self) -> Result<Event, Trouble> {
        if self.is_done {
            return match self.cursor.peek()? {
                None => Ok(Event::End),
                Some(_) => self.malformed("something follows the document"),
            };
        }
        let marker = match self.stack.open.last_mut() {
            Some(Open::Counted { left: 0, .. }) => {
                self.close();
                return Ok(Event::ArrayEnd);
            }
            Some(Open::Counted { left, marker }) => {
                *left -= 1;
                *marker
            }
            Some(Open::Object(_)) if self.is_key_next => {
                if self.cursor.peek()? == Some(b'}') {
                    self.cursor.advance(1);
                    self.close();
                    return Ok(Event::ObjectEnd);
                }
                let offset = self.cursor.offset();
                let key = self.string()?;
                self.stack.key(&key, offset)?;
                self.is_key_next = false;
                return Ok(Event::Key(key));
            }
            Some(Open::Array) if self.cursor.peek()? == Some(b']') => {
                self.cursor.advance(1);
                self.close();
                return Ok(Event::ArrayEnd);
            }
            _ => None,
        };
        let marker = if let Some(marker) = marker {
            marker
        } else {
            let [marker] = self.fixed()?;
            marker
        };
        let event = self.value(marker)?;
        if !matches!(event, Event::ObjectStart | Event::ArrayStart) {
            self.is_key_next = matches!(self.stack.open.last(), Some(Open::Object(_)));
            self.is_done = self.stack.open.is_empty();
        }
        Ok(event)
    }

    fn offset(&self) -> u64 {
        self.cursor.offset()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn json(text: &str) -> Result<usize, String> {
        let source = Bytes::copy_from_slice(text.as_bytes());
        let mut events = Json::new(&source, Bounds::default());
        let mut count = 0;
        loop {
            match events.next() {
                Ok(Event::End) => return Ok(count),
                Ok(_) => count += 1,
                Err(Trouble::Malformed { detail, .. }) => return Err(detail),
                Err(trouble) => panic!("{trouble:?}"),
            }
        }
    }

    #[test]
    fn the_json_reader_agrees_with_serde_on_what_is_json() {
        let texts = [
            "1",
            "-0.5e3",
            "01",
            "1.",
            ".5",
            "-",
            "\"a\\u00e9\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\"",
            "[]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{}",
            "{\"a\":1}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{1:2}",
            "nul",
            "true",
            "[",
            "{",
            "]",
            "[}",
            "{]",
            "\"",
            "\"\n\"",
            "\"\\x\"",
            " [ 1 , 2 ] ",
            "[1]]",
            "",
            "[[[]],{\"b\":[{}]}]",
            "1 2",
            "+1",
            "1e",
            "1e+",
            "1e+5",
            "truefalse",
        ];
        for text in texts {
            let expected = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(json(text).is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_key_may_not_appear_twice() {
        assert!(json(r#"{"a":1,"\u0061":2}"#).unwrap_err().contains("twice"));
        assert_eq!(json(r#"[{"a":1},{"a":2}]"#), Ok(10));
    }

    #[test]
    fn depth_is_bounded() {
        assert!(json(&"[".repeat(100_000)).unwrap_err().contains("deeper"));
    }
}
