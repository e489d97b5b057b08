//! The opcodes, one by one.

use super::calls::is_main_namespace;
use super::{
    BOMB, FILL_DICT, FILL_LIST, FILL_SET, GLOBAL, Halt, Kind, MAX_INTEGER_BYTES, MAX_MARKS,
    MAX_READ, Machine, NOT_CANONICAL, PERSISTENT_ID, ReadError, TEXT_DUNDER, TEXT_UNKNOWN,
    TRUNCATED, Value,
};

impl Machine<'_, '_> {
    pub(super) fn follow(&mut self) -> Result<(), Halt> {
        let first = self.input.offset();
        loop {
            self.at = self.input.offset();
            if let Some(end) = self.frame_end {
                if self.at == end {
                    self.frame_end = None;
                } else if self.at > end {
                    self.odd("an opcode crosses the end of its frame");
                    self.frame_end = None;
                }
            }
            let Some(left) = self.budget.checked_sub(1) else {
                return Err(Halt::Read(ReadError::Exhausted(
                    "opcodes for one inspection",
                )));
            };
            *self.budget = left;
            if self.outcome.operations >= self.input.opcode_limit {
                return self.halt(
                    &BOMB,
                    "a small stream expands to a program longer than any model needs",
                );
            }
            self.outcome.operations += 1;
            let opcode = match self.input.byte() {
                Ok(Some(opcode)) => opcode,
                Ok(None) => {
                    return self.halt(&TRUNCATED, "the pickle ends without its last opcode");
                }
                Err(error) => return Err(self.told(error)),
            };
            match protocol_of(opcode) {
                None => {
                    return self.halt(&NOT_CANONICAL, format!("{opcode:#04x} is no opcode"));
                }
                Some(least) if least > self.protocol.max(1) && opcode != 0x80 => {
                    self.odd(format!(
                        "opcode {opcode:#04x} is newer than protocol {}",
                        self.protocol
                    ));
                }
                Some(_) => {}
            }
            if self.protocol >= 2 && is_text_only(opcode, self.protocol) {
                self.odd(format!(
                    "opcode {opcode:#04x} is older than any pickler of protocol {} writes",
                    self.protocol
                ));
            }
            if self.after_pop && !matches!(opcode, b'0' | b'1' | b'g' | b'h' | b'j') {
                self.odd("a value is made and thrown away");
            }
            self.after_pop = false;
            let pop_is_free = std::mem::take(&mut self.pop_is_free);
            if opcode == b'.' {
                return self.stop();
            }
            self.step(opcode, first, pop_is_free)?;
        }
    }

    pub(super) fn stop(&mut self) -> Result<(), Halt> {
        let value = self.pop()?;
        if let Value::Int(integer) = value {
            self.outcome.integer = Some(integer);
        }
        if !self.stack.is_empty() || !self.marks.is_empty() {
            self.odd("values are left over at the end");
        }
        if self.frame_end.is_some_and(|end| end != self.input.offset()) {
            self.odd("the last frame reaches beyond the end");
        }
        self.outcome.protocol = self.protocol;
        Ok(())
    }

