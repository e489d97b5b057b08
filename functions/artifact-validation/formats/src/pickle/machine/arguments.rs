//! Calls whose arguments decide whether they are harmless.

use super::calls::ZONE;
use super::{
    ARGUMENTS, CODE_TYPE, DUNDER_KEY, FILL_DICT, FILL_LIST, FILL_SET, Halt, Kind, Machine,
    OBJECT_TYPE, OWN_CODE, TEMPLATE_KEY, Use, Value,
};

impl Machine<'_, '_> {
    /// Calls whose arguments decide whether they are harmless.
    pub(super) fn checked_call(&mut self, callee: Value, arguments: Value) -> Result<Value, Halt> {
        let name = self
            .name_of(callee)
            .replace("__builtin__.", "builtins.")
            .replace("copy_reg.", "copyreg.")
            .replace("numpy.core.", "numpy._core.");
        let parts = self.parts(arguments).unwrap_or_default();
        let part = |index: usize| parts.get(index).copied();
        let (good, made) = match (name.as_str(), parts.as_slice()) {
            ("_codecs.encode", [text, encoding]) => (
                matches!(text, Value::Text(_)) && self.str_of(*encoding) == Some("latin1"),
                Value::Bytes,
            ),
            ("copyreg._reconstructor", [class, base, state]) => {
                let base = self.name_of(*base);
                let base = base
                    .trim_start_matches("__builtin__.")
                    .trim_start_matches("builtins.");
                let fits = match base {
                    "object" => *state == Value::None,
                    "dict" => matches!(self.kind(*state), Some(Kind::Dict { .. })),
                    "list" => matches!(self.kind(*state), Some(Kind::List { .. })),
                    "tuple" => matches!(self.kind(*state), Some(Kind::Tuple { .. })),
                    "set" | "frozenset" => matches!(
                        self.kind(*state),
                        Some(Kind::Set | Kind::FrozenSet | Kind::List { .. })
                    ),
                    "float" | "int" | "long" | "complex" => {
                        matches!(state, Value::Number | Value::Int(_) | Value::Bool(_))
                    }
                    "str" | "unicode" => matches!(state, Value::Text(_)),
                    "bytes" | "bytearray" => matches!(state, Value::Bytes),
                    _ => false,
                };
                let flags =
                    self.class_flags(*class) | (self.flags(*state) & (DUNDER_KEY | TEMPLATE_KEY));
                let made = if matches!(self.kind(*class), Some(Kind::Code))
                    || self.class_is_code(*class)
                {
                    self.make(Kind::Code, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?
                } else {
                    self.instance(*class, flags, &[*state])?
                };
                (
                    fits && (self.is_class(*class) || self.class_is_code(*class)),
                    made,
                )
            }
            // Both spellings of an argument-less container, and of one made of what was built just before.
            (
                "builtins.set" | "builtins.frozenset" | "builtins.bytearray" | "builtins.list"
                | "builtins.tuple" | "builtins.dict",
                [],
            ) => {
                let flags = FILL_DICT | FILL_LIST | FILL_SET;
                (true, self.make(Kind::Set, flags, 1, 1.0)?)
            }
            ("builtins.set" | "builtins.frozenset", [elements]) => {
                let good = matches!(
                    self.kind(*elements),
                    Some(Kind::List { .. } | Kind::Tuple { .. } | Kind::Set | Kind::FrozenSet)
                );
                let (depth, weight, _) = self.measure(&[*elements]);
                (good, self.make(Kind::Set, FILL_SET, depth, weight)?)
            }
            ("builtins.bytearray" | "builtins.bytes", [content]) => {
                (matches!(content, Value::Bytes), Value::Bytes)
            }
            ("builtins.bytearray" | "builtins.bytes", [content, encoding]) => (
                matches!(content, Value::Text(_)) && self.str_of(*encoding) == Some("latin-1"),
                Value::Bytes,
            ),
            ("builtins.bytes", []) => (true, Value::Bytes),
            ("builtins.range" | "builtins.xrange", _) => {
                (Self::range_fits(&parts), self.make(Kind::Range, 0, 1, 1.0)?)
            }
            ("builtins.slice", _) => {
                let numbers = parts.iter().all(|part| {
                    matches!(
                        part,
                        Value::Int(_) | Value::Number | Value::None | Value::Text(_)
                    )
                });
                (numbers, self.make(Kind::Range, 0, 1, 1.0)?)
            }
            ("builtins.complex", _) => (
                parts
                    .iter()
                    .all(|part| matches!(part, Value::Number | Value::Int(_))),
                Value::Number,
            ),
            // How code by value refers to what has no name of its own.
            ("builtins.getattr", [owner, attribute])
                if self.is_global(*owner, "builtins.object")
                    && self.str_of(*attribute) == Some("__new__") =>
            {
                self.find(
                    &OWN_CODE,
                    "mentions `object.__new__`, as code carried by value does",
                );
                (true, self.make(Kind::Method, 0, 1, 1.0)?)
            }
            // How protocols before 4 write a method by its path of names.
            ("builtins.getattr", [owner, attribute])
                if self.is_method(*owner, self.str_of(*attribute)) =>
            {
                (true, self.make(Kind::Method, 0, 1, 1.0)?)
            }
            // A method of texts, such as a tokenizer is; dill writes what it would evaluate.
            ("builtins.getattr", [owner, attribute]) if self.is_text_type(*owner) => {
                let is_known = self.str_of(*attribute).is_some_and(is_text_method);
                (is_known, self.make(Kind::Method, 0, 1, 1.0)?)
            }
            // How annotations of code by value are put together.
            ("operator.getitem" | "_operator.getitem", [generic, _]) => (
                self.name_of(*generic).starts_with("typing.")
                    && matches!(
                        self.kind(*generic),
                        Some(Kind::Global {
                            granted: Some(_),
                            ..
                        })
                    ),
                self.make(Kind::Range, 0, 1, 1.0)?,
            ),
            ("dill._dill._getattr", [owner, attribute, shown]) => {
                let is_known = self.is_text_type(*owner)
                    && self.str_of(*attribute).is_some_and(|attribute| {
                        is_text_method(attribute)
                            && self.str_of(*shown)
                                == Some(&format!("<method '{attribute}' of 'str' objects>"))
                    });
                (is_known, self.make(Kind::Method, 0, 1, 1.0)?)
            }
            ("builtins.getattr", [owner, attribute])
                if self.is_global(*owner, "zoneinfo.ZoneInfo")
                    && self.str_of(*attribute) == Some("_unpickle") =>
            {
                let (module, name) = (self.text(ZONE.0), self.text(ZONE.1));
                let granted = Some(Use::Check);
                let kind = Kind::Global {
                    module,
                    name,
                    granted,
                };
                (true, self.make(kind, 0, 1, 1.0)?)
            }
            ("zoneinfo.ZoneInfo._unpickle", [key, Value::Bool(_) | Value::Int(0 | 1)]) => {
                let is_key = self.str_of(*key).is_some_and(|key| {
                    key.starts_with(|first: char| first.is_ascii_alphabetic())
                        && key.bytes().all(|byte| {
                            byte.is_ascii_alphanumeric()
                                || matches!(byte, b'/' | b'_' | b'+' | b'-')
                        })
                });
                (is_key, self.make(Kind::Range, 0, 1, 1.0)?)
            }
            ("builtins.getattr", [owner, attribute]) => {
                // How SciPy's distributions refer to their own methods.
                let is_distribution = match self.kind(*owner) {
                    Some(Kind::Instance { class }) => {
                        let class = self.name_of(Value::Object(class));
                        class.starts_with("scipy.stats.")
                            && (class.ends_with("_gen") || class.contains(".rv_"))
                    }
                    _ => false,
                };
                let is_plain = self.str_of(*attribute).is_some_and(|attribute| {
                    !attribute.contains("__")
                        && attribute
                            .chars()
                            .all(|character| character.is_ascii_lowercase() || character == '_')
                });
                // What comes out is mentioned by the state of its owner, but never called while loading.
                (
                    is_distribution && is_plain,
                    self.make(Kind::Method, 0, 1, 1.0)?,
                )
            }
            ("builtins.getattr", [module, attribute, fallback])
                if self.is_global(*module, "dill._dill")
                    && self.str_of(*attribute) == Some("_setattr")
                    && self.is_global(*fallback, "builtins.setattr") =>
            {
                (true, *fallback)
            }
            ("types.MethodType", [function, owner]) => {
                let is_known = matches!(
                    self.kind(*function),
                    Some(Kind::Global {
                        granted: Some(Use::Data),
                        ..
                    })
                ) && matches!(self.kind(*owner), Some(Kind::Instance { .. }));
                let is_code = matches!(self.kind(*function), Some(Kind::Code));
                if is_known {
                    (true, self.make(Kind::Method, 0, 1, 1.0)?)
                } else {
                    self.carries_code = true;
                    self.find(&OWN_CODE, "binds a function that the pickle carries");
                    (is_code, self.make(Kind::Code, 0, 1, 1.0)?)
                }
            }
            ("dill._dill._eval_repr", [text]) => (
                // Anything else would be evaluated.
                matches!(self.str_of(*text), Some("Ellipsis" | "NotImplemented")),
                Value::Number,
            ),
            ("builtins.setattr", [owner, attribute, _]) => {
                // How dill fills the cells and classes that it carries by value.
                self.pop_is_free = true;
                let good = matches!(self.kind(*owner), Some(Kind::Code))
                    && matches!(attribute, Value::Text(_));
                (good, Value::None)
            }
            ("builtins.type", [Value::None]) => (true, self.make(Kind::Opaque, 0, 1, 1.0)?),
            ("collections.defaultdict", _) => {
                let good = match part(0) {
                    None | Some(Value::None) => true,
                    // Whose calls come with the first missing key, when the model is used.
                    Some(factory) if matches!(self.kind(factory), Some(Kind::Code)) => true,
                    Some(factory) => [
                        "builtins.list",
                        "builtins.dict",
                        "builtins.set",
                        "builtins.int",
                        "builtins.float",
                        "builtins.str",
                        "builtins.tuple",
                        "builtins.bool",
                        "__builtin__.list",
                        "__builtin__.dict",
                        "__builtin__.set",
                        "__builtin__.int",
                        "__builtin__.float",
                        "__builtin__.str",
                        "__builtin__.unicode",
                        "collections.OrderedDict",
                        "collections.Counter",
                        "collections.deque",
                    ]
                    .iter()
                    .any(|name| self.is_global(factory, name)),
                };
                (good, self.instance(callee, FILL_DICT, &parts)?)
            }
            (
                "numpy._core.multiarray._reconstruct" | "numpy._core.numeric._reconstruct",
                [subtype, shape, _],
            ) => {
                let subtype = self.name_of(*subtype);
                let good = matches!(
                    subtype.replace("numpy.core.", "numpy._core.").as_str(),
                    "numpy.ndarray"
                        | "numpy.matrix"
                        | "numpy.recarray"
                        | "numpy.matrixlib.defmatrix.matrix"
                        | "numpy.rec.recarray"
                        | "numpy._core.records.recarray"
                        | "numpy.chararray"
                ) && self
                    .parts(*shape)
                    .is_some_and(|shape| matches!(shape.as_slice(), [Value::Int(0)]));
                (good, self.make(Kind::Array, 0, 1, 1.0)?)
            }
            (
                "numpy.ma.core._mareconstruct" | "numpy.ma._mareconstruct",
                [subtype, base, shape, _],
            ) => {
                let good = self.name_of(*subtype) == "numpy.ma.MaskedArray"
                    || (self.name_of(*subtype) == "numpy.ma.core.MaskedArray"
                        && self.name_of(*base) == "numpy.ndarray");
                let small = self
                    .parts(*shape)
                    .is_some_and(|shape| matches!(shape.as_slice(), [Value::Int(0)]));
                (good && small, self.make(Kind::Array, 0, 1, 1.0)?)
            }
            (
                "numpy._core.numeric._frombuffer" | "numpy._core.multiarray._frombuffer",
                [content, kind, _, order],
            ) => {
                let has_objects = self.flags(*kind) & OBJECT_TYPE != 0;
                let good = matches!(self.kind(*kind), Some(Kind::Dtype { .. }))
                    && !has_objects
                    && matches!(content, Value::Bytes)
                    && matches!(order, Value::Text(_));
                (good, self.make(Kind::Array, 0, 1, 1.0)?)
            }
            ("numpy._core.multiarray.scalar", [kind, ..]) => {
                let objects = self.flags(*kind) & OBJECT_TYPE != 0;
                let good = matches!(self.kind(*kind), Some(Kind::Dtype { .. }))
                    && (objects
                        || part(1).is_none_or(|content| {
                            matches!(content, Value::Bytes | Value::Text(_))
                                || matches!(self.kind(content), Some(Kind::Array))
                        }));
                (good, Value::Number)
            }
            ("numpy.dtype", parts) => {
                let made = self.dtype(parts);
                let unknown = Kind::Dtype {
                    item_bytes: None,
                    is_flexible: false,
                };
                let good = made.is_some();
                let (kind, flags) = made.unwrap_or((unknown, OBJECT_TYPE));
                (good, self.make(kind, flags, 1, 1.0)?)
            }
            ("numpy._core._ufunc_reconstruct", [module, function]) => {
                let module = self.str_of(*module).unwrap_or("?").to_owned();
                let function = self.str_of(*function).unwrap_or("?").to_owned();
                let good = self.list.find(&module, &function) == Some(Use::Data);
                (good, self.make(Kind::Opaque, 0, 1, 1.0)?)
            }
            (
                "torch._utils._rebuild_tensor_v2"
                | "torch._utils._rebuild_tensor"
                | "torch._utils._rebuild_tensor_v3"
                | "torch._utils._rebuild_qtensor",
                [storage, offset, size, stride, ..],
            ) => {
                let good = self.rebuild(*storage, *offset, *size, *stride);
                (good, self.instance(callee, 0, &[])?)
            }
            ("torch._tensor._rebuild_from_type_v2", [function, class, inner, attributes]) => {
                let function_name = self.name_of(*function);
                let good = !self.has_dunder_key(*attributes, 1)
                    && function_name.starts_with("torch._utils._rebuild_")
                    && (self.is_class(*class) || self.is_global(*class, "torch.Tensor"))
                    && matches!(
                        self.kind(*function),
                        Some(Kind::Global {
                            granted: Some(Use::Check | Use::Call),
                            ..
                        })
                    );
                if good {
                    // The inner call is judged as if it stood alone.
                    let made = if self.list.find(
                        "torch._utils",
                        function_name.trim_start_matches("torch._utils."),
                    ) == Some(Use::Check)
                    {
                        self.checked_call(*function, *inner)?
                    } else {
                        self.instance(callee, 0, &[*inner])?
                    };
                    (true, made)
                } else {
                    (false, self.make(Kind::Opaque, 0, 1, 1.0)?)
                }
            }
            (
                "numpy.random._pickle.__randomstate_ctor"
                | "numpy.random._pickle.__generator_ctor"
                | "numpy.random._pickle.__bit_generator_ctor",
                parts,
            ) => {
                // These call what they are given, so that it must be one of their own.
                let is_own = |value: &Value| match self.kind(*value) {
                    Some(Kind::Global { .. } | Kind::Instance { .. }) => {
                        self.name_of(*value).starts_with("numpy.random.")
                    }
                    Some(_) => false,
                    None => matches!(value, Value::Text(_)),
                };
                let good = parts.iter().all(is_own);
                (good, self.instance(callee, 0, parts)?)
            }
            (
                "pandas.core.indexes.base._new_Index"
                | "pandas.core.indexes.datetimes._new_DatetimeIndex"
                | "pandas.core.indexes.period._new_PeriodIndex"
                | "pandas.core.indexes.interval._new_IntervalIndex",
                [class, _],
            ) => {
                let good = self.name_of(*class).starts_with("pandas.") && self.is_class(*class);
                (good, self.instance(callee, 0, &parts)?)
            }
            // How dill writes an array: the call that makes it, its arguments, its state, its attributes.
            ("dill._dill._create_array", [function, inner, state, _attributes]) => {
                let is_array = self
                    .name_of(*function)
                    .replace("numpy.core.", "numpy._core.")
                    .ends_with("._reconstruct");
                if is_array {
                    let made = self.checked_call(*function, *inner)?;
                    self.absorb(made, &[*state])?;
                    (matches!(self.kind(made), Some(Kind::Array)), made)
                } else {
                    (false, self.make(Kind::Opaque, 0, 1, 1.0)?)
                }
            }
            (
                "dill._dill._load_type"
                | "cloudpickle.cloudpickle._builtin_type"
                | "cloudpickle.cloudpickle_fast._builtin_type",
                [kind],
            ) => {
                let kind = self.str_of(*kind).unwrap_or("?").to_owned();
                let (module, kind) = if kind == "PartialType" {
                    ("functools", "partial")
                } else if kind == "MethodType" {
                    ("types", "MethodType")
                } else {
                    ("builtins", kind.as_str())
                };
                let is_code = matches!(
                    kind,
                    "CodeType"
                        | "FunctionType"
                        | "MethodType"
                        | "CellType"
                        | "ClassMethodType"
                        | "LambdaType"
                        | "MappingProxyType"
                );
                if let Some(granted) = self.list.find(module, kind) {
                    let (module, name) = (self.text(module), self.text(kind));
                    let granted = Some(granted);
                    (
                        true,
                        self.make(
                            Kind::Global {
                                module,
                                name,
                                granted,
                            },
                            0,
                            1,
                            1.0,
                        )?,
                    )
                } else {
                    self.carries_code = true;
                    self.find(&OWN_CODE, "makes a type for code that the pickle carries");
                    (is_code, self.make(Kind::Code, CODE_TYPE, 1, 1.0)?)
                }
            }
            ("dill._dill._create_namedtuple", [kind, _fields, module, ..]) => {
                let kind = self.str_of(*kind).unwrap_or("?").to_owned();
                let module = self.str_of(*module).unwrap_or("?").to_owned();
                let mut granted = self.list.find(&module, &kind);
                if module == "__main__" {
                    self.carries_code = true;
                    self.find(&OWN_CODE, "makes a class of named fields");
                    granted = Some(Use::Code);
                }
                let (module, name) = (self.text(&module), self.text(&kind));
                let made = self.make(
                    Kind::Global {
                        module,
                        name,
                        granted,
                    },
                    0,
                    1,
                    1.0,
                )?;
                (granted.is_some(), made)
            }
            (constructor, [class]) if constructor.ends_with(".newObj") => {
                let good = self.is_class(*class) && !matches!(self.kind(*class), Some(Kind::Code));
                (good, self.instance(*class, 0, &[])?)
            }
            (unpickle, [class, _, ..]) if unpickle.contains(".__pyx_unpickle_") => {
                let good = self.is_class(*class) && !matches!(self.kind(*class), Some(Kind::Code));
                (good, self.instance(*class, FILL_DICT, &parts)?)
            }
            ("scipy.sparse._dok._dok_base" | "joblib.numpy_pickle.NumpyArrayWrapper", _) => {
                (true, self.instance(callee, FILL_DICT, &parts)?)
            }
            _ => (
                false,
                self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?,
            ),
        };
        if !good {
            self.find(
                &ARGUMENTS,
                format!("calls `{name}` with arguments that its library never writes"),
            );
        }
        Ok(made)
    }

    fn is_text_type(&self, value: Value) -> bool {
        self.is_global(value, "builtins.str") || self.is_global(value, "__builtin__.unicode")
    }
}

/// Whether a method of texts does no more than take them apart or change their case.
fn is_text_method(name: &str) -> bool {
    matches!(
        name,
        "casefold"
            | "lower"
            | "lstrip"
            | "rsplit"
            | "rstrip"
            | "split"
            | "splitlines"
            | "strip"
            | "title"
            | "upper"
    )
}
