//! Types and arrays of NumPy, and the bytes that joblib writes behind an object.

use super::opcodes::protocol_of;
use super::{
    ARGUMENTS, BOMB, BUILT, Halt, Input, Kind, Machine, OBJECT_TYPE, PLAIN_WINDOW, Style,
    TRUNCATED, Value, Verdict, Window, run_nested,
};

impl Machine<'_, '_> {
    /// Makes a type out of the arguments of `numpy.dtype`; `None` if NumPy writes no such call.
    pub(super) fn dtype(&self, parts: &[Value]) -> Option<(Kind, u16)> {
        let (code, options) = parts.split_first()?;
        let is_plain = options.len() <= 2
            && options
                .iter()
                .all(|option| matches!(option, Value::Bool(_) | Value::Int(0 | 1)));
        if !is_plain {
            return None;
        }
        let written = match self.kind(*code) {
            // A type by its class; NumPy itself always writes codes.
            Some(Kind::Global {
                granted: Some(_), ..
            }) => {
                if let Some(written) = scalar_code(&self.name_of(*code)) {
                    written
                } else {
                    let kind = Kind::Dtype {
                        item_bytes: None,
                        is_flexible: false,
                    };
                    return Some((kind, 0));
                }
            }
            _ => self.str_of(*code)?,
        };
        let code = type_code(written)?;
        let kind = Kind::Dtype {
            item_bytes: Some(code.item_bytes),
            is_flexible: code.is_flexible,
        };
        Some((kind, if code.has_objects { OBJECT_TYPE } else { 0 }))
    }

    /// Holds the state of a type against the type.
    ///
    /// NumPy believes the state: flags that deny objects make raw bytes into pointers, fields beyond the item read
    /// foreign memory, and a width that NumPy ignores would make a reader of ours pass over a program.
    pub(super) fn build_dtype(&mut self, target: Value, state: Value) {
        if !self.dtype_fits(target, state) {
            self.find(
                &ARGUMENTS,
                "the state of a `numpy.dtype` is none that NumPy writes",
            );
        }
    }

    fn dtype_fits(&self, target: Value, state: Value) -> bool {
        let Some(Kind::Dtype {
            item_bytes,
            is_flexible,
        }) = self.kind(target)
        else {
            return false;
        };
        let parts = self.parts(state).unwrap_or_default();
        let &[
            Value::Int(3 | 4),
            order,
            sub,
            names,
            fields,
            Value::Int(width),
            Value::Int(_),
            Value::Int(flags),
            ..,
        ] = parts.as_slice()
        else {
            return false;
        };
        let has_objects = self.flags(target) & OBJECT_TYPE != 0;
        let is_order = self
            .str_of(order)
            .is_some_and(|order| matches!(order, "<" | ">" | "|" | "="))
            || order == Value::Bytes;
        let flags_agree = if has_objects {
            flags == 63
        } else {
            flags.trailing_zeros() >= 3
        };
        // Types with objects among their fields are left out: nothing tells their objects from other bytes.
        let has_hidden_objects = self.flags(state) & OBJECT_TYPE != 0;
        if !is_order || !flags_agree || has_hidden_objects {
            return false;
        }
        if !is_flexible {
            return width == -1
                && sub == Value::None
                && names == Value::None
                && fields == Value::None;
        }
        let Some(item_bytes) = item_bytes.filter(|bytes| i64::from(*bytes) == width) else {
            return false;
        };
        match (sub, names) {
            (Value::None, Value::None) => fields == Value::None,
            (Value::None, _) => self.fields_fit(names, fields, item_bytes),
            (_, Value::None) => fields == Value::None && self.sub_fits(sub, item_bytes),
            _ => false,
        }
    }

    /// Whether every field lies within the item.
    fn fields_fit(&self, names: Value, fields: Value, item_bytes: u32) -> bool {
        let (Some(Kind::Tuple { .. }), Some(Kind::Dict { start, pairs })) =
            (self.kind(names), self.kind(fields))
        else {
            return false;
        };
        let end = (start as usize).saturating_add((pairs as usize).saturating_mul(2));
        let Some(pairs) = self.items.get(start as usize..end) else {
            return false;
        };
        let fits = |value: Value| {
            let parts = self.parts(value).unwrap_or_default();
            let (&[kind, Value::Int(offset)] | &[kind, Value::Int(offset), _]) = parts.as_slice()
            else {
                return false;
            };
            match (self.kind(kind), u32::try_from(offset)) {
                (
                    Some(Kind::Dtype {
                        item_bytes: Some(bytes),
                        ..
                    }),
                    Ok(offset),
                ) => offset
                    .checked_add(bytes)
                    .is_some_and(|end| end <= item_bytes),
                _ => false,
            }
        };
        let are_known = self.parts(names).is_none_or(|names| {
            names.iter().all(|name| {
                let name = self.str_of(*name);
                name.is_some()
                    && pairs
                        .chunks_exact(2)
                        .any(|pair| pair.first().is_some_and(|&key| self.str_of(key) == name))
            })
        });
        are_known
            && pairs
                .chunks_exact(2)
                .all(|pair| pair.get(1).is_some_and(|&value| fits(value)))
    }

