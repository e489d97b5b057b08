//! Types and arrays of NumPy, and the bytes that joblib writes behind an object.

use super::opcodes::protocol_of;
use super::*;

impl Machine<'_, '_> {
    /// A type whose flags deny the objects in it makes raw bytes into pointers.
    pub(super) fn build_dtype(&mut self, target: Value, state: Value) {
        let objects = self.flags(target) & OBJECT_TYPE != 0;
        let parts = self.parts(state).unwrap_or_default();
        let good = match parts.as_slice() {
            [
                Value::Int(3 | 4),
                order,
                sub,
                names,
                _fields,
                item_bytes,
                _alignment,
                Value::Int(flags),
                ..,
            ] => {
                let nested = self.flags(state) & OBJECT_TYPE != 0;
                let structured = *sub != Value::None || *names != Value::None;
                if let (Value::Int(bytes), Value::Object(index)) = (item_bytes, target)
                    && *bytes >= 0
                    && let Ok(bytes) = u32::try_from(*bytes)
                    && let Some(object) = self.objects.get_mut(index as usize)
                {
                    object.kind = Kind::Dtype { item_bytes: bytes };
                }
                let flags_agree = if objects {
                    *flags == 63
                } else {
                    flags.trailing_zeros() >= 3
                };
                let is_order = self
                    .str_of(*order)
                    .is_some_and(|order| matches!(order, "<" | ">" | "|" | "="))
                    || *order == Value::Bytes;
                flags_agree && is_order && !(objects && structured) && !nested
            }
            _ => false,
        };
        if !good {
            self.find(
                &ARGUMENTS,
                "the state of a `numpy.dtype` is none that NumPy writes",
            );
        }
    }

    /// Passes over the bytes of an array, which follow the object that describes it.
    pub(super) fn joblib_array(&mut self, state: Value) -> Result<(), Halt> {
        if self.style != Style::Joblib {
            // Only joblib looks for bytes after this object; without them it is an odd but harmless instance.
            return Ok(());
        }
        if self.frame_end.is_some_and(|end| end != self.input.offset()) {
            self.odd("the bytes of an array lie within a frame");
        }
        self.frame_end = None;
        let class = self.entry(state, "subclass");
        let kind = self.entry(state, "dtype");
        let shape = self
            .entry(state, "shape")
            .and_then(|shape| self.shape(shape));
        let class_is_array = class.is_some_and(|class| {
            matches!(
                self.name_of(class).as_str(),
                "numpy.ndarray"
                    | "numpy.matrix"
                    | "numpy.memmap"
                    | "numpy.recarray"
                    | "numpy.rec.recarray"
            )
        });
        let described = match (kind.and_then(|kind| self.kind(kind)), shape) {
            (Some(Kind::Dtype { item_bytes }), Some(shape)) if class_is_array => {
                Some((item_bytes, shape))
            }
            _ => None,
        };
        let Some((item_bytes, shape)) = described else {
            return self.halt(
                &ARGUMENTS,
                "the description of an array is not complete, so that its bytes cannot be told from the program",
            );
        };
        let objects = kind.is_some_and(|kind| self.flags(kind) & OBJECT_TYPE != 0);
        self.outcome.arrays += 1;
        if objects {
            if self.nesting >= 8 {
                return self.halt(
                    &BOMB,
                    "arrays of objects are nested deeper than any model needs",
                );
            }
            let inner = run_nested(
                self.input,
                self.list,
                Style::Plain,
                self.budget,
                self.nesting + 1,
            )
            .map_err(Halt::Read)?;
            let finished = inner.finished;
            self.outcome.findings.extend(inner.findings);
            self.outcome.globals.extend(inner.globals);
            for (name, uses) in inner.uses {
                let known = self
                    .outcome
                    .uses
                    .entry(name)
                    .or_insert_with(|| uses.clone());
                if *known != uses {
                    known.push(' ');
                    known.push_str(&uses);
                }
            }
            if !finished {
                return Err(Halt::Told);
            }
        } else {
            if let Some(alignment) = self.entry(state, "numpy_array_alignment_bytes") {
                let Value::Int(1..=16) = alignment else {
                    return self.halt(
                        &ARGUMENTS,
                        "the alignment of an array is not a small number",
                    );
                };
                let padding = usize::from(self.byte()?);
                let clean = match self.input.take(padding) {
                    Ok(Some(bytes)) => bytes.iter().all(|&byte| byte == 0xff),
                    Ok(None) => return self.truncated(),
                    Err(error) => return Err(self.told(error)),
                };
                // Between 1 and 16, the byte is no opcode, so that no other reader goes on here.
                if padding == 0
                    || !clean
                    || !matches!(alignment, Value::Int(alignment) if padding as u64 <= alignment.unsigned_abs())
                {
                    self.odd("the padding before an array holds something");
                }
            }
            let bytes = shape
                .iter()
                .try_fold(u64::from(item_bytes), |bytes, &side| {
                    bytes.checked_mul(side)
                });
            let Some(bytes) = bytes else {
                return self.halt(&ARGUMENTS, "the shape of an array overflows");
            };
            // Before version 1.2, joblib wrote no padding, so that a plain unpickler takes the array for opcodes.
            if self.entry(state, "numpy_array_alignment_bytes").is_none()
                && bytes > 0
                && self.runs_as_program(bytes)?
            {
                self.odd("the bytes of an array follow without padding, and another reader takes them for opcodes");
            }
            self.skip(bytes)?;
            self.outcome.array_bytes = self.outcome.array_bytes.saturating_add(bytes);
        }
        self.pop()?;
        let made = self.make(Kind::Array, BUILT, 1, 1.0)?;
        self.push(made)
    }

