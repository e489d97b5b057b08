//! PMML, the Predictive Model Markup Language of the Data Mining Group, versions 3.0 to 4.4 (<https://dmg.org/pmml/v4-4-1/>).
//!
//! A document type declaration is refused outright: it is where XML's entity expansion and file inclusion live, and PMML has no use for it.

use crate::check::Check;
use crate::cursor::{Trouble, quote, settle};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};

/// The rules of this format.
pub const RULES: &[Rule] = &[MALFORMED, TOO_LARGE, DOCTYPE, ENTITY, CODE];

const MALFORMED: Rule = Rule {
    id: "pmml.malformed",
    verdict: Verdict::Malformed,
    why: "Readers of PMML disagree on documents that break its schema.",
    fix: "Export the model again with a current exporter.",
};
const TOO_LARGE: Rule = Rule {
    id: "pmml.too-large",
    verdict: Verdict::Incomplete,
    why: "A part of the document is larger than the check may hold in memory.",
    fix: "Export the model in smaller parts.",
};
const DOCTYPE: Rule = Rule {
    id: "pmml.doctype",
    verdict: Verdict::Unsafe,
    why: "A document type declaration can read files, call servers and expand without bound.",
    fix: "Remove the `<!DOCTYPE …>`; PMML needs none.",
};
const ENTITY: Rule = Rule {
    id: "pmml.entity",
    verdict: Verdict::Unsafe,
    why: "A reference to an entity other than XML's own five stands for bytes from elsewhere.",
    fix: "Write the text itself instead of the entity.",
};
const CODE: Rule = Rule {
    id: "pmml.custom-function",
    verdict: Verdict::ContainsCode,
    why: "Evaluators load a function with a qualified name as a class from the class path.",
    fix: "Use PMML's built-in functions, or define the function in the document.",
};

/// Deepest nesting of elements; trees of a decision tree nest one level per split.
const MAX_DEPTH: usize = 2048;
/// Most attributes of one tag; the schema has no element with more than some twenty.
const MAX_ATTRIBUTES: usize = 256;
/// Longest name of an element.
const MAX_NAME_BYTES: usize = 200;
/// Most bytes of names that are kept.
const MAX_KEPT_BYTES: usize = 4 * 1024 * 1024;
/// Longest single tag or text.
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

/// Tells whether the root element is `PMML`.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let head = head.trim_ascii_start();
    if !head.starts_with(b"<") {
        // XML in UTF-16 starts with a byte order mark; it is claimed so that it is refused with a reason.
        return is_wide(head) && has_extension(path);
    }
    let is_tag = |window: &[u8]| {
        window
            .strip_prefix(b"<")
            .and_then(|name| name.strip_prefix(b"PMML"))
            .is_some_and(|rest| rest.first().is_some_and(|byte| b" \t\r\n>/".contains(byte)))
    };
    head.windows(6).any(is_tag)
        || head.windows(6).any(|window| window == b":PMML ")
        || has_extension(path)
}

fn is_wide(head: &[u8]) -> bool {
    matches!(head, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'<', ..])
}

fn has_extension(path: &str) -> bool {
    path.rsplit('.')
        .next()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("pmml"))
}

/// Inspects one document.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = document(check);
    settle(check, outcome, &MALFORMED, &TOO_LARGE)?;
    Ok(())
}

/// Gives a source to a parser that reads, and bounds what it takes between two events.
struct Stream<'a> {
    source: &'a dyn Source,
    offset: u64,
    failure: Option<ReadError>,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.source.size().saturating_sub(self.offset);
        let count = left.min(buffer.len() as u64);
        if count == 0 {
            return Ok(0);
        }
        match self.source.read(self.offset..self.offset + count) {
            Ok(bytes) => {
                for (slot, byte) in buffer.iter_mut().zip(bytes.iter()) {
                    *slot = *byte;
                }
                self.offset += count;
                Ok(bytes.len().min(buffer.len()))
            }
            Err(error) => {
                self.failure = Some(error);
                Err(std::io::Error::other("the source failed"))
            }
        }
    }
}

