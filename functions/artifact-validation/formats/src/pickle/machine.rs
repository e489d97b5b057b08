//! The symbolic machine: follows a pickle's program without making anything that it asks for.
//!
//! Values are kinds, not contents: a list knows that it is a list and how deep it is, not what is in it.
//! Only what a rule asks for is kept: names, small tuples of arguments, shapes.
//! A program that no pickler would write is told as malformed, and followed further where that is possible, because
//! what it hides is worth more to the reader of the report than how it hides it.

use super::globals::{AllowList, Use};
use super::input::{Input, InputError};
use super::{
    ARGUMENTS, BOMB, DAMAGED, GLOBAL, NOT_CANONICAL, OWN_CODE, PERSISTENT_ID, RUNS_OWN_CODE,
    TRUNCATED,
};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Deepest nesting that a program may build; beyond it, readers that recurse run out of stack.
const MAX_DEPTH: u16 = 400;
/// Most parts that a value may have if shared parts are counted each time they occur.
const MAX_WEIGHT: f32 = 1e11;
/// Most values on the stack at once; only tuples and frozen sets need more than a thousand.
const MAX_STACK: usize = 256 * 1024;
const MAX_MARKS: usize = 1024;
const MAX_MEMO: usize = 2 * 1024 * 1024;
const MAX_OBJECTS: usize = 384 * 1024;
const MAX_ITEMS: usize = 256 * 1024;
const MAX_TEXTS: usize = 128 * 1024;
const MAX_TEXT_BYTES: usize = 2 * 1024 * 1024;
/// Names are shorter than this, and so is every text that a rule asks for.
const MAX_NAME: usize = 512;
/// Longest integer, in bytes; the state of a random generator takes 32.
const MAX_INTEGER_BYTES: u64 = 256;
/// Longest line of the text opcodes that is looked at.
const MAX_LINE: usize = 1024 * 1024;
const MAX_FINDINGS: usize = 50;

/// How far behind the beginning of an array without padding a decoder is read ahead, to follow it as the program that
/// a plain unpickler takes it for.
const PLAIN_WINDOW: usize = 64 * 1024;
/// Most opcodes of such programs that are followed in one pickle.
const PLAIN_OPERATIONS: u64 = 4_000_000;
/// Methods and functions by a path of names, as only newer protocols can write it: mentioned, never called.
const METHODS: &[(&str, &str)] = &[
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
    ("scipy.stats._discrete_distns", "randint_gen._entropy"),
    (
        "scipy.stats._distn_infrastructure",
        "rv_continuous._entropy",
    ),
    ("scipy.stats._distn_infrastructure", "rv_discrete._entropy"),
    ("scipy.stats._distn_infrastructure", "rv_generic._entropy"),
];

/// The first bytes of an array, in a file of which the rest is out of reach.
struct Window {
    bytes: Bytes,
    /// Offset of the first byte.
    start: u64,
}

impl Source for Window {
    fn size(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn read(&self, range: std::ops::Range<u64>) -> Result<Bytes, ReadError> {
        let within = |offset: u64| offset.saturating_sub(self.start);
        self.bytes.read(within(range.start)..within(range.end))
    }
}

/// How the bytes of a program are wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A pickle of its own.
    Plain,
    /// Within joblib's files: the bytes of an array follow the object that describes it.
    Joblib,
    /// Within PyTorch's files: persistent ids name storages.
    Torch,
    /// Within TorchScript's files: the same, with classes that the archive defines itself.
    TorchScript,
}

/// A tensor's storage, as a persistent id names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Key of the storage, the name of its record.
    pub key: String,
    /// Size in bytes, if all its types are known.
    pub bytes: u64,
    /// Number of elements.
    pub elements: u64,
    /// Type, such as `FloatStorage`.
    pub kind: String,
}

/// What a program was seen to do.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rules that apply, with their places.
    pub findings: Vec<(&'static Rule, u64, String)>,
    /// Names that would be imported, as `module.name`.
    pub globals: BTreeSet<String>,
    /// What the allow-list granted each name, in the list's words, and how names that it refused were used.
    pub uses: BTreeMap<String, String>,
    /// Storages by key.
    pub storages: BTreeMap<String, Storage>,
    /// How many tensors were rebuilt.
    pub tensors: u64,
    /// How many elements they have together.
    pub parameters: u64,
    /// How many arrays lie beside the program, in joblib's files.
    pub arrays: u64,
    /// How many bytes they have together.
    pub array_bytes: u64,
    /// The protocol that the program declares.
    pub protocol: u8,
    /// Whether the last opcode was reached.
    pub finished: bool,
    /// Integer results, for files that state their version in a pickle of its own.
    pub integer: Option<i64>,
    /// How many opcodes were followed.
    pub operations: u64,
    /// How many calls were seen.
    pub calls: u64,
}

/// Why the machine stopped before the last opcode.
enum Halt {
    Read(ReadError),
    /// The reason has been told.
    Told,
}

impl From<InputError> for Halt {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Read(error) => Self::Read(error),
            InputError::Damaged(_) | InputError::Bomb => Self::Told,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Floats, and integers beyond 64 bits.
    Number,
    Bytes,
    Text(u32),
    Object(u32),
}

