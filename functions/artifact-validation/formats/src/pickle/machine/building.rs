//! Containers that are filled, and objects that get their state.

use super::states::SUBCLASS;
use super::{
    ARGUMENTS, BUILT, DUNDER_KEY, FILL_DICT, FILL_LIST, Halt, Kind, MAX_ITEMS, Machine, NOT_KEPT,
    ReadError, Value,
};

impl Machine<'_, '_> {
    pub(super) fn set_items(&mut self, pairs: &[Value]) -> Result<(), Halt> {
        self.pop_is_free = self.carries_code;
        let target = self.top()?;
        if !pairs.len().is_multiple_of(2) {
            self.odd("a dictionary is filled with a key without a value");
        }
        if pairs.iter().step_by(2).any(|&key| self.is_dunder(key)) {
            self.flag(target, DUNDER_KEY);
        }
        self.guard(target, pairs)?;
        match self.kind(target) {
            Some(Kind::Dict { start, pairs: kept }) => self.keep(target, start, kept, pairs)?,
            Some(_) if self.flags(target) & FILL_DICT != 0 => {}
            _ => self.odd("something that is no dictionary is filled like one"),
        }
        self.absorb(target, pairs)
    }

    /// Keeps the pairs of a dictionary whose values a rule may ask for: the state of an array's description, and the
    /// fields of a type.
    fn keep(&mut self, target: Value, start: u32, kept: u32, pairs: &[Value]) -> Result<(), Halt> {
        const MAX_KEPT: usize = 512;
        let asks = match (kept, pairs) {
            (NOT_KEPT, _) => false,
            (0, [key, value, ..]) => {
                *key == Value::Text(SUBCLASS)
                    || self.parts(*value).is_some_and(|parts| {
                        parts.first().is_some_and(|&first| {
                            matches!(self.kind(first), Some(Kind::Dtype { .. }))
                        })
                    })
            }
            _ => true,
        };
        let first = self.items.len();
        let old = start as usize..start as usize + if asks { kept as usize * 2 } else { 0 };
        let count = usize::midpoint(old.len(), pairs.len());
        let (start, kept) = if asks && count <= MAX_KEPT {
            if first + count * 2 > MAX_ITEMS {
                return Err(Halt::Read(ReadError::Exhausted(
                    "memory for the dictionaries of a pickle",
                )));
            }
            // What was kept before moves to the end, since other values may lie behind it.
            self.items.extend_from_within(old);
            for pair in pairs.chunks_exact(2) {
                let known = self.items.get(first..).unwrap_or_default();
                if known.iter().step_by(2).any(|key| {
                    self.str_of(*key).is_some()
                        && self.str_of(*key) == pair.first().and_then(|&key| self.str_of(key))
                }) {
                    self.odd("a dictionary has a key twice");
                }
                self.items.extend_from_slice(pair);
            }
            (
                u32::try_from(first).unwrap_or(u32::MAX),
                u32::try_from(count).unwrap_or(NOT_KEPT),
            )
        } else {
            (0, NOT_KEPT)
        };
        if let Value::Object(index) = target
            && let Some(object) = self.objects.get_mut(index as usize)
        {
            object.kind = Kind::Dict { start, pairs: kept };
        }
        Ok(())
    }

    pub(super) fn append(&mut self, parts: &[Value]) -> Result<(), Halt> {
        let target = self.top()?;
        for &part in parts {
            self.hand_on(part);
        }
        match (self.kind(target), target) {
            (Some(Kind::List { count }), Value::Object(index)) => {
                let count = count.saturating_add(u32::try_from(parts.len()).unwrap_or(u32::MAX));
                if let Some(object) = self.objects.get_mut(index as usize) {
                    object.kind = Kind::List { count };
                }
            }
            _ if self.flags(target) & FILL_LIST != 0 => {}
            _ => self.odd("something that is no list is filled like one"),
        }
        self.absorb(target, parts)
    }

    pub(super) fn build(&mut self) -> Result<(), Halt> {
        let state = self.pop()?;
        let target = self.top()?;
        let is_special = self.has_dunder_key(state, 1);
        self.hand_on(state);
        let Some(object) = self.object(target).copied() else {
            self.odd("a state is set on a value that has none");
            return Ok(());
        };
        if object.flags & BUILT != 0 {
            self.odd("a state is set twice on one object");
        }
        if let Value::Object(index) = target
            && let Some(object) = self.objects.get_mut(index as usize)
        {
            object.flags |= BUILT;
        }
        match object.kind {
            Kind::Instance { class } => {
                let class = Value::Object(class);
                if is_special {
                    let name = self.name_of(class);
                    self.find(
                        &ARGUMENTS,
                        format!("the state of a `{name}` replaces a special attribute"),
                    );
                }
                if !self.state_fits(class, state) {
                    let name = self.name_of(class);
                    self.find(
                        &ARGUMENTS,
                        format!("the state of a `{name}` is none that its library writes"),
                    );
                }
                self.absorb(target, &[state])?;
                if self.is_global(class, "joblib.numpy_pickle.NumpyArrayWrapper") {
                    return self.joblib_array(state);
                }
            }
            Kind::Dtype { .. } => self.build_dtype(target, state),
            Kind::Array => {
                if !self.array_fits(state) {
                    self.find(
                        &ARGUMENTS,
                        "the state of an array does not hold as many items as its shape says",
                    );
                }
                self.absorb(target, &[state])?;
            }
            Kind::Code | Kind::Opaque => {}
            Kind::Global { .. } if !is_special && self.class_is_code(target) => {}
            _ => self.odd("a state is set on something that is not an instance"),
        }
        Ok(())
    }
}