/// Fails once a single event takes more than its bound; `allowance` is renewed for each event.
struct Bounded<R> {
    inner: R,
    allowance: usize,
}

impl<R: BufRead> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl<R: BufRead> BufRead for Bounded<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.allowance == 0 {
            return Err(std::io::Error::other("too large"));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.allowance = self.allowance.saturating_sub(amount);
        self.inner.consume(amount);
    }
}

#[derive(Debug, Default)]
struct Document {
    version: String,
    namespace: String,
    application: Option<String>,
    model_types: Vec<String>,
    fields: Vec<Value>,
    field_names: HashSet<String>,
    declared_fields: Option<u64>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    tree_count: u64,
    functions: HashSet<String>,
    defined: HashSet<String>,
    kept_bytes: usize,
}

/// Elements that hold a model, directly below the root.
const MODELS: &[&str] = &[
    "AnomalyDetectionModel",
    "AssociationModel",
    "BayesianNetworkModel",
    "BaselineModel",
    "ClusteringModel",
    "GaussianProcessModel",
    "GeneralRegressionModel",
    "MiningModel",
    "NaiveBayesModel",
    "NearestNeighborModel",
    "NeuralNetwork",
    "RegressionModel",
    "RuleSetModel",
    "SequenceModel",
    "Scorecard",
    "SupportVectorMachineModel",
    "TextModel",
    "TimeSeriesModel",
    "TreeModel",
];

