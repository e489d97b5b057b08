//! States that loading hands to code, although the class that takes them is harmless.
//!
//! A class of the allow-list sets its state with code of its own, which runs some attributes and calls methods of
//! others; those attributes may only hold what the library writes into them.

use super::{
    ARGUMENTS, BOMB, DUNDER_KEY, Halt, Kind, Machine, TEMPLATE_KEY, TEXT_TEMPLATE, Use, Value,
};

/// Names of attributes that have rules; every machine keeps their texts first, in this order.
///
/// The first three have rules of their own; the others are methods that loaders call on what a state holds, so that a
/// function under their name would be called while loading.
pub(super) const GUARDED: [&str; 44] = [
    "subclass",
    TEMPLATE_ATTRIBUTE,
    "_qhull",
    "_free",
    "add",
    "append",
    "astype",
    "clear",
    "close",
    "conj",
    "copy",
    "count",
    "discard",
    "extend",
    "fill",
    "flatten",
    "flush",
    "free",
    "get",
    "index",
    "insert",
    "item",
    "items",
    "keys",
    "pop",
    "popitem",
    "ravel",
    "read",
    "remove",
    "reshape",
    "seek",
    "setdefault",
    "sort",
    "squeeze",
    "tell",
    "toarray",
    "tobytes",
    "todense",
    "tolist",
    "transpose",
    "update",
    "values",
    "view",
    "write",
];

/// The attribute of `SciPy`'s distributions whose text is run when they take their state.
pub(crate) const TEMPLATE_ATTRIBUTE: &str = "_parse_arg_template";

/// Whether loaders call what they find under this name.
pub(crate) fn is_called_attribute(name: &str) -> bool {
    GUARDED.iter().skip(3).any(|guarded| *guarded == name)
}

/// The text of the first guarded name; those before stand for texts that are not kept.
const FIRST_GUARDED: u32 = TEXT_TEMPLATE + 1;
pub(super) const SUBCLASS: u32 = FIRST_GUARDED;
const TEMPLATE: u32 = FIRST_GUARDED + 1;
const QHULL: u32 = FIRST_GUARDED + 2;
const LAST_GUARDED: u32 = FIRST_GUARDED + 43;

/// Heaviest value that may be a key: what hashes it visits all its parts, however often they are shared.
const MAX_KEY_WEIGHT: f32 = 1e6;

impl Machine<'_, '_> {
    /// Holds the keys and values that come into a dictionary against the rules for states.
    pub(super) fn guard(&mut self, target: Value, pairs: &[Value]) -> Result<(), Halt> {
        for pair in pairs.chunks_exact(2) {
            let &[key, value] = pair else { continue };
            let Value::Text(text) = key else {
                self.hash(key)?;
                self.hand_on(value);
                continue;
            };
            if text != SUBCLASS {
                self.hand_on(value);
            }
            if !(TEMPLATE..=LAST_GUARDED).contains(&text) {
                continue;
            }
            let is_honest = match text {
                TEMPLATE => {
                    self.flag(target, TEMPLATE_KEY);
                    value == Value::Text(TEXT_TEMPLATE)
                }
                QHULL => value == Value::None,
                _ => !self.is_callable(value),
            };
            if !is_honest {
                let name = self.text_of(text).unwrap_or_default().to_owned();
                self.find(
                    &ARGUMENTS,
                    format!("the attribute `{name}` holds something that loading would run"),
                );
            }
        }
        Ok(())
    }

    pub(super) fn flag(&mut self, target: Value, flag: u16) {
        if let Value::Object(index) = target
            && let Some(object) = self.objects.get_mut(index as usize)
        {
            object.flags |= flag;
        }
    }

    fn is_callable(&self, value: Value) -> bool {
        match self.kind(value) {
            Some(Kind::Global { granted, .. }) => !matches!(granted, Some(Use::Code)),
            Some(Kind::Method) => true,
            Some(Kind::Instance { class }) => {
                self.is_global(Value::Object(class), "functools.partial")
            }
            _ => false,
        }
    }

    /// A value that is hashed while loading: a key, or an element of a set.
    pub(super) fn hash(&mut self, key: Value) -> Result<(), Halt> {
        if self
            .object(key)
            .is_some_and(|object| object.weight > MAX_KEY_WEIGHT)
        {
            return self.halt(
                &BOMB,
                "a key has so many parts that its hash takes longer than any model needs",
            );
        }
        Ok(())
    }

