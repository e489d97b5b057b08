//! Values on the stack, in containers and in the memo.

use super::{
    ARGUMENTS, BOMB, Halt, Kind, MAX_DEPTH, MAX_ITEMS, MAX_MEMO, MAX_NAME, MAX_OBJECTS, MAX_STACK,
    MAX_TEXT_BYTES, MAX_TEXTS, MAX_WEIGHT, Machine, NOT_CANONICAL, OBJECT_TYPE, Object, ReadError,
    TEXT_DUNDER, TEXT_TEMPLATE, TEXT_UNKNOWN, Value, bounds, states,
};

impl Machine<'_, '_> {
    pub(super) fn push(&mut self, value: Value) -> Result<(), Halt> {
        if self.stack.len() >= MAX_STACK {
            return self.halt(
                &BOMB,
                "the program piles up more values than any pickler does",
            );
        }
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn make(
        &mut self,
        kind: Kind,
        flags: u16,
        depth: u16,
        weight: f32,
    ) -> Result<Value, Halt> {
        if self.objects.len() >= MAX_OBJECTS {
            // Not a fault of the file, but what cannot be followed has not been checked.
            return Err(Halt::Read(ReadError::Exhausted(
                "memory for the objects of a pickle",
            )));
        }
        if depth > MAX_DEPTH {
            return self.halt(&BOMB, "values are nested deeper than any model needs");
        }
        if weight > MAX_WEIGHT {
            return self.halt(
                &BOMB,
                "shared parts expand to more values than any model has",
            );
        }
        let index = u32::try_from(self.objects.len()).unwrap_or(u32::MAX);
        self.objects.push(Object {
            kind,
            flags,
            depth,
            weight,
        });
        Ok(Value::Object(index))
    }

    pub(super) fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(index) => self.objects.get(index as usize),
            _ => None,
        }
    }

    pub(super) fn kind(&self, value: Value) -> Option<Kind> {
        self.object(value).map(|object| object.kind)
    }

    pub(super) fn flags(&self, value: Value) -> u16 {
        self.object(value).map_or(0, |object| object.flags)
    }

    /// Depth, weight and inherited flags of a container with these parts.
    pub(super) fn measure(&self, parts: &[Value]) -> (u16, f32, u16) {
        let mut depth = 0;
        let mut weight = 1.0_f32;
        let mut flags = 0;
        for &part in parts {
            if let Some(object) = self.object(part) {
                depth = depth.max(object.depth);
                weight += object.weight;
                flags |= object.flags & OBJECT_TYPE;
            } else {
                weight += 1.0;
            }
        }
        (depth.saturating_add(1), weight, flags)
    }

    /// Takes parts into a container that exists already.
    pub(super) fn absorb(&mut self, target: Value, parts: &[Value]) -> Result<(), Halt> {
        let (depth, weight, flags) = self.measure(parts);
        let Value::Object(index) = target else {
            return Ok(());
        };
        let Some(object) = self.objects.get_mut(index as usize) else {
            return Ok(());
        };
        object.depth = object.depth.max(depth);
        object.weight += weight;
        object.flags |= flags;
        if object.depth > MAX_DEPTH {
            return self.halt(&BOMB, "values are nested deeper than any model needs");
        }
        if object.weight > MAX_WEIGHT {
            return self.halt(
                &BOMB,
                "shared parts expand to more values than any model has",
            );
        }
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Result<Value, Halt> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return self.halt(
                &NOT_CANONICAL,
                "an opcode takes a value where there is none",
            );
        }
        match self.stack.pop() {
            Some(value) => Ok(value),
            None => self.halt(
                &NOT_CANONICAL,
                "an opcode takes a value where there is none",
            ),
        }
    }

    pub(super) fn pop_marked(&mut self) -> Result<Vec<Value>, Halt> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark.min(self.stack.len()))),
            None => self.halt(
                &NOT_CANONICAL,
                "an opcode takes values up to a mark that is not there",
            ),
        }
    }

    pub(super) fn top(&mut self) -> Result<Value, Halt> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&value) if self.stack.len() > floor => Ok(value),
            _ => self.halt(
                &NOT_CANONICAL,
                "an opcode changes a value where there is none",
            ),
        }
    }

    pub(super) fn text(&mut self, text: &str) -> u32 {
        if let Some(&known) = self.known.get(text) {
            return known;
        }
        if states::is_template(text) {
            return TEXT_TEMPLATE;
        }
        if bounds::names_zone_file(text) {
            self.find(
                &ARGUMENTS,
                "a time zone is named by the path of a file, which would be opened",
            );
        }
        let dunder = text.len() > 4 && text.starts_with("__") && text.ends_with("__");
        let keeps = text.len() <= MAX_NAME
            && self.texts.len() < MAX_TEXTS
            && self.text_bytes.len() + text.len() <= MAX_TEXT_BYTES;
        // Words of the allow-list are kept whatever else there is, since names come late in some programs.
        let is_word = self.list.is_word(text);
        if !keeps && !is_word {
            return if dunder { TEXT_DUNDER } else { TEXT_UNKNOWN };
        }
        let index = self.keep_text(text);
        if is_word {
            self.known.insert(text.to_owned(), index);
        }
        index
    }

    /// Keeps a text, whether it is kept already or not.
    pub(super) fn keep_text(&mut self, text: &str) -> u32 {
        let start = u32::try_from(self.text_bytes.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let index = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.text_bytes.push_str(text);
        self.texts.push((start, length));
        index
    }

    pub(super) fn text_of(&self, index: u32) -> Option<&str> {
        if index <= TEXT_TEMPLATE {
            return None;
        }
        let (start, length) = *self.texts.get(index as usize)?;
        self.text_bytes
            .get(start as usize..(start as usize).saturating_add(length as usize))
    }

    pub(super) fn str_of(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(index) => self.text_of(index),
            _ => None,
        }
    }

    /// Whether the value is the name of a special attribute that changes how an object behaves.
    pub(super) fn is_dunder(&self, value: Value) -> bool {
        match value {
            Value::Text(TEXT_DUNDER) => true,
            Value::Text(index) => self.text_of(index).is_some_and(|text| {
                text.len() > 4
                    && text.starts_with("__")
                    && text.ends_with("__")
                    && !matches!(text, "__doc__" | "__name__" | "__qualname__" | "__module__")
            }),
            _ => false,
        }
    }

    pub(super) fn tuple(&mut self, parts: &[Value]) -> Result<Value, Halt> {
        for &part in parts {
            self.hand_on(part);
        }
        let (depth, weight, flags) = self.measure(parts);
        let start = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        // Arguments are short; of longer tuples nothing is asked.
        let count = if parts.len() <= 64 {
            if self.items.len() + parts.len() > MAX_ITEMS {
                return Err(Halt::Read(ReadError::Exhausted(
                    "memory for the tuples of a pickle",
                )));
            }
            self.items.extend_from_slice(parts);
            u32::try_from(parts.len()).unwrap_or(u32::MAX)
        } else {
            u32::MAX
        };
        self.make(Kind::Tuple { start, count }, flags, depth, weight)
    }

    /// The parts of a short tuple.
    pub(super) fn parts(&self, value: Value) -> Option<Vec<Value>> {
        match self.kind(value)? {
            Kind::Tuple { start, count } => self
                .items
                .get(start as usize..(start as usize).checked_add(count as usize)?)
                .map(<[Value]>::to_vec),
            _ => None,
        }
    }

    /// The value of a key in a small dictionary.
    pub(super) fn entry(&self, value: Value, key: &str) -> Option<Value> {
        let Kind::Dict { start, pairs } = self.kind(value)? else {
            return None;
        };
        let end = (start as usize).checked_add((pairs as usize).checked_mul(2)?)?;
        self.items
            .get(start as usize..end)?
            .chunks_exact(2)
            .find_map(|pair| match pair {
                [name, value] if self.str_of(*name) == Some(key) => Some(*value),
                _ => None,
            })
    }

    pub(super) fn name_of(&self, value: Value) -> String {
        match self.kind(value) {
            Some(Kind::Global { module, name, .. }) => format!(
                "{}.{}",
                self.text_of(module).unwrap_or("?"),
                self.text_of(name).unwrap_or("?")
            ),
            Some(Kind::Instance { class }) => self.name_of(Value::Object(class)),
            _ => "a value".to_owned(),
        }
    }

    pub(super) fn is_global(&self, value: Value, module_name: &str) -> bool {
        matches!(self.kind(value), Some(Kind::Global { .. })) && self.name_of(value) == module_name
    }

    // ── The memo ────────────────────────────────────────────────────────

    /// The memo holds what picklers put there, in a quarter of the space.
    pub(super) fn pack(value: Value) -> u32 {
        match value {
            Value::Object(index) => index & 0x3fff_ffff,
            Value::Text(index) => 0x4000_0000 | (index & 0x3fff_ffff),
            Value::Bytes => 0x8000_0000,
            Value::None => 0x8000_0001,
            Value::Bool(value) => 0x8000_0002 + u32::from(value),
            Value::Int(_) | Value::Number => 0x8000_0004,
        }
    }

    pub(super) fn unpack(packed: u32) -> Value {
        match packed {
            0..=0x3fff_ffff => Value::Object(packed),
            0x4000_0000..=0x7fff_ffff => Value::Text(packed & 0x3fff_ffff),
            0x8000_0000 => Value::Bytes,
            0x8000_0001 => Value::None,
            0x8000_0002 => Value::Bool(false),
            0x8000_0003 => Value::Bool(true),
            _ => Value::Number,
        }
    }

    pub(super) fn put(&mut self, index: Option<u64>) -> Result<(), Halt> {
        let value = self.top()?;
        let next = self.memo.len() as u64 + u64::from(self.memo_base);
        match index {
            // Python 2 counts from one.
            Some(1) if self.memo.is_empty() && self.protocol < 3 => self.memo_base = 1,
            Some(index) if index != next => {
                self.odd(format!(
                    "memo slot {index} is written out of sequence; the next one is {next}"
                ));
                if self.stray_memo.len() >= 4096 {
                    return self.halt(&BOMB, "the memo is written out of sequence all along");
                }
                if let Ok(index) = u32::try_from(index) {
                    self.stray_memo.insert(index, Self::pack(value));
                }
                return Ok(());
            }
            _ => {}
        }
        if self.memo.len() >= MAX_MEMO {
            return Err(Halt::Read(ReadError::Exhausted(
                "memory for the memo of a pickle",
            )));
        }
        self.memo.push(Self::pack(value));
        Ok(())
    }

    pub(super) fn get(&mut self, index: u64) -> Result<(), Halt> {
        let stray = u32::try_from(index)
            .ok()
            .and_then(|index| self.stray_memo.get(&index))
            .copied();
        let value = stray.or_else(|| {
            let slot = index.checked_sub(u64::from(self.memo_base))?;
            self.memo.get(usize::try_from(slot).ok()?).copied()
        });
        match value {
            Some(packed) => self.push(Self::unpack(packed)),
            None => self.halt(
                &NOT_CANONICAL,
                format!("memo slot {index} is read before it is written"),
            ),
        }
    }
}
