//! Imports, instances and calls.

use super::{
    ARGUMENTS, CODE_CLASS, CODE_MODULE, CODE_TYPE, DUNDER_KEY, FILL_DICT, FILL_LIST, FILL_SET,
    GLOBAL, Halt, Kind, Machine, OWN_CODE, RUNS_OWN_CODE, Style, TEXT_DUNDER, Use, Value,
};

impl Machine<'_, '_> {
    pub(super) fn import(&mut self, module: u32, name: u32) -> Result<(), Halt> {
        if let Some(&index) = self.imported.get(&(module, name)) {
            return self.push(Value::Object(index));
        }
        let module_text = self.text_of(module).unwrap_or("(a long text)").to_owned();
        let name_text = self.text_of(name).unwrap_or("(a long text)").to_owned();
        let mut granted = self.list.find(&module_text, &name_text);
        let full = format!("{module_text}.{name_text}");
        if granted.is_none() {
            if METHODS.contains(&(module_text.as_str(), name_text.as_str()))
                || self.is_entropy(&module_text, &name_text)
            {
                granted = Some(Use::Data);
            } else if (module_text.as_str(), name_text.as_str()) == ZONE {
                granted = Some(Use::Check);
            } else if is_enum_method(&module_text, &name_text) {
                granted = Some(Use::Mention);
            }
            // A name of the script that wrote the pickle: honest, but it must come from somewhere.
            let is_plain = name_text.starts_with(|first: char| first.is_ascii_alphabetic())
                && name_text
                    .chars()
                    .all(|character| character.is_ascii_alphanumeric() || character == '_');
            if (module_text == "__main__" && is_plain)
                || is_main_namespace(&module_text, &name_text)
            {
                granted = Some(Use::Code);
            }
            // Classes that a TorchScript archive defines itself; they are no Python.
            if self.style == Style::TorchScript
                && (module_text == "__torch__" || module_text.starts_with("__torch__."))
            {
                granted = Some(Use::Class);
            }
        }
        match granted {
            None => {
                if !is_importable(&module_text, &name_text) {
                    self.fails()?;
                }
                let shown: String = full.chars().take(120).collect();
                self.find(&GLOBAL, format!("imports `{}`", shown.escape_debug()));
            }
            Some(Use::Code) => {
                self.carries_code = true;
                self.find(&OWN_CODE, format!("imports `{full}`"));
            }
            Some(Use::Mention) => {
                self.find(
                    &OWN_CODE,
                    format!("mentions `{full}`, as code carried by value does"),
                );
            }
            Some(_) => {}
        }
        if self.outcome.globals.len() < 1000 {
            let name: String = full.chars().take(200).collect();
            let word = granted.map_or("refused", Use::word);
            self.outcome
                .uses
                .entry(name.clone())
                .or_insert_with(|| word.to_owned());
            self.outcome.globals.insert(name);
        }
        self.opens_files |= full == "numpy.memmap";
        let value = self.make(
            Kind::Global {
                module,
                name,
                granted,
            },
            0,
            1,
            1.0,
        )?;
        if let Value::Object(index) = value
            && module > TEXT_DUNDER
            && name > TEXT_DUNDER
        {
            self.imported.insert((module, name), index);
        }
        self.push(value)
    }

    /// Notes how a refused name is used.
    pub(super) fn used(&mut self, value: Value, how: &str) {
        let name: String = self.name_of(value).chars().take(200).collect();
        if let Some(uses) = self.outcome.uses.get_mut(&name)
            && !uses.contains(how)
        {
            uses.push(' ');
            uses.push_str(how);
        }
    }

    pub(super) fn instance(
        &mut self,
        class: Value,
        flags: u16,
        parts: &[Value],
    ) -> Result<Value, Halt> {
        let (depth, weight, _) = self.measure(parts);
        let class = match class {
            Value::Object(index) => index,
            _ => u32::MAX,
        };
        self.make(Kind::Instance { class }, flags, depth, weight)
    }