    /// Whether a reader that knows nothing of joblib's arrays would do harm with the array of `bytes` bytes that follows.
    ///
    /// It is followed as far as it goes, also behind the array, where it reads the honest rest from the wrong place.
    pub(super) fn runs_as_program(&mut self, bytes: u64) -> Result<bool, Halt> {
        let first = match self.input.peek(1) {
            Ok(first) => first.first().copied().unwrap_or_default(),
            Err(error) => return Err(self.told(error)),
        };
        if protocol_of(first).is_none() {
            return Ok(false);
        }
        let end = self.input.offset().saturating_add(bytes);
        let window;
        let mut is_cut = false;
        let mut input = if let Some(input) = self.input.second() {
            input
        } else {
            let bytes = match self.input.peek(PLAIN_WINDOW) {
                Ok(bytes) => bytes,
                Err(error) => return Err(self.told(error)),
            };
            is_cut = bytes.len() >= PLAIN_WINDOW;
            let start = self.input.offset();
            window = Window { bytes, start };
            Input::file(&window, start)
        };
        let mut operations = std::mem::take(&mut self.plain_budget);
        let mut other = Machine::new(
            &mut input,
            self.list,
            Style::Plain,
            &mut operations,
            self.nesting,
        );
        other.protocol = self.protocol;
        other.stack.clone_from(&self.stack);
        other.marks.clone_from(&self.marks);
        other.memo.clone_from(&self.memo);
        other.memo_base = self.memo_base;
        other.objects.clone_from(&self.objects);
        other.items.clone_from(&self.items);
        other.texts.clone_from(&self.texts);
        other.text_bytes.clone_from(&self.text_bytes);
        other.known.clone_from(&self.known);
        other.imported.clone_from(&self.imported);
        let followed = other.follow();
        let does_harm = match followed {
            Ok(()) | Err(Halt::Told) => other.outcome.findings.iter().any(|(rule, offset, _)| {
                rule.verdict == Verdict::Unsafe
                    || (rule.verdict == Verdict::ContainsCode && *offset < end)
                    // A bound of ours that it met is none of that reader.
                    || rule.id == BOMB.id
                    || (is_cut && rule.id == TRUNCATED.id)
            }),
            // It goes on further than it is followed.
            Err(Halt::Read(_)) => true,
        };
        self.plain_budget = operations;
        Ok(does_harm)
    }
}

/// Width of an item and whether it is an object, for the codes that NumPy writes.
pub(super) fn dtype_bytes(code: &str) -> Option<(u32, bool)> {
    let code = code.trim_start_matches(['<', '>', '|', '=']);
    let mut characters = code.chars();
    let kind = characters.next()?;
    let digits = characters.as_str();
    let width: u32 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    match kind {
        'b' | 'i' | 'u' | 'f' | 'c' | 'M' | 'm' if width <= 32 => Some((width, false)),
        'S' | 'a' | 'V' => Some((width, false)),
        'U' => Some((width.checked_mul(4)?, false)),
        'O' => Some((8, true)),
        _ => None,
    }
}