fn document(check: &mut Check<'_>) -> Result<(), Trouble> {
    let head = check.read(0..check.size().min(4))?;
    if is_wide(&head) {
        return Err(Trouble::malformed(0, "the document is not in UTF-8"));
    }
    let stream = Stream {
        source: check.source,
        offset: 0,
        failure: None,
    };
    let mut reader = Reader::from_reader(Bounded {
        inner: BufReader::with_capacity(256 * 1024, stream),
        allowance: MAX_EVENT_BYTES,
    });
    let config = reader.config_mut();
    config.check_end_names = true;
    config.check_comments = true;
    let mut buffer = Vec::new();
    let mut stack: Vec<String> = Vec::new();
    let mut document = Document::default();
    let mut is_root_closed = false;
    loop {
        buffer.clear();
        reader.get_mut().allowance = MAX_EVENT_BYTES;
        let offset = reader.buffer_position();
        let event = match reader.read_event_into(&mut buffer) {
            Ok(event) => event,
            Err(error) => {
                let stream = reader.get_mut().inner.get_mut();
                if let Some(failure) = stream.failure.take() {
                    return Err(failure.into());
                }
                if reader.get_mut().allowance == 0 {
                    return Err(Trouble::too_large(offset, "a tag or text is too long"));
                }
                return Err(Trouble::malformed(offset, format!("not XML: {error}")));
            }
        };
        match event {
            Event::Decl(declaration) => {
                if let Some(Ok(encoding)) = declaration.encoding() {
                    let encoding = encoding.to_ascii_lowercase();
                    if !matches!(encoding.as_str(), "utf-8" | "utf8" | "us-ascii" | "ascii") {
                        return Err(Trouble::malformed(
                            offset,
                            format!("the encoding {} instead of UTF-8", quote(&encoding)),
                        ));
                    }
                }
            }
            Event::DocType(_) => {
                return Err(Trouble::rule(
                    &DOCTYPE,
                    offset,
                    "the document has a document type declaration",
                ));
            }
            Event::PI(instruction) => {
                let text: &str = &instruction;
                return Err(Trouble::malformed(
                    offset,
                    format!("the processing instruction {}", quote(text)),
                ));
            }
            Event::Start(tag) => {
                if is_root_closed {
                    return Err(Trouble::malformed(offset, "a second root element"));
                }
                let name = element(&tag, &stack, &mut document, offset)?;
                if stack.len() >= MAX_DEPTH {
                    return Err(Trouble::malformed(
                        offset,
                        format!("nested deeper than {MAX_DEPTH} levels"),
                    ));
                }
                stack.push(name);
            }
            Event::Empty(tag) => {
                if is_root_closed {
                    return Err(Trouble::malformed(offset, "a second root element"));
                }
                element(&tag, &stack, &mut document, offset)?;
                is_root_closed = stack.is_empty();
            }
            Event::End(_) => {
                stack.pop();
                is_root_closed = stack.is_empty();
            }
            Event::GeneralRef(reference) => {
                entity(&reference, offset)?;
            }
            Event::Text(text) => {
                let outside: &str = &text;
                if stack.is_empty() && !outside.trim_matches('\u{feff}').trim().is_empty() {
                    return Err(Trouble::malformed(
                        offset,
                        "text outside of the root element",
                    ));
                }
            }
            Event::CData(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    let end = check.size();
    if !is_root_closed {
        return Err(Trouble::malformed(end, "the root element has no end"));
    }
    finish(check, document, end)
}

fn entity(name: &str, offset: u64) -> Result<(), Trouble> {
    if name.starts_with('#') || matches!(name, "amp" | "lt" | "gt" | "quot" | "apos") {
        return Ok(());
    }
    Err(Trouble::rule(
        &ENTITY,
        offset,
        format!("the entity {}", quote(name)),
    ))
}

/// Looks at one tag; returns its name without a prefix.
fn element(
    tag: &BytesStart<'_>,
    stack: &[String],
    document: &mut Document,
    offset: u64,
) -> Result<String, Trouble> {
    let name = tag.local_name().as_ref().to_owned();
    if name.len() > MAX_NAME_BYTES {
        return Err(Trouble::malformed(offset, "a name that is too long"));
    }
    let mut attributes: Vec<(String, String)> = Vec::new();
    for attribute in tag.attributes() {
        // Finding duplicates takes the square of their number.
        if attributes.len() >= MAX_ATTRIBUTES {
            return Err(Trouble::malformed(offset, "a tag with too many attributes"));
        }
        let attribute =
            attribute.map_err(|error| Trouble::malformed(offset, format!("not XML: {error}")))?;
        let raw: &str = &attribute.value;
        for part in raw.split('&').skip(1) {
            let Some((name, _)) = part.split_once(';') else {
                return Err(Trouble::malformed(offset, "an ampersand that stands alone"));
            };
            entity(name, offset)?;
        }
        let value = quick_xml::escape::unescape(raw)
            .map_err(|error| Trouble::malformed(offset, format!("not XML: {error}")))?
            .into_owned();
        attributes.push((attribute.key.as_ref().to_owned(), value));
    }
    let attribute = |key: &str| {
        attributes
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    };
    let required = |key: &str| {
        attribute(key).ok_or_else(|| Trouble::malformed(offset, format!("`{name}` lacks `{key}`")))
    };
    if stack.is_empty() {
        if name != "PMML" {
            return Err(Trouble::malformed(
                offset,
                format!("the root element is {}, not `PMML`", quote(&name)),
            ));
        }
        required("version")?.clone_into(&mut document.version);
        document.namespace = attributes
            .iter()
            .find(|(key, value)| key.starts_with("xmlns") && value.contains("dmg.org/PMML"))
            .map(|(_, value)| value.clone())
            .unwrap_or_default();
        return Ok(name);
    }
    let is_kept = matches!(
        name.as_str(),
        "DataField" | "MiningField" | "DefineFunction" | "Application"
    );
    if is_kept {
        let bytes: usize = attributes.iter().map(|(_, value)| value.len() + 64).sum();
        document.kept_bytes = document.kept_bytes.saturating_add(bytes);
        if document.kept_bytes > MAX_KEPT_BYTES {
            return Err(Trouble::too_large(offset, "too many fields"));
        }
    }
    let parent = stack.last().map_or("", String::as_str);
    let is_top_model = stack
        .iter()
        .filter(|name| MODELS.contains(&name.as_str()))
        .count()
        == 1;
    match (parent, name.as_str()) {
        (_, "include" | "Include") if attribute("href").is_some() => {
            return Err(Trouble::rule(
                &ENTITY,
                offset,
                "an inclusion of another document",
            ));
        }
        ("Header", "Application") => {
            document.application = attribute("name").map(ToOwned::to_owned);
        }
        ("PMML", "DataDictionary") => {
            document.declared_fields =
                match attribute("numberOfFields") {
                    Some(count) => Some(count.trim().parse().map_err(|_| {
                        Trouble::malformed(offset, "`numberOfFields` is not a count")
                    })?),
                    None => None,
                };
        }
        ("DataDictionary", "DataField") => {
            let field = required("name")?.to_owned();
            if !document.field_names.insert(field.clone()) {
                return Err(Trouble::malformed(
                    offset,
                    format!("the field {} appears twice", quote(&field)),
                ));
            }
            if document.fields.len() >= 100_000 {
                return Err(Trouble::too_large(offset, "too many fields"));
            }
            let data_type = required("dataType")?.to_owned();
            document
                .fields
                .push(json!({"name": field, "type": data_type}));
        }
        ("PMML", model) if MODELS.contains(&model) => {
            document.model_types.push(model.to_owned());
            if document.model_types.len() > 1000 {
                return Err(Trouble::malformed(offset, "over a thousand models"));
            }
        }
        ("MiningSchema", "MiningField") if is_top_model => {
            let field = required("name")?.to_owned();
            let usage = attribute("usageType").unwrap_or("active");
            if matches!(usage, "predicted" | "target") {
                document.outputs.push(field);
            } else if usage == "active" {
                document.inputs.push(field);
            }
        }
        (_, "DefineFunction") => {
            document.defined.insert(required("name")?.to_owned());
        }
        (_, "Apply") => {
            let function = required("function")?;
            if !document.functions.contains(function) {
                if document.functions.len() >= 10_000 || function.len() > 1000 {
                    return Err(Trouble::malformed(offset, "too many functions"));
                }
                document.functions.insert(function.to_owned());
            }
        }
        _ => {}
    }
    if name == "TreeModel" {
        document.tree_count += 1;
    }
    Ok(name)
}

fn finish(check: &mut Check<'_>, document: Document, end: u64) -> Result<(), Trouble> {
    let is_known = document
        .version
        .split_once('.')
        .is_some_and(|(major, _)| matches!(major, "2" | "3" | "4"));
    if !is_known {
        return Err(Trouble::malformed(
            0,
            format!("version {} of PMML", quote(&document.version)),
        ));
    }
    if document.model_types.is_empty() {
        return Err(Trouble::malformed(end, "the document has no model"));
    }
    if document
        .declared_fields
        .is_some_and(|count| count != document.fields.len() as u64)
    {
        return Err(Trouble::malformed(
            end,
            format!(
                "`numberOfFields` is {}, but there are {} fields",
                document.declared_fields.unwrap_or_default(),
                document.fields.len()
            ),
        ));
    }
    if let Some(field) = document
        .inputs
        .iter()
        .find(|field| !document.field_names.contains(*field))
    {
        return Err(Trouble::malformed(
            end,
            format!("the model uses {}, which is no field", quote(field)),
        ));
    }
    let mut custom: Vec<&String> = document
        .functions
        .iter()
        .filter(|function| {
            function.contains(['.', ':'])
                && function.contains(char::is_alphabetic)
                && !document.defined.contains(*function)
        })
        .collect();
    custom.sort();
    for function in custom {
        check.find(&CODE, None, format!("the function {}", quote(function)));
    }
    let by_name: HashMap<&str, &Value> = document
        .fields
        .iter()
        .filter_map(|field| Some((field.get("name")?.as_str()?, field)))
        .collect();
    let field = |name: &String| {
        by_name
            .get(name.as_str())
            .map_or_else(|| json!({"name": name}), |field| (*field).clone())
    };
    let inputs: Vec<Value> = document.inputs.iter().take(1000).map(field).collect();
    let outputs: Vec<Value> = document.outputs.iter().take(1000).map(field).collect();
    check.fact("format_version", document.version);
    check.fact("namespace", document.namespace);
    check.fact("application", document.application);
    check.fact("model_types", document.model_types);
    check.fact("feature_count", document.inputs.len());
    if document.tree_count > 0 {
        check.fact("tree_count", document.tree_count);
    }
    check.fact("signature", json!({"inputs": inputs, "outputs": outputs}));
    Ok(())
}