    pub(super) fn step(&mut self, opcode: u8, first: u64, pop_is_free: bool) -> Result<(), Halt> {
        match opcode {
            0x80 => {
                let protocol = self.byte()?;
                if self.at != first || !(2..=5).contains(&protocol) {
                    self.odd(format!(
                        "protocol {protocol} is declared late, twice, or does not exist"
                    ));
                }
                self.protocol = self.protocol.max(protocol.min(5));
            }
            0x95 => {
                let length = self.u64()?;
                if self.frame_end.is_some() {
                    self.odd("frames overlap");
                }
                let end = self.input.offset().checked_add(length);
                if end.is_none() || length == 0 {
                    self.odd("a frame has no sensible length");
                }
                self.frame_end = end;
            }
            b'(' => {
                if self.marks.len() >= MAX_MARKS {
                    return self.halt(&BOMB, "marks are nested deeper than any pickler does");
                }
                self.marks.push(self.stack.len());
            }
            b'0' => {
                self.after_pop = !pop_is_free;
                let floor = self.marks.last().copied().unwrap_or(0);
                if self.stack.len() <= floor && self.marks.pop().is_some() {
                    // The mark itself, as protocol 0 does for tuples that contain themselves.
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.after_pop = true;
                self.pop_marked()?;
            }
            b'2' => {
                self.odd("a value is duplicated");
                let value = self.top()?;
                self.push(value)?;
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'I' => {
                let line = self.line()?;
                let value = match line.as_slice() {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    digits => self.integer(digits)?,
                };
                self.push(value)?;
            }
            b'L' => {
                let line = self.line()?;
                let value = self.integer(line.strip_suffix(b"L").unwrap_or(&line))?;
                self.push(value)?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let length = u64::from(self.byte()?);
                self.long(length)?;
            }
            0x8b => {
                let length = u64::from(self.u32()?);
                self.long(length)?;
            }
            b'F' => {
                let line = self.line()?;
                let is_number =
                    std::str::from_utf8(&line).is_ok_and(|line| line.trim().parse::<f64>().is_ok());
                if !is_number {
                    if !looks_numeric(line.trim_ascii()) {
                        return self.halt(&NOT_CANONICAL, "a number is none");
                    }
                    self.odd("a number is not written as Python writes it");
                }
                self.push(Value::Number)?;
            }
            b'G' => {
                self.skip(8)?;
                self.push(Value::Number)?;
            }
            b'S' => {
                let Some(line) = self.text_line()? else {
                    return self.push(Value::Text(TEXT_UNKNOWN));
                };
                let line = line.trim_ascii_end();
                let is_quoted = matches!(line, [b'\'', .., b'\''] | [b'"', .., b'"']);
                if !is_quoted {
                    return self.halt(&NOT_CANONICAL, "a text is not quoted");
                }
                let inner = line
                    .get(1..line.len().saturating_sub(1))
                    .unwrap_or_default();
                let text = String::from_utf8_lossy(inner).into_owned();
                // Names never have escapes; what an escaped text would be as a key is not worth finding out.
                let value = if text.contains('\\') {
                    Value::Text(TEXT_DUNDER)
                } else {
                    Value::Text(self.text(&text))
                };
                self.push(value)?;
            }
            b'V' => {
                let value = match self.text_line()? {
                    Some(line) => {
                        let text = unescape(&String::from_utf8_lossy(&line));
                        Value::Text(self.text(&text))
                    }
                    None => Value::Text(TEXT_UNKNOWN),
                };
                self.push(value)?;
            }
            b'T' | b'X' => {
                let length = u64::from(self.u32()?);
                self.counted_text(length)?;
            }
            b'U' | 0x8c => {
                let length = u64::from(self.byte()?);
                self.counted_text(length)?;
            }
            0x8d => {
                let length = self.u64()?;
                self.counted_text(length)?;
            }
            b'B' => {
                let length = u64::from(self.u32()?);
                self.skip(length)?;
                self.push(Value::Bytes)?;
            }
            b'C' => {
                let length = u64::from(self.byte()?);
                self.skip(length)?;
                self.push(Value::Bytes)?;
            }
            0x8e | 0x96 => {
                let length = self.u64()?;
                self.skip(length)?;
                self.push(Value::Bytes)?;
            }
            0x97 | 0x98 => {
                self.odd("a buffer is expected from outside of the file");
                if opcode == 0x97 {
                    self.push(Value::Bytes)?;
                }
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                let module = String::from_utf8_lossy(&module).into_owned();
                let name = String::from_utf8_lossy(&name).into_owned();
                // Among code by value, dill writes it so.
                let is_dill = self.carries_code && !name.contains('.');
                if self.protocol >= 4 && !is_dill && !is_main_namespace(&module, &name) {
                    self.odd("an import is older than any pickler of the protocol writes");
                }
                let (module, name) = (self.text(&module), self.text(&name));
                self.import(module, name)?;
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                if let (Value::Text(module), Value::Text(name)) = (module, name) {
                    self.import(module, name)?;
                } else {
                    self.fails()?;
                    self.find(&GLOBAL, "imports something whose name is not a text");
                    let made = self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?;
                    self.push(made)?;
                }
            }
            b'R' => self.call()?,
            0x81 => {
                let arguments = self.pop()?;
                let class = self.pop()?;
                self.instantiate(class, arguments, None)?;
            }
            0x92 => {
                let named = self.pop()?;
                let arguments = self.pop()?;
                let class = self.pop()?;
                self.instantiate(class, arguments, Some(named))?;
            }
            b'i' => {
                self.odd("an instance is made in the way of Python 1");
                let module = self.line()?;
                let name = self.line()?;
                let module = self.text(&String::from_utf8_lossy(&module));
                let name = self.text(&String::from_utf8_lossy(&name));
                self.pop_marked()?;
                self.outcome.calls += 1;
                self.import(module, name)?;
            }
            b'o' => {
                self.odd("an instance is made in the way of Python 1");
                let parts = self.pop_marked()?;
                let class = parts.first().copied().unwrap_or(Value::None);
                let arguments = self.tuple(parts.get(1..).unwrap_or_default())?;
                self.push(class)?;
                self.push(arguments)?;
                self.call()?;
            }
            b'b' => self.build()?,
            b']' => {
                let made = self.make(Kind::List { count: 0 }, 0, 1, 1.0)?;
                self.push(made)?;
            }
            b'}' => {
                let made = self.make(Kind::Dict { start: 0, pairs: 0 }, 0, 1, 1.0)?;
                self.push(made)?;
            }
            0x8f => {
                let made = self.make(Kind::Set, FILL_SET, 1, 1.0)?;
                self.push(made)?;
            }
            b')' => {
                let made = self.tuple(&[])?;
                self.push(made)?;
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let mut parts = Vec::with_capacity(count);
                for _ in 0..count {
                    parts.push(self.pop()?);
                }
                parts.reverse();
                let made = self.tuple(&parts)?;
                self.push(made)?;
            }
            b't' => {
                let parts = self.pop_marked()?;
                let made = self.tuple(&parts)?;
                self.push(made)?;
            }
            b'l' => {
                let parts = self.pop_marked()?;
                let (depth, weight, flags) = self.measure(&parts);
                let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
                for &part in &parts {
                    self.hand_on(part);
                }
                let made = self.make(Kind::List { count }, flags, depth, weight)?;
                self.push(made)?;
            }
            b'd' => {
                let parts = self.pop_marked()?;
                let made = self.make(Kind::Dict { start: 0, pairs: 0 }, 0, 1, 1.0)?;
                self.push(made)?;
                if !parts.is_empty() {
                    self.set_items(&parts)?;
                }
            }
            0x91 => {
                let parts = self.pop_marked()?;
                for &part in &parts {
                    self.hash(part)?;
                }
                let (depth, weight, flags) = self.measure(&parts);
                let made = self.make(Kind::FrozenSet, flags, depth, weight)?;
                self.push(made)?;
            }
            b'a' => {
                let part = self.pop()?;
                self.append(&[part])?;
            }
            b'e' => {
                let parts = self.pop_marked()?;
                self.append(&parts)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let parts = self.pop_marked()?;
                self.set_items(&parts)?;
            }
            0x90 => {
                let parts = self.pop_marked()?;
                let target = self.top()?;
                for &part in &parts {
                    self.hash(part)?;
                }
                if self.flags(target) & FILL_SET == 0 {
                    self.odd("something that is no set is filled like one");
                }
                self.absorb(target, &parts)?;
            }
            b'p' => {
                let line = self.line()?;
                let index = self.index(&line)?;
                self.put(Some(index))?;
            }
            b'q' => {
                let index = self.byte()?;
                self.put(Some(index.into()))?;
            }
            b'r' => {
                let index = self.u32()?;
                self.put(Some(index.into()))?;
            }
            0x94 => self.put(None)?,
            b'g' => {
                let line = self.line()?;
                let index = self.index(&line)?;
                self.get(index)?;
            }
            b'h' => {
                let index = self.byte()?;
                self.get(index.into())?;
            }
            b'j' => {
                let index = self.u32()?;
                self.get(index.into())?;
            }
            b'P' => {
                self.line()?;
                self.find(&PERSISTENT_ID, "a persistent id in text form");
                self.push(Value::Number)?;
            }
            b'Q' => self.persistent()?,
            0x82..=0x84 => {
                let width = match opcode {
                    0x82 => 1,
                    0x83 => 2,
                    _ => 4,
                };
                self.skip(width)?;
                self.fails()?;
                self.find(
                    &GLOBAL,
                    "imports a name by a number of the process that loads",
                );
                let made = self.make(Kind::Opaque, 0, 1, 1.0)?;
                self.push(made)?;
            }
            _ => return self.halt(&NOT_CANONICAL, format!("{opcode:#04x} is no opcode")),
        }
        Ok(())
    }

    pub(super) fn integer(&mut self, digits: &[u8]) -> Result<Value, Halt> {
        if digits.len() as u64 > MAX_INTEGER_BYTES * 3 {
            self.find(&BOMB, "an integer has more digits than any model needs");
        }
        let digits = digits.trim_ascii();
        let plain = digits.strip_prefix(b"-").unwrap_or(digits);
        if plain.is_empty() || !plain.iter().all(u8::is_ascii_digit) {
            // Python also takes other bases, signs and underscores, which no pickler writes.
            if !looks_numeric(digits) {
                return self.halt(&NOT_CANONICAL, "an integer is none");
            }
            self.odd("an integer is not written in plain digits");
        }
        Ok(
            match std::str::from_utf8(digits)
                .ok()
                .and_then(|text| text.parse().ok())
            {
                Some(value) => Value::Int(value),
                None => Value::Number,
            },
        )
    }

    pub(super) fn index(&mut self, digits: &[u8]) -> Result<u64, Halt> {
        let written = std::str::from_utf8(digits).unwrap_or_default();
        if let Ok(index) = written.parse() {
            return Ok(index);
        }
        // Python also takes signs, blanks and underscores, which no pickler writes.
        let plain: String = written
            .trim()
            .trim_start_matches('+')
            .chars()
            .filter(|digit| *digit != '_')
            .collect();
        match plain.parse() {
            Ok(index) => {
                self.odd("a memo slot is not written in plain digits");
                Ok(index)
            }
            Err(_) => self.halt(&NOT_CANONICAL, "a memo slot is not a number"),
        }
    }

    pub(super) fn long(&mut self, length: u64) -> Result<(), Halt> {
        if length > MAX_INTEGER_BYTES && !self.is_other_reader {
            self.find(
                &BOMB,
                format!("an integer of {length} bytes is larger than any model needs"),
            );
        }
        if length > 8 {
            self.skip(length)?;
            return self.push(Value::Number);
        }
        let count = usize::try_from(length).unwrap_or_default();
        let value = match self.input.take(count) {
            Ok(bytes) => bytes.map(|bytes| {
                let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                for (slot, byte) in wide.iter_mut().zip(bytes) {
                    *slot = *byte;
                }
                i64::from_le_bytes(wide)
            }),
            Err(error) => return Err(self.told(error)),
        };
        match value {
            Some(value) => self.push(Value::Int(value)),
            None => self.truncated(),
        }
    }

    pub(super) fn counted_text(&mut self, length: u64) -> Result<(), Halt> {
        if length > MAX_READ as u64 {
            self.skip(length)?;
            return self.push(Value::Text(TEXT_UNKNOWN));
        }
        let text = match self.input.take(usize::try_from(length).unwrap_or_default()) {
            Ok(bytes) => bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
            Err(error) => return Err(self.told(error)),
        };
        match text {
            Some(text) => {
                let value = Value::Text(self.text(&text));
                self.push(value)
            }
            None => self.truncated(),
        }
    }
}

/// The first protocol that has the opcode.
pub(super) fn protocol_of(opcode: u8) -> Option<u8> {
    Some(match opcode {
        b'(' | b'.' | b'0' | b'1' | b'2' | b'F' | b'I' | b'L' | b'N' | b'P' | b'R' | b'S'
        | b'V' | b'a' | b'b' | b'c' | b'd' | b'g' | b'i' | b'l' | b'p' | b's' | b't' => 0,
        b'}' | b']' | b')' | b'G' | b'J' | b'K' | b'M' | b'Q' | b'T' | b'U' | b'X' | b'e'
        | b'h' | b'j' | b'o' | b'q' | b'r' | b'u' => 1,
        0x80..=0x8b => 2,
        b'B' | b'C' => 3,
        0x8c..=0x95 => 4,
        0x96..=0x98 => 5,
        _ => return None,
    })
}

/// Whether only the text protocol, or an older one, writes the opcode.
pub(super) fn is_text_only(opcode: u8, protocol: u8) -> bool {
    match opcode {
        b'L' | b'F' | b'V' | b'g' | b'p' | b'P' | b'S' | b'd' | b'l' => true,
        // Python 2 writes wide integers, and texts, like this up to protocol 2.
        b'I' | b'T' | b'U' => protocol >= 3,
        b'q' | b'r' => protocol >= 4,
        _ => false,
    }
}

/// Resolves `\uXXXX` and `\UXXXXXXXX`, the escapes of texts in protocol 0.
pub(super) fn unescape(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find('\\') {
        let (before, escape) = rest.split_at(start);
        text.push_str(before);
        let width = match escape.as_bytes().get(1) {
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let character = escape
            .get(2..2 + width)
            .filter(|digits| !digits.is_empty())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        let used = if let Some(character) = character {
            text.push(character);
            2 + width
        } else {
            text.push('\\');
            1
        };
        rest = escape.get(used..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

/// Whether Python may take a text for a number, however unusual.
fn looks_numeric(text: &[u8]) -> bool {
    matches!(text, [b'0'..=b'9' | b'+' | b'-' | b'.', ..])
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.'))
}
