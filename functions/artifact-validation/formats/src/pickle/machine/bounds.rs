//! Arguments of calls that the allow-list permits: none may exhaust the loader, open a file, or reach a method of
//! another value.

use super::{CODE_CLASS, CODE_MODULE, Kind, Machine, Use, Value};

/// Longest range, in numbers; what walks over it makes each of them.
const MAX_RANGE: i128 = 1 << 24;
/// Largest number that constructors of scikit-learn and `SciPy` take; they make room for as many values.
const MAX_COUNT: i64 = 1 << 24;
/// Longest text of a fraction or a number.
const MAX_DIGITS: usize = 400;

impl Machine<'_, '_> {
    /// Whether a range is short enough to be walked over.
    pub(super) fn range_fits(parts: &[Value]) -> bool {
        let bounds: Option<Vec<i128>> = parts
            .iter()
            .map(|part| match part {
                Value::Int(number) => Some(i128::from(*number)),
                _ => None,
            })
            .collect();
        let (start, end, step) = match bounds.as_deref() {
            Some(&[end]) => (0, end, 1),
            Some(&[start, end]) => (start, end, 1),
            Some(&[start, end, step]) if step != 0 => (start, end, step),
            _ => return false,
        };
        (end - start) / step <= MAX_RANGE
    }

    /// Whether `class` may be called, or made an instance of, with these arguments.
    pub(super) fn call_fits(&self, class: Value, arguments: Value) -> bool {
        let Some(parts) = self.parts(arguments) else {
            // Long tuples are texts of options, which only classes of settings take.
            return false;
        };
        let name = self.name_of(class);
        let module = name.rsplit_once('.').map_or("", |(module, _)| module);
        match name.as_str() {
            "functools.partial" => true,
            "collections.Counter" | "collections.OrderedDict" => match parts.as_slice() {
                [] => true,
                [content] => matches!(
                    self.kind(*content),
                    Some(Kind::Dict { .. } | Kind::List { .. } | Kind::Tuple { .. })
                ),
                _ => false,
            },
            "collections.deque" => match parts.as_slice() {
                [] => true,
                [content] | [content, Value::None | Value::Int(_)] => self.is_sequence(*content),
                _ => false,
            },
            "logging.getLogger" => parts
                .iter()
                .all(|part| matches!(part, Value::Text(_) | Value::None)),
            "re._compile" => {
                matches!(
                    parts.as_slice(),
                    [Value::Text(_) | Value::Bytes, Value::Int(_)]
                )
            }
            // The name of a zone is looked up in the folder of zones.
            "pytz._p" => match parts.split_first() {
                None => true,
                Some((zone, _)) => self
                    .str_of(*zone)
                    .is_some_and(|zone| !zone.contains("..") && !zone.starts_with('/')),
            },
            "torch.Size" => {
                matches!(parts.as_slice(), [content] if self.is_sequence(*content))
            }
            "fractions.Fraction" | "decimal.Decimal" => match parts.as_slice() {
                [Value::Text(text)] => self.text_of(*text).is_some_and(|text| {
                    let is_digits = text
                        .bytes()
                        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'/' | b'-'));
                    text.len() <= MAX_DIGITS && (name == "decimal.Decimal" || is_digits)
                }),
                [Value::Int(_) | Value::Number]
                | [Value::Int(_) | Value::Number, Value::Int(_) | Value::Number] => true,
                _ => false,
            },
            _ if module.starts_with("sklearn.")
                || module.starts_with("scipy.")
                || module == "_loss" =>
            {
                parts.iter().all(|part| match part {
                    Value::Int(number) => (-MAX_COUNT..=MAX_COUNT).contains(number),
                    Value::Object(_) => matches!(
                        self.kind(*part),
                        Some(
                            Kind::Array
                                | Kind::Tuple { .. }
                                | Kind::List { .. }
                                | Kind::Dtype { .. }
                                | Kind::Global { .. }
                                | Kind::Opaque
                        )
                    ),
                    _ => true,
                })
            }
            _ => !parts
                .iter()
                .any(|part| matches!(self.kind(*part), Some(Kind::Method))),
        }
    }

    fn is_sequence(&self, value: Value) -> bool {
        matches!(
            self.kind(value),
            Some(Kind::List { .. } | Kind::Tuple { .. } | Kind::Set | Kind::FrozenSet)
        )
    }

    /// Whether a function of cloudpickle or dill gets what they give it, so that nothing of the author runs yet.
    pub(super) fn code_call_fits(&self, name: &str, arguments: Value) -> bool {
        let parts = self.parts(arguments).unwrap_or_default();
        let function = name.rsplit('.').next().unwrap_or_default();
        match (function, parts.as_slice()) {
            // These change what they are given, which must have come to life here.
            ("_function_setstate" | "_class_setstate", [target, ..]) => {
                matches!(self.kind(*target), Some(Kind::Code))
                    && self.flags(*target) & CODE_MODULE == 0
            }
            // These call the metaclass that they are given.
            ("_make_skeleton_class" | "_create_type", [metaclass, ..]) => self.is_type(*metaclass),
            ("_make_skeleton_enum", [bases, ..]) => self
                .parts(*bases)
                .is_some_and(|bases| bases.iter().all(|&base| self.is_type(base))),
            (
                "_function_setstate"
                | "_class_setstate"
                | "_make_skeleton_class"
                | "_create_type"
                | "_make_skeleton_enum",
                _,
            ) => false,
            _ => true,
        }
    }

    /// Whether a value is a class, of the list or of the author, rather than a function that a call would run.
    fn is_type(&self, value: Value) -> bool {
        match self.kind(value) {
            Some(Kind::Global { granted, .. }) => {
                let name = self.name_of(value);
                let short = name.rsplit('.').next().unwrap_or_default();
                granted == Some(Use::Code)
                    || matches!(name.as_str(), "builtins.type" | "__builtin__.type")
                    || (granted.is_some()
                        && short.starts_with(|first: char| first.is_ascii_uppercase()))
                    || matches!(
                        short,
                        "object" | "int" | "str" | "float" | "dict" | "list" | "tuple" | "set"
                    )
            }
            Some(Kind::Code) => self.flags(value) & CODE_CLASS != 0,
            _ => false,
        }
    }
}

/// Whether a text would be taken for the path of a file where pandas expects a time zone.
pub(super) fn names_zone_file(text: &str) -> bool {
    (text.starts_with("dateutil/") || text.starts_with("datetime64["))
        && text
            .split_once("dateutil/")
            .is_some_and(|(_, zone)| zone.starts_with('/') || zone.contains(".."))
}