    /// Holds a name that is not called here against what it could do where it is called.
    ///
    /// A function that opens files is harmless as the type of an array, and nowhere else; one whose arguments are checked
    /// when it is called must not be handed to something that calls it unchecked.
    pub(super) fn hand_on(&mut self, value: Value) {
        let Some(Kind::Global { granted, .. }) = self.kind(value) else {
            return;
        };
        let is_checked = granted == Some(Use::Check);
        if !is_checked && !self.opens_files {
            return;
        }
        let name = self.name_of(value);
        if name == "numpy.memmap" {
            self.find(
                &ARGUMENTS,
                "`numpy.memmap`, which opens files, is more than the type of an array",
            );
        } else if is_checked && !self.may_be_handed_on(&name) {
            self.find(
                &ARGUMENTS,
                format!("`{name}` is handed on, so that it could be called with anything"),
            );
        }
    }

    /// Whether a name that is checked when it is called is also a plain type, or an argument of another checked call.
    fn may_be_handed_on(&self, name: &str) -> bool {
        let (module, short) = name.rsplit_once('.').unwrap_or(("", name));
        match module {
            "builtins" | "__builtin__" => {
                // Code by value names the type of its classes, and how dill fills them.
                match short {
                    "getattr" => false,
                    "setattr" | "type" => self.carries_code,
                    _ => true,
                }
            }
            "collections" | "numpy" | "numpy.random._pickle" => true,
            "torch._utils" => short.starts_with("_rebuild_"),
            _ => short == "_reconstruct",
        }
    }

    /// Whether a value, or a part of it, has the key of a special attribute.
    pub(super) fn has_dunder_key(&self, value: Value, depth: usize) -> bool {
        self.flags(value) & DUNDER_KEY != 0
            || (depth > 0
                && self.parts(value).is_some_and(|parts| {
                    parts.len() <= 8
                        && parts
                            .into_iter()
                            .any(|part| self.has_dunder_key(part, depth - 1))
                }))
    }

    /// Whether an instance of `class` may take `state`.
    pub(super) fn state_fits(&self, class: Value, state: Value) -> bool {
        let name = self.name_of(class);
        match self.kind(state) {
            // As pairs, every attribute would pass unseen.
            Some(Kind::List { .. } | Kind::Set | Kind::FrozenSet) => false,
            // Before 1.6, SciPy wrote the parameters of a distribution, and its generator.
            Some(Kind::Tuple { .. }) if name.starts_with("scipy.stats.") => {
                match self.parts(state).as_deref() {
                    Some(&[parameters, generator]) => {
                        matches!(self.kind(parameters), Some(Kind::Dict { .. }))
                            && self.flags(parameters) & TEMPLATE_KEY == 0
                            && (generator == Value::None
                                || matches!(self.kind(generator), Some(Kind::Instance { .. })))
                    }
                    _ => false,
                }
            }
            _ => true,
        }
    }
}

/// Whether a text is the one that `SciPy` makes of the names of a distribution's parameters, for `exec`.
///
/// The form is that of `parse_arg_template` in `scipy/stats/_distn_infrastructure.py`, unchanged since `SciPy` 0.14.
pub(crate) fn is_template(text: &str) -> bool {
    const START: &str = "\ndef _parse_args(self, ";
    let Some(rest) = text.strip_prefix(START) else {
        return false;
    };
    let Some((shapes, _)) = rest.split_once(" loc=0") else {
        return false;
    };
    let names_parameters = shapes.is_empty()
        || shapes.strip_suffix(", ").is_some_and(|shapes| {
            shapes.split(", ").all(|shape| {
                shape.starts_with(|first: char| first.is_ascii_alphabetic())
                    && shape
                        .chars()
                        .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
            })
        });
    names_parameters
        && [("loc=0, scale=1", "loc, scale"), ("loc=0", "loc, 1")]
            .iter()
            .any(|(taken, given)| {
                text == format!(
                    "{START}{shapes} {taken}):\n    return ({shapes}), {given}\n\n\
                     def _parse_args_rvs(self, {shapes} {taken}, size=None):\n    \
                     return self._argcheck_rvs({shapes} {given}, size=size)\n\n\
                     def _parse_args_stats(self, {shapes} {taken}, moments='mv'):\n    \
                     return ({shapes}), {given}, moments\n"
                )
            })
}