    /// Makes an instance without running its initializer.
    pub(super) fn instantiate(
        &mut self,
        class: Value,
        arguments: Value,
        named: Option<Value>,
    ) -> Result<(), Halt> {
        self.outcome.calls += 1;
        let parts = [arguments, named.unwrap_or(Value::None)];
        if let Some(Kind::Global {
            granted: Some(Use::Call | Use::DictCall | Use::ListCall),
            ..
        }) = self.kind(class)
        {
            self.bound(class, arguments);
        }
        self.hand_on(arguments);
        if named.is_some_and(|named| !matches!(self.kind(named), Some(Kind::Dict { .. }))) {
            self.odd("the named arguments of an instance are not a dictionary");
        }
        let made = match self.kind(class) {
            Some(Kind::Global {
                granted: Some(granted),
                ..
            }) => match granted {
                Use::Class | Use::Call => self.instance(class, 0, &parts)?,
                Use::DictClass | Use::DictCall => self.instance(class, FILL_DICT, &parts)?,
                Use::ListClass | Use::ListCall => self.instance(class, FILL_LIST, &parts)?,
                Use::Code => self.make(Kind::Code, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?,
                Use::Data | Use::Mention | Use::Check | Use::Storage => {
                    let name = self.name_of(class);
                    self.find(
                        &ARGUMENTS,
                        format!("makes an instance of `{name}`, which is not a plain class"),
                    );
                    self.make(Kind::Opaque, 0, 1, 1.0)?
                }
            },
            Some(Kind::Code) => self.make(Kind::Code, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?,
            // As if it were a plain class, so that the rest can be judged again once the list has it.
            Some(Kind::Global { granted: None, .. }) => {
                self.used(class, "instance");
                self.instance(class, 0, &[arguments])?
            }
            Some(Kind::Opaque) => {
                self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?
            }
            _ => {
                self.fails()?;
                self.find(
                    &ARGUMENTS,
                    "makes an instance of something that is not an imported class",
                );
                self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?
            }
        };
        self.push(made)
    }

    pub(super) fn call(&mut self) -> Result<(), Halt> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        self.outcome.calls += 1;
        if !matches!(self.kind(arguments), Some(Kind::Tuple { .. })) {
            self.odd("a call's arguments are not a tuple");
        }
        if self.has_dunder_key(arguments, 3) && self.name_of(callee).starts_with("torch.") {
            self.find(
                &ARGUMENTS,
                "the state of a tensor replaces a special attribute",
            );
        }
        let made = match self.kind(callee) {
            Some(Kind::Global {
                granted: Some(granted),
                ..
            }) => match granted {
                Use::Call => {
                    self.bound(callee, arguments);
                    self.instance(callee, 0, &[arguments])?
                }
                Use::DictCall => {
                    self.bound(callee, arguments);
                    // Keys that come in with the call are not seen one by one.
                    let is_filled = self.parts(arguments).is_none_or(|parts| !parts.is_empty());
                    let keys = if is_filled { DUNDER_KEY } else { 0 };
                    self.instance(callee, FILL_DICT | keys, &[arguments])?
                }
                Use::ListCall => {
                    self.bound(callee, arguments);
                    self.instance(callee, FILL_LIST, &[arguments])?
                }
                Use::Code => {
                    self.pop_is_free = true;
                    let name = self.name_of(callee);
                    if name.starts_with("__main__.") && !self.is_member(&name, arguments) {
                        let name = self.name_of(callee);
                        self.find(&RUNS_OWN_CODE, format!("calls `{name}` while loading"));
                    }
                    if !self.code_call_fits(&name, arguments) {
                        self.find(
                            &RUNS_OWN_CODE,
                            format!("gives `{name}` something that it runs while loading"),
                        );
                    }
                    let kind = match name.rsplit('.').next().unwrap_or_default() {
                        // A member of an enumeration that is carried by value is looked up by a call.
                        "_make_skeleton_enum" => CODE_TYPE | CODE_CLASS,
                        "_make_skeleton_class" | "_create_type" => CODE_CLASS,
                        "subimport" | "dynamic_subimport" => CODE_MODULE,
                        _ => 0,
                    };
                    self.make(Kind::Code, FILL_DICT | FILL_LIST | FILL_SET | kind, 1, 1.0)?
                }
                Use::Check => self.checked_call(callee, arguments)?,
                Use::Class
                | Use::DictClass
                | Use::ListClass
                | Use::Data
                | Use::Mention
                | Use::Storage => {
                    let name = self.name_of(callee);
                    self.find(
                        &ARGUMENTS,
                        format!("calls `{name}`, which may be mentioned but not called"),
                    );
                    self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?
                }
            },
            Some(Kind::Code) if self.flags(callee) & CODE_TYPE != 0 => {
                self.make(Kind::Code, 0, 1, 1.0)?
            }
            Some(Kind::Code) => {
                self.find(
                    &RUNS_OWN_CODE,
                    "calls, while loading, a function that the pickle itself brings",
                );
                self.make(Kind::Code, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?
            }
            Some(Kind::Global { granted: None, .. }) => {
                self.used(callee, "call");
                self.instance(callee, 0, &[arguments])?
            }
            Some(Kind::Opaque) => {
                self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?
            }
            _ => {
                self.fails()?;
                self.find(&ARGUMENTS, "calls a value that is not an imported name");
                self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?
            }
        };
        self.push(made)
    }

    /// Tells arguments that a call of the allow-list must not get.
    fn bound(&mut self, class: Value, arguments: Value) {
        if !self.call_fits(class, arguments) {
            let name = self.name_of(class);
            self.find(
                &ARGUMENTS,
                format!("calls `{name}` with arguments that its library never writes"),
            );
        }
    }

    /// Whether a call looks up a member of an enumeration by its value.
    pub(super) fn is_member(&self, name: &str, arguments: Value) -> bool {
        let is_type = name
            .trim_start_matches("__main__.")
            .starts_with(|first: char| first.is_ascii_uppercase());
        is_type
            && matches!(
                self.parts(arguments).as_deref(),
                Some([Value::Int(_) | Value::Number | Value::Bool(_) | Value::Text(_)])
            )
    }

    pub(super) fn is_class(&self, value: Value) -> bool {
        match self.kind(value) {
            Some(Kind::Global { granted, .. }) => matches!(
                granted,
                Some(
                    Use::Class
                        | Use::DictClass
                        | Use::ListClass
                        | Use::Call
                        | Use::DictCall
                        | Use::ListCall
                )
            ),
            Some(Kind::Code) => true,
            _ => false,
        }
    }

    pub(super) fn class_flags(&self, class: Value) -> u16 {
        match self.kind(class) {
            Some(Kind::Global { granted, .. }) => match granted {
                Some(Use::DictClass | Use::DictCall) => FILL_DICT,
                Some(Use::ListClass | Use::ListCall) => FILL_LIST,
                _ => 0,
            },
            Some(Kind::Code) => FILL_DICT | FILL_LIST | FILL_SET,
            _ => 0,
        }
    }

    pub(super) fn class_is_code(&self, value: Value) -> bool {
        matches!(
            self.kind(value),
            Some(Kind::Global {
                granted: Some(Use::Code),
                ..
            })
        )
    }

    /// Whether the name is the method that distributions of `SciPy` keep as a function.
    fn is_entropy(&self, module: &str, name: &str) -> bool {
        module.starts_with("scipy.stats.")
            && name
                .strip_suffix("._entropy")
                .is_some_and(|class| matches!(self.list.find(module, class), Some(Use::Class)))
    }

    /// Whether `owner` is a class, and `attribute` one of its methods in [`METHODS`].
    pub(super) fn is_method(&self, owner: Value, attribute: Option<&str>) -> bool {
        let Some(attribute) = attribute else {
            return false;
        };
        METHODS.iter().any(|(module, path)| {
            path.split_once('.').is_some_and(|(class, method)| {
                method == attribute && self.is_global(owner, &format!("{module}.{class}"))
            })
        })
    }
}

/// How the time zones of Python are made again, from their keys.
pub(super) const ZONE: (&str, &str) = ("zoneinfo", "ZoneInfo._unpickle");

/// Methods and functions by a path of names, as only newer protocols can write it: mentioned, never called.
pub(super) const METHODS: &[(&str, &str)] = &[
    ("scipy.interpolate._interpolate", "interp1d._call_linear"),
    ("scipy.interpolate._interpolate", "interp1d._call_linear_np"),
    (
        "scipy.interpolate._interpolate",
        "interp1d._call_nan_spline",
    ),
    ("scipy.interpolate._interpolate", "interp1d._call_nearest"),
    (
        "scipy.interpolate._interpolate",
        "interp1d._call_previousnext",
    ),
    ("scipy.interpolate._interpolate", "interp1d._call_spline"),
];

/// Whether a name is allowed by what it looks like rather than by the list.
pub(crate) fn is_by_pattern(full: &str) -> bool {
    full.starts_with("__main__.")
        || full.starts_with("__torch__.")
        || full == "__builtin__.__main__"
        || full
            .split_once('.')
            .is_some_and(|(module, name)| is_enum_method(module, name))
        || full == "zoneinfo.ZoneInfo._unpickle"
        || (full.starts_with("scipy.stats.") && full.ends_with("._entropy"))
        || METHODS.iter().any(|(module, name)| {
            full.strip_prefix(module)
                .and_then(|rest| rest.strip_prefix('.'))
                == Some(name)
        })
}

/// Whether the name stands for all names of the script, as dill writes it for functions that refer to them.
pub(super) fn is_main_namespace(module: &str, name: &str) -> bool {
    matches!(
        (module, name),
        ("__builtin__", "__main__") | ("__main__", "__dict__")
    )
}

/// Whether Python can import the name at all: bytes by chance are none.
fn is_importable(module: &str, name: &str) -> bool {
    let is_name = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '-'))
    };
    module.split('.').all(is_name) && name.split('.').all(is_name)
}

/// Whether the name is a method that enumerations by value take over from their base.
fn is_enum_method(module: &str, name: &str) -> bool {
    module == "enum"
        && matches!(
            name.split_once('.'),
            Some((
                "Enum" | "Flag" | "IntEnum" | "IntFlag" | "ReprEnum" | "StrEnum",
                "__dir__"
                    | "__format__"
                    | "__hash__"
                    | "__new__"
                    | "__repr__"
                    | "__str__"
                    | "_generate_next_value_"
            ))
        )
}