/// A text that was not kept.
const TEXT_UNKNOWN: u32 = 0;
/// A text that was not kept, with two underscores at both ends.
const TEXT_DUNDER: u32 = 1;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Tuple {
        start: u32,
        count: u32,
    },
    List,
    Dict {
        start: u32,
        pairs: u32,
    },
    Set,
    FrozenSet,
    Global {
        module: u32,
        name: u32,
        granted: Option<Use>,
    },
    Instance {
        class: u32,
    },
    Array,
    Range,
    Dtype {
        item_bytes: u32,
    },
    Storage {
        elements: u64,
    },
    /// Made of something refused, or of no further interest.
    Opaque,
    /// Made of the author's code.
    Code,
}

const BUILT: u8 = 1;
/// Has a type of objects within, or is one.
const OBJECT_TYPE: u8 = 2;
/// May be filled like a dictionary, or a list, or a set.
const FILL_DICT: u8 = 4;
const FILL_LIST: u8 = 8;
const FILL_SET: u8 = 16;
/// Has a key such as `__class__`.
const DUNDER_KEY: u8 = 32;
/// Is a type of code: making one of it runs nothing yet.
const CODE_TYPE: u8 = 64;

#[derive(Debug, Clone, Copy)]
struct Object {
    kind: Kind,
    flags: u8,
    depth: u16,
    weight: f32,
}

/// Follows one program from the input's place to its last opcode.
pub(super) fn run(
    input: &mut Input<'_>,
    list: &AllowList,
    style: Style,
    operations: &mut u64,
) -> Result<Outcome, ReadError> {
    run_nested(input, list, style, operations, 0)
}

fn run_nested(
    input: &mut Input<'_>,
    list: &AllowList,
    style: Style,
    operations: &mut u64,
    nesting: usize,
) -> Result<Outcome, ReadError> {
    let mut machine = Machine::new(input, list, style, operations, nesting);
    match machine.follow() {
        Ok(()) => machine.outcome.finished = true,
        Err(Halt::Told) => {}
        Err(Halt::Read(error)) => return Err(error),
    }
    Ok(machine.outcome)
}

struct Machine<'m, 's> {
    input: &'m mut Input<'s>,
    list: &'m AllowList,
    style: Style,
    nesting: usize,
    budget: &'m mut u64,
    /// Where the opcode at work lies.
    at: u64,
    protocol: u8,
    frame_end: Option<u64>,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<u32>,
    /// Memo slots out of sequence, which no pickler writes; a few are followed.
    stray_memo: HashMap<u32, u32>,
    memo_base: u32,
    objects: Vec<Object>,
    items: Vec<Value>,
    texts: Vec<(u32, u32)>,
    text_bytes: String,
    known: HashMap<String, u32>,
    imported: HashMap<(u32, u32), u32>,
    after_pop: bool,
    pop_is_free: bool,
    /// Whether functions or classes are carried by value, whose picklers throw intermediate values away.
    carries_code: bool,
    /// What is left of [`PLAIN_OPERATIONS`].
    plain_budget: u64,
    outcome: Outcome,
}

impl<'m, 's> Machine<'m, 's> {
    fn new(
        input: &'m mut Input<'s>,
        list: &'m AllowList,
        style: Style,
        budget: &'m mut u64,
        nesting: usize,
    ) -> Self {
        Self {
            input,
            list,
            style,
            nesting,
            budget,
            at: 0,
            protocol: 0,
            frame_end: None,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            stray_memo: HashMap::new(),
            memo_base: 0,
            objects: Vec::new(),
            items: Vec::new(),
            // The two first stand for texts that are not kept.
            texts: vec![(0, 0), (0, 0)],
            text_bytes: String::new(),
            known: HashMap::new(),
            imported: HashMap::new(),
            after_pop: false,
            pop_is_free: false,
            carries_code: false,
            plain_budget: PLAIN_OPERATIONS,
            outcome: Outcome::default(),
        }
    }

    fn find(&mut self, rule: &'static Rule, detail: impl Into<String>) {
        // The verdict must not depend on what comes first, so that room is kept for one finding of each rule.
        let full = self.outcome.findings.len() >= MAX_FINDINGS;
        if full
            && self
                .outcome
                .findings
                .iter()
                .any(|(found, ..)| found.id == rule.id)
        {
            return;
        }
        self.outcome.findings.push((rule, self.at, detail.into()));
    }

    fn halt<T>(&mut self, rule: &'static Rule, detail: impl Into<String>) -> Result<T, Halt> {
        self.find(rule, detail);
        Err(Halt::Told)
    }

    fn odd(&mut self, detail: impl Into<String>) {
        self.find(&NOT_CANONICAL, detail);
    }

    /// Tells a damaged or expanding stream before stopping.
    fn told(&mut self, error: InputError) -> Halt {
        match &error {
            InputError::Damaged(reason) => self.find(
                &DAMAGED,
                format!("the compressed stream is damaged: {reason}"),
            ),
            InputError::Bomb => {
                self.find(
                    &BOMB,
                    "the compressed stream expands further than any model needs",
                );
            }
            InputError::Read(_) => {}
        }
        error.into()
    }

    fn truncated<T>(&mut self) -> Result<T, Halt> {
        self.halt(&TRUNCATED, "the pickle ends in the middle of an opcode")
    }