    /// Whether the parts of an item make up the item.
    fn sub_fits(&self, sub: Value, item_bytes: u32) -> bool {
        let parts = self.parts(sub).unwrap_or_default();
        let &[kind, shape] = parts.as_slice() else {
            return false;
        };
        let sides = match shape {
            Value::Int(side) => u64::try_from(side).ok().map(|side| vec![side]),
            _ => self.shape(shape),
        };
        match (self.kind(kind), sides) {
            (
                Some(Kind::Dtype {
                    item_bytes: Some(bytes),
                    ..
                }),
                Some(sides),
            ) => {
                product(&sides).and_then(|count| count.checked_mul(bytes.into()))
                    == Some(item_bytes.into())
            }
            _ => false,
        }
    }

    /// Holds the state of an array against its shape: NumPy reads as many objects as the shape says, whether the list
    /// has them or not, and makes room for them first.
    pub(super) fn array_fits(&self, state: Value) -> bool {
        let parts = self.parts(state).unwrap_or_default();
        let (&[Value::Int(_), shape, kind, _, data]
        | &[Value::Int(_), shape, kind, _, data, _, _]
        | &[shape, kind, _, data]) = parts.as_slice()
        else {
            return false;
        };
        let Some(count) = self.shape(shape).as_deref().and_then(product) else {
            return false;
        };
        let has_objects = self.flags(kind) & OBJECT_TYPE != 0;
        let is_type = matches!(
            self.kind(kind),
            Some(Kind::Dtype { .. } | Kind::Instance { .. })
        );
        let holds_it = match (self.kind(data), data) {
            (Some(Kind::List { count: given }), _) => u64::from(given) == count,
            (_, Value::Bytes | Value::Text(_)) => !has_objects,
            _ => false,
        };
        is_type && holds_it
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
            (
                Some(Kind::Dtype {
                    item_bytes: Some(item_bytes),
                    ..
                }),
                Some(shape),
            ) if class_is_array => Some((item_bytes, shape)),
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
        other.is_other_reader = true;
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

/// The number of items of a shape.
fn product(sides: &[u64]) -> Option<u64> {
    sides
        .iter()
        .try_fold(1_u64, |count, &side| count.checked_mul(side))
}

/// What the code of a type says.
struct TypeCode {
    item_bytes: u32,
    is_flexible: bool,
    has_objects: bool,
}

/// Reads the code of a type in the form that NumPy writes: one letter and the width, which is never left out.
fn type_code(code: &str) -> Option<TypeCode> {
    let code = code.strip_prefix(['<', '>', '|', '=']).unwrap_or(code);
    let mut characters = code.chars();
    let kind = characters.next()?;
    let digits = characters.as_str();
    if digits.is_empty() || digits.len() > 10 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let width: u32 = digits.parse().ok()?;
    let is_known = match kind {
        'b' => width == 1,
        'i' | 'u' => matches!(width, 1 | 2 | 4 | 8),
        'f' => matches!(width, 2 | 4 | 8 | 10 | 12 | 16),
        'c' => matches!(width, 8 | 16 | 20 | 24 | 32),
        'M' | 'm' => width == 8,
        'O' => matches!(width, 4 | 8),
        'S' | 'a' | 'V' | 'U' => true,
        _ => false,
    };
    let item_bytes = match kind {
        'U' => width.checked_mul(4)?,
        // Objects are pointers of the machine that reads.
        'O' => 8,
        _ => width,
    };
    is_known.then_some(TypeCode {
        item_bytes,
        is_flexible: matches!(kind, 'S' | 'a' | 'V' | 'U'),
        has_objects: kind == 'O',
    })
}

/// The code of a scalar type of NumPy.
fn scalar_code(name: &str) -> Option<&'static str> {
    Some(match name {
        "numpy.bool" | "numpy.bool_" | "builtins.bool" => "b1",
        "numpy.int8" => "i1",
        "numpy.int16" => "i2",
        "numpy.int32" => "i4",
        "numpy.int64" => "i8",
        "numpy.uint8" => "u1",
        "numpy.uint16" => "u2",
        "numpy.uint32" => "u4",
        "numpy.uint64" => "u8",
        "numpy.float16" => "f2",
        "numpy.float32" => "f4",
        "numpy.float64" | "builtins.float" => "f8",
        "numpy.complex64" => "c8",
        "numpy.complex128" => "c16",
        "numpy.object_" | "builtins.object" => "O8",
        _ => return None,
    })
}
