//! Storages and tensors of PyTorch.

use super::{Halt, Kind, Machine, PERSISTENT_ID, Storage, Style, Use, Value};

/// Most shapes that are told.
pub(crate) const MOST_SHAPES: usize = 50;

impl Machine<'_, '_> {
    /// Holds a tensor's view against the storage that it is a view of.
    pub(super) fn rebuild(
        &mut self,
        storage: Value,
        offset: Value,
        size: Value,
        stride: Value,
    ) -> bool {
        let Some(Kind::Storage { elements }) = self.kind(storage) else {
            return false;
        };
        let (Value::Int(offset), Some(size), Some(stride)) =
            (offset, self.shape(size), self.shape(stride))
        else {
            return false;
        };
        let Ok(offset) = u64::try_from(offset) else {
            return false;
        };
        if size.len() != stride.len() {
            return false;
        }
        let Some(count) = size
            .iter()
            .try_fold(1_u64, |count, &side| count.checked_mul(side))
        else {
            return false;
        };
        let last = size
            .iter()
            .zip(&stride)
            .try_fold(offset, |last, (&side, &step)| {
                last.checked_add(side.saturating_sub(1).checked_mul(step)?)
            });
        self.outcome.tensors += 1;
        self.outcome.parameters = self.outcome.parameters.saturating_add(count);
        if self.outcome.shapes.len() < MOST_SHAPES {
            self.outcome.shapes.push(size);
        }
        match last {
            Some(last) => count == 0 || last < elements,
            None => false,
        }
    }

    pub(super) fn shape(&self, value: Value) -> Option<Vec<u64>> {
        let parts = match self.kind(value)? {
            Kind::Tuple { .. } => self.parts(value)?,
            // `torch.Size` is a tuple in a wrapper.
            Kind::Instance { class } if self.name_of(Value::Object(class)) == "torch.Size" => {
                return None;
            }
            _ => return None,
        };
        parts
            .into_iter()
            .map(|part| match part {
                Value::Int(side) => u64::try_from(side).ok(),
                _ => None,
            })
            .collect()
    }

    pub(super) fn persistent(&mut self) -> Result<(), Halt> {
        let id = self.pop()?;
        let made = if matches!(self.style, Style::Torch | Style::TorchScript) {
            self.storage(id)
        } else {
            None
        };
        let made = if let Some(class) = self.legacy_class(id) {
            class
        } else if let Some(elements) = made {
            self.make(Kind::Storage { elements }, 0, 1, 1.0)?
        } else {
            self.find(
                &PERSISTENT_ID,
                "a persistent id is not that of a tensor's storage",
            );
            self.make(Kind::Opaque, 0, 1, 1.0)?
        };
        self.push(made)
    }

    /// The class that a legacy file of PyTorch names with its source, which is compared and never run.
    pub(super) fn legacy_class(&self, id: Value) -> Option<Value> {
        if self.style != Style::Torch {
            return None;
        }
        let parts = self.parts(id)?;
        match parts.as_slice() {
            [tag, class, _, _]
                if self.str_of(*tag) == Some("module")
                    && matches!(self.kind(*class), Some(Kind::Global { .. })) =>
            {
                Some(*class)
            }
            _ => None,
        }
    }

    pub(super) fn storage(&mut self, id: Value) -> Option<u64> {
        let parts = self.parts(id)?;
        let [tag, class, key, location, Value::Int(elements), rest @ ..] = parts.as_slice() else {
            return None;
        };
        // Legacy files add a view, which is always absent since storages can be shared in full.
        if !matches!(rest, [] | [Value::None]) || self.str_of(*tag) != Some("storage") {
            return None;
        }
        let Some(Kind::Global {
            granted: Some(Use::Storage),
            name,
            ..
        }) = self.kind(*class)
        else {
            return None;
        };
        let kind = self.text_of(name)?.to_owned();
        let key = self.str_of(*key)?.to_owned();
        let place = self.str_of(*location)?;
        if place.len() > 32 || key.len() > 64 {
            return None;
        }
        let elements = u64::try_from(*elements).ok()?;
        let bytes = elements.checked_mul(storage_item_bytes(&kind)?)?;
        let storage = Storage {
            key: key.clone(),
            bytes,
            elements,
            kind,
        };
        match self.outcome.storages.get(&key) {
            Some(known) if *known != storage => return None,
            Some(_) => {}
            None => {
                if self.outcome.storages.len() >= 256 * 1024 {
                    return None;
                }
                self.outcome.storages.insert(key, storage);
            }
        }
        Some(elements)
    }
}

/// Width of an item of a storage.
pub(super) fn storage_item_bytes(kind: &str) -> Option<u64> {
    Some(match kind {
        "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
        "ComplexDoubleStorage" => 16,
        "FloatStorage" | "IntStorage" | "QInt32Storage" => 4,
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
        "CharStorage" | "ByteStorage" | "BoolStorage" | "QInt8Storage" | "QUInt8Storage"
        | "QUInt4x2Storage" | "QUInt2x4Storage" | "UntypedStorage" => 1,
        _ => return None,
    })
}