    fn byte(&mut self) -> Result<u8, Halt> {
        match self.input.byte() {
            Ok(Some(byte)) => Ok(byte),
            Ok(None) => self.truncated(),
            Err(error) => Err(self.told(error)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Halt> {
        let array = match self.input.take(N) {
            Ok(bytes) => bytes.and_then(|bytes| <[u8; N]>::try_from(bytes).ok()),
            Err(error) => return Err(self.told(error)),
        };
        match array {
            Some(array) => Ok(array),
            None => self.truncated(),
        }
    }

    fn skip(&mut self, count: u64) -> Result<(), Halt> {
        match self.input.skip(count) {
            Ok(true) => Ok(()),
            Ok(false) => self.truncated(),
            Err(error) => Err(self.told(error)),
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, Halt> {
        let line = match self.input.line(MAX_LINE) {
            Ok(line) => line.map(<[u8]>::to_vec),
            Err(error) => return Err(self.told(error)),
        };
        match line {
            Some(line) => Ok(line),
            None => self.truncated(),
        }
    }

    fn u32(&mut self) -> Result<u32, Halt> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Halt> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    // ── Values ──────────────────────────────────────────────────────────

    fn push(&mut self, value: Value) -> Result<(), Halt> {
        if self.stack.len() >= MAX_STACK {
            return self.halt(
                &BOMB,
                "the program piles up more values than any pickler does",
            );
        }
        self.stack.push(value);
        Ok(())
    }

    fn make(&mut self, kind: Kind, flags: u8, depth: u16, weight: f32) -> Result<Value, Halt> {
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

    fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(index) => self.objects.get(index as usize),
            _ => None,
        }
    }

    fn kind(&self, value: Value) -> Option<Kind> {
        self.object(value).map(|object| object.kind)
    }

    fn flags(&self, value: Value) -> u8 {
        self.object(value).map_or(0, |object| object.flags)
    }

    /// Depth, weight and inherited flags of a container with these parts.
    fn measure(&self, parts: &[Value]) -> (u16, f32, u8) {
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
    fn absorb(&mut self, target: Value, parts: &[Value]) -> Result<(), Halt> {
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

    fn pop(&mut self) -> Result<Value, Halt> {
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

    fn pop_marked(&mut self) -> Result<Vec<Value>, Halt> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark.min(self.stack.len()))),
            None => self.halt(
                &NOT_CANONICAL,
                "an opcode takes values up to a mark that is not there",
            ),
        }
    }

    fn top(&mut self) -> Result<Value, Halt> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&value) if self.stack.len() > floor => Ok(value),
            _ => self.halt(
                &NOT_CANONICAL,
                "an opcode changes a value where there is none",
            ),
        }
    }

