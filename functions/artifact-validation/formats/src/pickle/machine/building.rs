//! Containers that are filled, and objects that get their state.

use super::*;

impl Machine<'_, '_> {
    pub(super) fn set_items(&mut self, pairs: &[Value]) -> Result<(), Halt> {
        self.pop_is_free = self.carries_code;
        let target = self.top()?;
        if !pairs.len().is_multiple_of(2) {
            self.odd("a dictionary is filled with a key without a value");
        }
        let dunder = pairs.iter().step_by(2).any(|&key| self.is_dunder(key));
        let mut record = None;
        match self.kind(target) {
            Some(Kind::Dict { pairs: 0, .. }) => {
                // Of small dictionaries with a known key first, rules may ask the values.
                let asks = pairs
                    .first()
                    .is_some_and(|&key| matches!(self.str_of(key), Some("subclass")));
                if asks && pairs.len() <= 16 && self.items.len() + pairs.len() <= MAX_ITEMS {
                    record = Some(u32::try_from(self.items.len()).unwrap_or(u32::MAX));
                    self.items.extend_from_slice(pairs);
                }
            }
            Some(Kind::Dict { .. }) => {}
            Some(_) if self.flags(target) & FILL_DICT != 0 => {}
            _ => self.odd("something that is no dictionary is filled like one"),
        }
        if let Value::Object(index) = target
            && let Some(object) = self.objects.get_mut(index as usize)
        {
            if dunder {
                object.flags |= DUNDER_KEY;
            }
            if let Kind::Dict {
                start,
                pairs: count,
            } = &mut object.kind
            {
                if let Some(record) = record {
                    *start = record;
                    *count = u32::try_from(pairs.len() / 2).unwrap_or(u32::MAX);
                } else if *count != 0 {
                    // Filled a second time; later values could hide behind the recorded ones.
                    *count = u32::MAX;
                }
            }
        }
        self.absorb(target, pairs)
    }

    pub(super) fn append(&mut self, parts: &[Value]) -> Result<(), Halt> {
        let target = self.top()?;
        let good =
            matches!(self.kind(target), Some(Kind::List)) || self.flags(target) & FILL_LIST != 0;
        if !good {
            self.odd("something that is no list is filled like one");
        }
        self.absorb(target, parts)
    }

    pub(super) fn build(&mut self) -> Result<(), Halt> {
        let state = self.pop()?;
        let target = self.top()?;
        let mut state_flags = self.flags(state);
        if let Some(parts) = self.parts(state) {
            for part in parts {
                state_flags |= self.flags(part) & DUNDER_KEY;
            }
        }
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
                if state_flags & DUNDER_KEY != 0 {
                    let name = self.name_of(class);
                    self.find(
                        &ARGUMENTS,
                        format!("the state of a `{name}` replaces a special attribute"),
                    );
                }
                self.absorb(target, &[state])?;
                if self.is_global(class, "joblib.numpy_pickle.NumpyArrayWrapper") {
                    return self.joblib_array(state);
                }
            }
            Kind::Dtype { .. } => self.build_dtype(target, state),
            Kind::Array => self.absorb(target, &[state])?,
            Kind::Code | Kind::Opaque => {}
            Kind::Global { .. } if state_flags & DUNDER_KEY == 0 && self.class_is_code(target) => {}
            _ => self.odd("a state is set on something that is not an instance"),
        }
        Ok(())
    }
}
