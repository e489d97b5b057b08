//! The symbolic machine: follows a pickle's program without making anything that it asks for.
//!
//! Values are kinds, not contents: a list knows that it is a list and how deep it is, not what is in it.
//! Only what a rule asks for is kept: names, small tuples of arguments, shapes.
//! A program that no pickler would write is told as malformed, and followed further where that is possible, because
//! what it hides is worth more to the reader of the report than how it hides it.

mod arguments;
mod arrays;
mod bounds;
mod building;
mod calls;
mod opcodes;
mod states;
pub(crate) mod tensors;
mod values;

pub(crate) use calls::is_by_pattern;
pub(crate) use states::{TEMPLATE_ATTRIBUTE, is_called_attribute, is_template};

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
/// Longest text that is looked at, the text of a distribution's functions or the name of a time zone.
const MAX_READ: usize = 4096;
/// Longest integer, in bytes; the state of a random generator takes 32.
const MAX_INTEGER_BYTES: u64 = 256;
/// Longest line of the text opcodes that is looked at.
const MAX_LINE: usize = 1024 * 1024;
const SHORT_LINE: usize = 64 * 1024;
const MAX_FINDINGS: usize = 50;

/// How far behind the beginning of an array without padding a decoder is read ahead, to follow it as the program that
/// a plain unpickler takes it for.
const PLAIN_WINDOW: usize = 64 * 1024;
/// Most opcodes of such programs that are followed in one pickle.
const PLAIN_OPERATIONS: u64 = 4_000_000;

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
    /// The shapes of the first of them.
    pub shapes: Vec<Vec<u64>>,
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
/// The text of functions that `SciPy` makes of a distribution's parameters, as `SciPy` writes it.
const TEXT_TEMPLATE: u32 = 2;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Tuple {
        start: u32,
        count: u32,
    },
    List {
        count: u32,
    },
    /// The kept pairs; [`NOT_KEPT`] if there are pairs but none was kept.
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
    /// A range, a slice, or another plain value without parts.
    Range,
    /// A method or function that came from an attribute; mentioned, never called.
    Method,
    Dtype {
        /// Width of an item, if it is known.
        item_bytes: Option<u32>,
        /// Whether the state says the width, and may have fields.
        is_flexible: bool,
    },
    Storage {
        elements: u64,
    },
    /// Made of something refused, or of no further interest.
    Opaque,
    /// Made of the author's code.
    Code,
}

const BUILT: u16 = 1;
/// Has a type of objects within, or is one.
const OBJECT_TYPE: u16 = 2;
/// May be filled like a dictionary, or a list, or a set.
const FILL_DICT: u16 = 4;
const FILL_LIST: u16 = 8;
const FILL_SET: u16 = 16;
/// Has a key such as `__class__`.
const DUNDER_KEY: u16 = 32;
/// Is a type of code: making one of it runs nothing yet.
const CODE_TYPE: u16 = 64;
/// Has the key of a text that a loader runs.
const TEMPLATE_KEY: u16 = 128;
/// Is a class of the author's code.
const CODE_CLASS: u16 = 256;
/// Is a module that code by value refers to.
const CODE_MODULE: u16 = 512;

/// The number of pairs of a dictionary of which none was kept.
const NOT_KEPT: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Object {
    kind: Kind,
    flags: u16,
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

/// Follows the bytes as a reader would who takes them for a program, and stops where that reader fails.
pub(super) fn run_as_other(
    input: &mut Input<'_>,
    list: &AllowList,
    operations: &mut u64,
) -> Result<Outcome, ReadError> {
    let mut machine = Machine::new(input, list, Style::Plain, operations, 0);
    machine.is_other_reader = true;
    machine.line_limit = SHORT_LINE;
    match machine.follow() {
        Ok(()) => machine.outcome.finished = true,
        Err(Halt::Told) => {}
        Err(Halt::Read(error)) => return Err(error),
    }
    Ok(machine.outcome)
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

#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact about the program so far"
)]
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
    /// Whether the bytes are followed as another reader would see them, who stops at what cannot be loaded.
    is_other_reader: bool,
    /// Longest line that is read; 64 KiB where a file is hardly a program.
    line_limit: usize,
    /// Whether a function that opens files was imported, as the type of an array.
    opens_files: bool,
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
        let mut machine = Self {
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
            // The first stand for texts that are not kept.
            texts: vec![(0, 0); 3],
            text_bytes: String::new(),
            known: HashMap::new(),
            imported: HashMap::new(),
            after_pop: false,
            pop_is_free: false,
            carries_code: false,
            is_other_reader: false,
            line_limit: MAX_LINE,
            opens_files: false,
            plain_budget: PLAIN_OPERATIONS,
            outcome: Outcome::default(),
        };
        for word in states::GUARDED {
            let index = machine.keep_text(word);
            machine.known.insert((*word).to_owned(), index);
        }
        machine
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

    /// Stops where another reader would fail, without harm.
    fn fails(&mut self) -> Result<(), Halt> {
        if self.is_other_reader {
            return self.halt(&NOT_CANONICAL, "another reader fails here");
        }
        Ok(())
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
        let line = match self.input.line(self.line_limit) {
            Ok(line) => line.map(<[u8]>::to_vec),
            Err(error) => return Err(self.told(error)),
        };
        match line {
            Some(line) => Ok(line),
            None if self.line_limit == SHORT_LINE => self.truncated(),
            None => match self.input.skip_line() {
                Ok(true) => self.halt(&BOMB, "a line is longer than any pickler writes"),
                Ok(false) => self.truncated(),
                Err(error) => Err(self.told(error)),
            },
        }
    }

    /// The line of a text, or `None` if it is too long to be a name.
    fn text_line(&mut self) -> Result<Option<Vec<u8>>, Halt> {
        match self.input.line(self.line_limit) {
            Ok(Some(line)) => return Ok(Some(line.to_vec())),
            Ok(None) if self.line_limit == SHORT_LINE => return self.truncated(),
            Ok(None) => {}
            Err(error) => return Err(self.told(error)),
        }
        match self.input.skip_line() {
            Ok(true) => Ok(None),
            Ok(false) => self.truncated(),
            Err(error) => Err(self.told(error)),
        }
    }

    fn u32(&mut self) -> Result<u32, Halt> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Halt> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}