    fn text(&mut self, text: &str) -> u32 {
        if let Some(&known) = self.known.get(text) {
            return known;
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
        let start = u32::try_from(self.text_bytes.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let index = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.text_bytes.push_str(text);
        self.texts.push((start, length));
        if is_word {
            self.known.insert(text.to_owned(), index);
        }
        index
    }

    fn text_of(&self, index: u32) -> Option<&str> {
        if index <= TEXT_DUNDER {
            return None;
        }
        let (start, length) = *self.texts.get(index as usize)?;
        self.text_bytes
            .get(start as usize..(start as usize).saturating_add(length as usize))
    }

    fn str_of(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(index) => self.text_of(index),
            _ => None,
        }
    }

    /// Whether the value is the name of a special attribute that changes how an object behaves.
    fn is_dunder(&self, value: Value) -> bool {
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

    fn tuple(&mut self, parts: &[Value]) -> Result<Value, Halt> {
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
    fn parts(&self, value: Value) -> Option<Vec<Value>> {
        match self.kind(value)? {
            Kind::Tuple { start, count } => self
                .items
                .get(start as usize..(start as usize).checked_add(count as usize)?)
                .map(<[Value]>::to_vec),
            _ => None,
        }
    }

    /// The value of a key in a small dictionary.
    fn entry(&self, value: Value, key: &str) -> Option<Value> {
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

    fn name_of(&self, value: Value) -> String {
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

    fn is_global(&self, value: Value, module_name: &str) -> bool {
        matches!(self.kind(value), Some(Kind::Global { .. })) && self.name_of(value) == module_name
    }

    // ── The memo ────────────────────────────────────────────────────────

    /// The memo holds what picklers put there, in a quarter of the space.
    fn pack(value: Value) -> u32 {
        match value {
            Value::Object(index) => index & 0x3fff_ffff,
            Value::Text(index) => 0x4000_0000 | (index & 0x3fff_ffff),
            Value::Bytes => 0x8000_0000,
            Value::None => 0x8000_0001,
            Value::Bool(value) => 0x8000_0002 + u32::from(value),
            Value::Int(_) | Value::Number => 0x8000_0004,
        }
    }

    fn unpack(packed: u32) -> Value {
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

    fn put(&mut self, index: Option<u64>) -> Result<(), Halt> {
        let value = self.top()?;
        let next = self.memo.len() as u64 + u64::from(self.memo_base);
        match index {
            // Python 2 counts from one.
            Some(1) if self.memo.is_empty() && self.protocol < 3 => self.memo_base = 1,
            Some(index) if index != next => {
                self.odd(format!(
                    "memo slot {index} is written out of sequence; the next one is {next}"
                ));
                if self.stray_memo.len() < 4096
                    && let Ok(index) = u32::try_from(index)
                {
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

    fn get(&mut self, index: u64) -> Result<(), Halt> {
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

    // ── Imports and calls ───────────────────────────────────────────────

    fn import(&mut self, module: u32, name: u32) -> Result<(), Halt> {
        if let Some(&index) = self.imported.get(&(module, name)) {
            return self.push(Value::Object(index));
        }
        let module_text = self.text_of(module).unwrap_or("(a long text)").to_owned();
        let name_text = self.text_of(name).unwrap_or("(a long text)").to_owned();
        let mut granted = self.list.find(&module_text, &name_text);
        let full = format!("{module_text}.{name_text}");
        if granted.is_none() {
            if METHODS.contains(&(module_text.as_str(), name_text.as_str())) {
                granted = Some(Use::Data);
            } else if (module_text.as_str(), name_text.as_str()) == ("enum", "Enum.__new__") {
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
    fn used(&mut self, value: Value, how: &str) {
        let name: String = self.name_of(value).chars().take(200).collect();
        if let Some(uses) = self.outcome.uses.get_mut(&name)
            && !uses.contains(how)
        {
            uses.push(' ');
            uses.push_str(how);
        }
    }

    fn instance(&mut self, class: Value, flags: u8, parts: &[Value]) -> Result<Value, Halt> {
        let (depth, weight, _) = self.measure(parts);
        let class = match class {
            Value::Object(index) => index,
            _ => u32::MAX,
        };
        self.make(Kind::Instance { class }, flags, depth, weight)
    }

    /// Makes an instance without running its initializer.
    fn instantiate(&mut self, class: Value, arguments: Value) -> Result<(), Halt> {
        self.outcome.calls += 1;
        let made = match self.kind(class) {
            Some(Kind::Global {
                granted: Some(granted),
                ..
            }) => match granted {
                Use::Class | Use::Call => self.instance(class, 0, &[arguments])?,
                Use::DictClass | Use::DictCall => self.instance(class, FILL_DICT, &[arguments])?,
                Use::ListClass | Use::ListCall => self.instance(class, FILL_LIST, &[arguments])?,
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
                self.find(
                    &ARGUMENTS,
                    "makes an instance of something that is not an imported class",
                );
                self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?
            }
        };
        self.push(made)
    }

    fn call(&mut self) -> Result<(), Halt> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        self.outcome.calls += 1;
        if !matches!(self.kind(arguments), Some(Kind::Tuple { .. })) {
            self.odd("a call's arguments are not a tuple");
        }
        let sets_attributes = self
            .parts(arguments)
            .is_some_and(|parts| parts.iter().any(|&part| self.flags(part) & DUNDER_KEY != 0));
        if sets_attributes && self.name_of(callee).starts_with("torch.") {
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
                Use::Call => self.instance(callee, 0, &[arguments])?,
                Use::DictCall => {
                    // Keys that come in with the call are not seen one by one.
                    let is_filled = self.parts(arguments).is_none_or(|parts| !parts.is_empty());
                    let keys = if is_filled { DUNDER_KEY } else { 0 };
                    self.instance(callee, FILL_DICT | keys, &[arguments])?
                }
                Use::ListCall => self.instance(callee, FILL_LIST, &[arguments])?,
                Use::Code => {
                    self.pop_is_free = true;
                    let name = self.name_of(callee);
                    if name.starts_with("__main__.") && !self.is_member(&name, arguments) {
                        let name = self.name_of(callee);
                        self.find(&RUNS_OWN_CODE, format!("calls `{name}` while loading"));
                    }
                    // A member of an enumeration that is carried by value is looked up by a call.
                    let kind = if name.ends_with("._make_skeleton_enum") {
                        CODE_TYPE
                    } else {
                        0
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
                self.find(&ARGUMENTS, "calls a value that is not an imported name");
                self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?
            }
        };
        self.push(made)
    }

    /// Whether a call looks up a member of an enumeration by its value.
    fn is_member(&self, name: &str, arguments: Value) -> bool {
        let is_type = name
            .trim_start_matches("__main__.")
            .starts_with(|first: char| first.is_ascii_uppercase());
        is_type
            && matches!(
                self.parts(arguments).as_deref(),
                Some([Value::Int(_) | Value::Number | Value::Bool(_) | Value::Text(_)])
            )
    }

    fn is_class(&self, value: Value) -> bool {
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

    /// Calls whose arguments decide whether they are harmless.
    fn checked_call(&mut self, callee: Value, arguments: Value) -> Result<Value, Halt> {
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
                    "list" => matches!(self.kind(*state), Some(Kind::List)),
                    "tuple" => matches!(self.kind(*state), Some(Kind::Tuple { .. })),
                    "set" | "frozenset" => matches!(
                        self.kind(*state),
                        Some(Kind::Set | Kind::FrozenSet | Kind::List)
                    ),
                    "float" | "int" | "long" | "complex" => {
                        matches!(state, Value::Number | Value::Int(_) | Value::Bool(_))
                    }
                    "str" | "unicode" => matches!(state, Value::Text(_)),
                    "bytes" | "bytearray" => matches!(state, Value::Bytes),
                    _ => false,
                };
                let flags = self.class_flags(*class);
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
                    Some(Kind::List | Kind::Tuple { .. } | Kind::Set | Kind::FrozenSet)
                );
                let (depth, weight, _) = self.measure(&[*elements]);
                (good, self.make(Kind::Set, FILL_SET, depth, weight)?)
            }
            ("builtins.bytearray" | "builtins.bytes", [content]) => (
                matches!(content, Value::Bytes)
                    || matches!(self.kind(*content), Some(Kind::Instance { .. })),
                Value::Bytes,
            ),
            ("builtins.bytearray" | "builtins.bytes", [content, encoding]) => (
                matches!(content, Value::Text(_)) && self.str_of(*encoding) == Some("latin-1"),
                Value::Bytes,
            ),
            ("builtins.bytes", []) => (true, Value::Bytes),
            ("builtins.range" | "builtins.xrange" | "builtins.slice", _) => {
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
                (true, self.make(Kind::Range, 0, 1, 1.0)?)
            }
            // How protocols before 4 write a method by its path of names.
            ("builtins.getattr", [owner, attribute])
                if self.is_method(*owner, self.str_of(*attribute)) =>
            {
                (true, self.make(Kind::Range, 0, 1, 1.0)?)
            }
            ("builtins.getattr", [owner, attribute]) => {
                // How SciPy's distributions refer to their own methods.
                let is_distribution = match self.kind(*owner) {
                    Some(Kind::Instance { class }) => {
                        let class = self.name_of(Value::Object(class));
                        class.starts_with("scipy.stats.") && class.ends_with("_gen")
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
                    self.make(Kind::Range, 0, 1, 1.0)?,
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
                    (true, self.make(Kind::Range, 0, 1, 1.0)?)
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
            ("numpy.dtype", [code, ..]) => {
                if let Some((item_bytes, objects)) = self.str_of(*code).and_then(dtype_bytes) {
                    let flags = if objects { OBJECT_TYPE } else { 0 };
                    (true, self.make(Kind::Dtype { item_bytes }, flags, 1, 1.0)?)
                } else {
                    let good = matches!(
                        self.kind(*code),
                        Some(Kind::Global {
                            granted: Some(_),
                            ..
                        })
                    );
                    (good, self.make(Kind::Dtype { item_bytes: 0 }, 0, 1, 1.0)?)
                }
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
                let good = self.flags(*attributes) & DUNDER_KEY == 0
                    && function_name.starts_with("torch._utils._rebuild_")
                    && self.is_class(*class)
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

    fn class_flags(&self, class: Value) -> u8 {
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

    /// Holds a tensor's view against the storage that it is a view of.
    fn rebuild(&mut self, storage: Value, offset: Value, size: Value, stride: Value) -> bool {
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
        match last {
            Some(last) => count == 0 || last < elements,
            None => false,
        }
    }

    fn shape(&self, value: Value) -> Option<Vec<u64>> {
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

    fn persistent(&mut self) -> Result<(), Halt> {
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
    fn legacy_class(&self, id: Value) -> Option<Value> {
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

    fn storage(&mut self, id: Value) -> Option<u64> {
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

    // ── Building ────────────────────────────────────────────────────────

    fn set_items(&mut self, pairs: &[Value]) -> Result<(), Halt> {
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

    fn append(&mut self, parts: &[Value]) -> Result<(), Halt> {
        let target = self.top()?;
        let good =
            matches!(self.kind(target), Some(Kind::List)) || self.flags(target) & FILL_LIST != 0;
        if !good {
            self.odd("something that is no list is filled like one");
        }
        self.absorb(target, parts)
    }

    fn build(&mut self) -> Result<(), Halt> {
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

    fn class_is_code(&self, value: Value) -> bool {
        matches!(
            self.kind(value),
            Some(Kind::Global {
                granted: Some(Use::Code),
                ..
            })
        )
    }

    /// A type whose flags deny the objects in it makes raw bytes into pointers.
    fn build_dtype(&mut self, target: Value, state: Value) {
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
    fn joblib_array(&mut self, state: Value) -> Result<(), Halt> {
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

    /// Whether `owner` is a class, and `attribute` one of its methods in [`METHODS`].
    fn is_method(&self, owner: Value, attribute: Option<&str>) -> bool {
        let Some(attribute) = attribute else {
            return false;
        };
        METHODS.iter().any(|(module, path)| {
            path.split_once('.').is_some_and(|(class, method)| {
                method == attribute && self.is_global(owner, &format!("{module}.{class}"))
            })
        })
    }

    /// Whether a reader that knows nothing of joblib's arrays would do harm with the array of `bytes` bytes that follows.
    ///
    /// It is followed as far as it goes, also behind the array, where it reads the honest rest from the wrong place.
    fn runs_as_program(&mut self, bytes: u64) -> Result<bool, Halt> {
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

    // ── Opcodes ─────────────────────────────────────────────────────────

    fn follow(&mut self) -> Result<(), Halt> {
        let first = self.input.offset();
        loop {
            self.at = self.input.offset();
            if let Some(end) = self.frame_end {
                if self.at == end {
                    self.frame_end = None;
                } else if self.at > end {
                    self.odd("an opcode crosses the end of its frame");
                    self.frame_end = None;
                }
            }
            let Some(left) = self.budget.checked_sub(1) else {
                return Err(Halt::Read(ReadError::Exhausted(
                    "opcodes for one inspection",
                )));
            };
            *self.budget = left;
            if self.outcome.operations >= self.input.opcode_limit {
                return self.halt(
                    &BOMB,
                    "a small stream expands to a program longer than any model needs",
                );
            }
            self.outcome.operations += 1;
            let opcode = match self.input.byte() {
                Ok(Some(opcode)) => opcode,
                Ok(None) => {
                    return self.halt(&TRUNCATED, "the pickle ends without its last opcode");
                }
                Err(error) => return Err(self.told(error)),
            };
            match protocol_of(opcode) {
                None => {
                    return self.halt(&NOT_CANONICAL, format!("{opcode:#04x} is no opcode"));
                }
                Some(least) if least > self.protocol.max(1) && opcode != 0x80 => {
                    self.odd(format!(
                        "opcode {opcode:#04x} is newer than protocol {}",
                        self.protocol
                    ));
                }
                Some(_) => {}
            }
            if self.protocol >= 2 && is_text_only(opcode, self.protocol) {
                self.odd(format!(
                    "opcode {opcode:#04x} is older than any pickler of protocol {} writes",
                    self.protocol
                ));
            }
            if self.after_pop && !matches!(opcode, b'0' | b'1' | b'g' | b'h' | b'j') {
                self.odd("a value is made and thrown away");
            }
            self.after_pop = false;
            let pop_is_free = std::mem::take(&mut self.pop_is_free);
            if opcode == b'.' {
                return self.stop();
            }
            self.step(opcode, first, pop_is_free)?;
        }
    }

    fn stop(&mut self) -> Result<(), Halt> {
        let value = self.pop()?;
        // A function that opens files is harmless as the type of an array, but not with arguments bound to it.
        let names = &self.outcome.globals;
        if names.iter().any(|name| name == "functools.partial")
            && names.iter().any(|name| name == "numpy.memmap")
        {
            self.find(
                &ARGUMENTS,
                "`numpy.memmap` stands beside `functools.partial`, which could bind the path of a file to it",
            );
        }
        if let Value::Int(integer) = value {
            self.outcome.integer = Some(integer);
        }
        if !self.stack.is_empty() || !self.marks.is_empty() {
            self.odd("values are left over at the end");
        }
        if self.frame_end.is_some_and(|end| end != self.input.offset()) {
            self.odd("the last frame reaches beyond the end");
        }
        self.outcome.protocol = self.protocol;
        Ok(())
    }

    fn step(&mut self, opcode: u8, first: u64, pop_is_free: bool) -> Result<(), Halt> {
        match opcode {
            0x80 => {
                let protocol = self.byte()?;
                if self.at != first || !(2..=5).contains(&protocol) {
                    self.odd(format!(
                        "protocol {protocol} is declared late, twice, or does not exist"
                    ));
                }
                self.protocol = self.protocol.max(protocol.min(5));
            }
            0x95 => {
                let length = self.u64()?;
                if self.frame_end.is_some() {
                    self.odd("frames overlap");
                }
                let end = self.input.offset().checked_add(length);
                if end.is_none() || length == 0 {
                    self.odd("a frame has no sensible length");
                }
                self.frame_end = end;
            }
            b'(' => {
                if self.marks.len() >= MAX_MARKS {
                    return self.halt(&BOMB, "marks are nested deeper than any pickler does");
                }
                self.marks.push(self.stack.len());
            }
            b'0' => {
                self.after_pop = !pop_is_free;
                let floor = self.marks.last().copied().unwrap_or(0);
                if self.stack.len() <= floor && self.marks.pop().is_some() {
                    // The mark itself, as protocol 0 does for tuples that contain themselves.
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.after_pop = true;
                self.pop_marked()?;
            }
            b'2' => {
                self.odd("a value is duplicated");
                let value = self.top()?;
                self.push(value)?;
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'I' => {
                let line = self.line()?;
                let value = match line.as_slice() {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    digits => self.integer(digits),
                };
                self.push(value)?;
            }
            b'L' => {
                let line = self.line()?;
                let value = self.integer(line.strip_suffix(b"L").unwrap_or(&line));
                self.push(value)?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let length = u64::from(self.byte()?);
                self.long(length)?;
            }
            0x8b => {
                let length = u64::from(self.u32()?);
                self.long(length)?;
            }
            b'F' => {
                self.line()?;
                self.push(Value::Number)?;
            }
            b'G' => {
                self.skip(8)?;
                self.push(Value::Number)?;
            }
            b'S' => {
                let line = self.line()?;
                let quoted = matches!(line.as_slice(), [b'\'', .., b'\''] | [b'"', .., b'"']);
                if !quoted {
                    self.odd("a text is not quoted");
                }
                let inner = line
                    .get(1..line.len().saturating_sub(1))
                    .unwrap_or_default();
                let text = String::from_utf8_lossy(inner).into_owned();
                // Names never have escapes; what an escaped text would be as a key is not worth finding out.
                let value = if text.contains('\\') {
                    Value::Text(TEXT_DUNDER)
                } else {
                    Value::Text(self.text(&text))
                };
                self.push(value)?;
            }
            b'V' => {
                let line = self.line()?;
                let text = unescape(&String::from_utf8_lossy(&line));
                let value = Value::Text(self.text(&text));
                self.push(value)?;
            }
            b'T' | b'X' => {
                let length = u64::from(self.u32()?);
                self.counted_text(length)?;
            }
            b'U' | 0x8c => {
                let length = u64::from(self.byte()?);
                self.counted_text(length)?;
            }
            0x8d => {
                let length = self.u64()?;
                self.counted_text(length)?;
            }
            b'B' => {
                let length = u64::from(self.u32()?);
                self.skip(length)?;
                self.push(Value::Bytes)?;
            }
            b'C' => {
                let length = u64::from(self.byte()?);
                self.skip(length)?;
                self.push(Value::Bytes)?;
            }
            0x8e | 0x96 => {
                let length = self.u64()?;
                self.skip(length)?;
                self.push(Value::Bytes)?;
            }
            0x97 | 0x98 => {
                self.odd("a buffer is expected from outside of the file");
                if opcode == 0x97 {
                    self.push(Value::Bytes)?;
                }
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                let module = String::from_utf8_lossy(&module).into_owned();
                let name = String::from_utf8_lossy(&name).into_owned();
                // Among code by value, dill writes it so.
                let is_dill = self.carries_code && !name.contains('.');
                if self.protocol >= 4 && !is_dill && !is_main_namespace(&module, &name) {
                    self.odd("an import is older than any pickler of the protocol writes");
                }
                let (module, name) = (self.text(&module), self.text(&name));
                self.import(module, name)?;
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                if let (Value::Text(module), Value::Text(name)) = (module, name) {
                    self.import(module, name)?;
                } else {
                    self.find(&GLOBAL, "imports something whose name is not a text");
                    let made = self.make(Kind::Opaque, FILL_DICT | FILL_LIST | FILL_SET, 1, 1.0)?;
                    self.push(made)?;
                }
            }
            b'R' => self.call()?,
            0x81 => {
                let arguments = self.pop()?;
                let class = self.pop()?;
                self.instantiate(class, arguments)?;
            }
            0x92 => {
                let _named = self.pop()?;
                let arguments = self.pop()?;
                let class = self.pop()?;
                self.instantiate(class, arguments)?;
            }
            b'i' => {
                self.odd("an instance is made in the way of Python 1");
                let module = self.line()?;
                let name = self.line()?;
                let module = self.text(&String::from_utf8_lossy(&module));
                let name = self.text(&String::from_utf8_lossy(&name));
                self.pop_marked()?;
                self.outcome.calls += 1;
                self.import(module, name)?;
            }
            b'o' => {
                self.odd("an instance is made in the way of Python 1");
                let parts = self.pop_marked()?;
                let class = parts.first().copied().unwrap_or(Value::None);
                let arguments = self.tuple(parts.get(1..).unwrap_or_default())?;
                self.push(class)?;
                self.push(arguments)?;
                self.call()?;
            }
            b'b' => self.build()?,
            b']' => {
                let made = self.make(Kind::List, 0, 1, 1.0)?;
                self.push(made)?;
            }
            b'}' => {
                let made = self.make(Kind::Dict { start: 0, pairs: 0 }, 0, 1, 1.0)?;
                self.push(made)?;
            }
            0x8f => {
                let made = self.make(Kind::Set, FILL_SET, 1, 1.0)?;
                self.push(made)?;
            }
            b')' => {
                let made = self.tuple(&[])?;
                self.push(made)?;
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let mut parts = Vec::with_capacity(count);
                for _ in 0..count {
                    parts.push(self.pop()?);
                }
                parts.reverse();
                let made = self.tuple(&parts)?;
                self.push(made)?;
            }
            b't' => {
                let parts = self.pop_marked()?;
                let made = self.tuple(&parts)?;
                self.push(made)?;
            }
            b'l' => {
                let parts = self.pop_marked()?;
                let (depth, weight, flags) = self.measure(&parts);
                let made = self.make(Kind::List, flags, depth, weight)?;
                self.push(made)?;
            }
            b'd' => {
                let parts = self.pop_marked()?;
                let made = self.make(Kind::Dict { start: 0, pairs: 0 }, 0, 1, 1.0)?;
                self.push(made)?;
                if !parts.is_empty() {
                    self.set_items(&parts)?;
                }
            }
            0x91 => {
                let parts = self.pop_marked()?;
                let (depth, weight, flags) = self.measure(&parts);
                let made = self.make(Kind::FrozenSet, flags, depth, weight)?;
                self.push(made)?;
            }
            b'a' => {
                let part = self.pop()?;
                self.append(&[part])?;
            }
            b'e' => {
                let parts = self.pop_marked()?;
                self.append(&parts)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let parts = self.pop_marked()?;
                self.set_items(&parts)?;
            }
            0x90 => {
                let parts = self.pop_marked()?;
                let target = self.top()?;
                if self.flags(target) & FILL_SET == 0 {
                    self.odd("something that is no set is filled like one");
                }
                self.absorb(target, &parts)?;
            }
            b'p' => {
                let line = self.line()?;
                let index = self.index(&line)?;
                self.put(Some(index))?;
            }
            b'q' => {
                let index = self.byte()?;
                self.put(Some(index.into()))?;
            }
            b'r' => {
                let index = self.u32()?;
                self.put(Some(index.into()))?;
            }
            0x94 => self.put(None)?,
            b'g' => {
                let line = self.line()?;
                let index = self.index(&line)?;
                self.get(index)?;
            }
            b'h' => {
                let index = self.byte()?;
                self.get(index.into())?;
            }
            b'j' => {
                let index = self.u32()?;
                self.get(index.into())?;
            }
            b'P' => {
                self.line()?;
                self.find(&PERSISTENT_ID, "a persistent id in text form");
                self.push(Value::Number)?;
            }
            b'Q' => self.persistent()?,
            0x82..=0x84 => {
                let width = match opcode {
                    0x82 => 1,
                    0x83 => 2,
                    _ => 4,
                };
                self.skip(width)?;
                self.find(
                    &GLOBAL,
                    "imports a name by a number of the process that loads",
                );
                let made = self.make(Kind::Opaque, 0, 1, 1.0)?;
                self.push(made)?;
            }
            _ => return self.halt(&NOT_CANONICAL, format!("{opcode:#04x} is no opcode")),
        }
        Ok(())
    }

    fn integer(&mut self, digits: &[u8]) -> Value {
        if digits.len() as u64 > MAX_INTEGER_BYTES * 3 {
            self.find(&BOMB, "an integer has more digits than any model needs");
        }
        match std::str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse().ok())
        {
            Some(value) => Value::Int(value),
            None => Value::Number,
        }
    }

    fn index(&mut self, digits: &[u8]) -> Result<u64, Halt> {
        match std::str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse().ok())
        {
            Some(index) => Ok(index),
            None => self.halt(&NOT_CANONICAL, "a memo slot is not a number"),
        }
    }

    fn long(&mut self, length: u64) -> Result<(), Halt> {
        if length > MAX_INTEGER_BYTES {
            self.find(
                &BOMB,
                format!("an integer of {length} bytes is larger than any model needs"),
            );
        }
        if length > 8 {
            self.skip(length)?;
            return self.push(Value::Number);
        }
        let count = usize::try_from(length).unwrap_or_default();
        let value = match self.input.take(count) {
            Ok(bytes) => bytes.map(|bytes| {
                let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                for (slot, byte) in wide.iter_mut().zip(bytes) {
                    *slot = *byte;
                }
                i64::from_le_bytes(wide)
            }),
            Err(error) => return Err(self.told(error)),
        };
        match value {
            Some(value) => self.push(Value::Int(value)),
            None => self.truncated(),
        }
    }

    fn counted_text(&mut self, length: u64) -> Result<(), Halt> {
        if length > MAX_NAME as u64 {
            self.skip(length)?;
            return self.push(Value::Text(TEXT_UNKNOWN));
        }
        let text = match self.input.take(usize::try_from(length).unwrap_or_default()) {
            Ok(bytes) => bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
            Err(error) => return Err(self.told(error)),
        };
        match text {
            Some(text) => {
                let value = Value::Text(self.text(&text));
                self.push(value)
            }
            None => self.truncated(),
        }
    }
}

/// The first protocol that has the opcode.
fn protocol_of(opcode: u8) -> Option<u8> {
    Some(match opcode {
        b'(' | b'.' | b'0' | b'1' | b'2' | b'F' | b'I' | b'L' | b'N' | b'P' | b'R' | b'S'
        | b'V' | b'a' | b'b' | b'c' | b'd' | b'g' | b'i' | b'l' | b'p' | b's' | b't' => 0,
        b'}' | b']' | b')' | b'G' | b'J' | b'K' | b'M' | b'Q' | b'T' | b'U' | b'X' | b'e'
        | b'h' | b'j' | b'o' | b'q' | b'r' | b'u' => 1,
        0x80..=0x8b => 2,
        b'B' | b'C' => 3,
        0x8c..=0x95 => 4,
        0x96..=0x98 => 5,
        _ => return None,
    })
}

/// Whether only the text protocol, or an older one, writes the opcode.
fn is_text_only(opcode: u8, protocol: u8) -> bool {
    match opcode {
        b'L' | b'F' | b'V' | b'g' | b'p' | b'P' | b'S' | b'd' | b'l' => true,
        // Python 2 writes wide integers, and texts, like this up to protocol 2.
        b'I' | b'T' | b'U' => protocol >= 3,
        b'q' | b'r' => protocol >= 4,
        _ => false,
    }
}

/// Whether a name is allowed by what it looks like rather than by the list.
pub(crate) fn is_by_pattern(full: &str) -> bool {
    full.starts_with("__main__.")
        || full.starts_with("__torch__.")
        || matches!(full, "__builtin__.__main__" | "enum.Enum.__new__")
        || METHODS.iter().any(|(module, name)| {
            full.strip_prefix(module)
                .and_then(|rest| rest.strip_prefix('.'))
                == Some(name)
        })
}

/// Whether the name stands for all names of the script, as dill writes it for functions that refer to them.
fn is_main_namespace(module: &str, name: &str) -> bool {
    matches!(
        (module, name),
        ("__builtin__", "__main__") | ("__main__", "__dict__")
    )
}

/// Width of an item and whether it is an object, for the codes that NumPy writes.
fn dtype_bytes(code: &str) -> Option<(u32, bool)> {
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

/// Width of an item of a storage.
fn storage_item_bytes(kind: &str) -> Option<u64> {
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

/// Resolves `\uXXXX` and `\UXXXXXXXX`, the escapes of texts in protocol 0.
fn unescape(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find('\\') {
        let (before, escape) = rest.split_at(start);
        text.push_str(before);
        let width = match escape.as_bytes().get(1) {
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let character = escape
            .get(2..2 + width)
            .filter(|digits| !digits.is_empty())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        let used = if let Some(character) = character {
            text.push(character);
            2 + width
        } else {
            text.push('\\');
            1
        };
        rest = escape.get(used..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}
