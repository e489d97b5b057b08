//! The grammar of MLflow's searches: filters and orders, without knowing what is searched.
//!
//! ```text
//! filter     := condition (AND condition)*          more ANDs than needed are taken, as MLflow's server does
//! condition  := identifier comparator value | identifier IS [NOT] NULL
//! identifier := [entity '.'] key                    either may stand in `back quotes`, "double" or 'single' quotes
//! comparator := = != < <= > >= LIKE ILIKE IN NOT IN
//! value      := 'text' | "text" | number | ('text', …)
//! order      := identifier [ASC | DESC]
//! ```
//!
//! Which identifiers there are, which comparators they take and what their values must be is up to each search.
//! Keywords may be in any case. It takes a little more than MLflow's own parser, which trips over keys that SQL knows.

use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::fmt;

/// What a condition or an order is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identifier {
    /// The kind, such as `tags`, if one was written.
    pub entity: Option<String>,
    /// The key, without its quotes.
    pub key: String,
}

/// How a condition compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparator {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `LIKE`: `%` is any text, `_` any character.
    Like,
    /// `ILIKE`: as `LIKE`, in any case.
    Ilike,
    /// `IN`
    In,
    /// `NOT IN`
    NotIn,
    /// `IS NULL`
    IsNull,
    /// `IS NOT NULL`
    IsNotNull,
}

impl Comparator {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Like => "LIKE",
            Self::Ilike => "ILIKE",
            Self::In => "IN",
            Self::NotIn => "NOT IN",
            Self::IsNull => "IS NULL",
            Self::IsNotNull => "IS NOT NULL",
        }
    }

    /// Whether an order of two values is what it asks for; only `=`, `!=`, `<`, `<=`, `>` and `>=` ask for one.
    pub const fn holds(self, order: Option<Ordering>) -> bool {
        match (self, order) {
            (Self::NotEqual, order) => !matches!(order, Some(Ordering::Equal)),
            (Self::Equal, Some(order)) => order.is_eq(),
            (Self::Less, Some(order)) => order.is_lt(),
            (Self::LessOrEqual, Some(order)) => order.is_le(),
            (Self::Greater, Some(order)) => order.is_gt(),
            (Self::GreaterOrEqual, Some(order)) => order.is_ge(),
            _ => false,
        }
    }
}

impl fmt::Display for Comparator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What a condition compares with.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// A quoted text, without its quotes; a doubled quote within is one.
    Text(String),
    /// A number, as it was written.
    Number(String),
    /// A list of texts, at least one.
    List(Vec<String>),
    /// Nothing, with `IS NULL` and `IS NOT NULL`.
    Nothing,
}

impl fmt::Display for Literal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(formatter, "'{text}'"),
            Self::Number(text) => formatter.write_str(text),
            Self::List(texts) => write!(formatter, "('{}')", texts.join("', '")),
            Self::Nothing => Ok(()),
        }
    }
}

/// One condition of a filter.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// What it is about.
    pub identifier: Identifier,
    /// How it compares.
    pub comparator: Comparator,
    /// With what.
    pub value: Literal,
}

impl Condition {
    /// Whether a text is as the condition asks; a condition without a text to compare with holds for none.
    pub fn holds_for(&self, text: &str) -> bool {
        match (self.comparator, &self.value) {
            (Comparator::Like, Literal::Text(pattern)) => is_like(text, pattern),
            (Comparator::Ilike, Literal::Text(pattern)) => {
                is_like(&text.to_lowercase(), &pattern.to_lowercase())
            }
            (Comparator::In, Literal::List(texts)) => texts.iter().any(|one| one == text),
            (Comparator::NotIn, Literal::List(texts)) => texts.iter().all(|one| one != text),
            (comparator, Literal::Text(other) | Literal::Number(other)) => {
                comparator.holds(Some(text.cmp(other)))
            }
            (Comparator::IsNotNull, _) => true,
            _ => false,
        }
    }
}

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What it orders by.
    pub identifier: Identifier,
    /// Whether the smallest comes first.
    pub is_ascending: bool,
}

/// Reads a filter; an empty one has no conditions.
pub fn parse(filter: &str) -> Result<Vec<Condition>> {
    let mut reader = Reader::new(filter);
    let mut conditions = Vec::new();
    loop {
        let mut has_and = conditions.is_empty();
        while reader.word_is("AND") {
            has_and = true;
        }
        if reader.is_at_end() {
            return Ok(conditions);
        }
        if !has_and {
            return Err(reader.refused());
        }
        conditions.push(reader.condition()?);
    }
}

/// Reads one key of an order, such as `metrics.loss DESC`.
pub fn parse_order(order: &str) -> Result<Order> {
    let refused = || {
        Error::invalid(
            "order_by",
            format!("Invalid order_by clause '{order}'. Could not be parsed."),
        )
    };
    let mut reader = Reader::new(order);
    let identifier = reader.identifier().map_err(|_| refused())?;
    let direction = reader.rest().trim();
    let is_ascending = match direction.to_lowercase().as_str() {
        "" | "asc" => true,
        "desc" => false,
        other if other.chars().all(char::is_alphanumeric) => {
            return Err(Error::invalid(
                "order_by",
                format!("Invalid ordering key in order_by clause '{order}'."),
            ));
        }
        _ => return Err(refused()),
    };
    Ok(Order {
        identifier,
        is_ascending,
    })
}

/// Whether a text is like a pattern: `%` is any text, `_` any one character.
pub fn is_like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    let (mut at, mut wanted) = (0, 0);
    // Where the last `%` stood, and how much of the text it takes so far.
    let mut last_any: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(wanted) {
            Some('%') => {
                last_any = Some((wanted, at));
                wanted += 1;
            }
            Some(character) if *character == '_' || text.get(at) == Some(character) => {
                at += 1;
                wanted += 1;
            }
            _ => match last_any {
                Some((any, taken)) => {
                    last_any = Some((any, taken + 1));
                    at = taken + 1;
                    wanted = any + 1;
                }
                None => return false,
            },
        }
    }
    pattern
        .iter()
        .skip(wanted)
        .all(|character| *character == '%')
}

/// Reads a text from its beginning to its end.
#[derive(Debug)]
struct Reader<'a> {
    whole: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(whole: &'a str) -> Self {
        Self { whole, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.whole.get(self.at..).unwrap_or_default()
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_spaces();
        self.rest().is_empty()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn refused(&self) -> Error {
        let clause: String = self.rest().trim().chars().take(200).collect();
        Error::invalid(
            "filter",
            format!(
                "Invalid clause(s) in filter string: '{clause}'. Expected a list of comparisons separated by 'AND' (e.g. 'metrics.loss > 0.1 AND params.lr = '0.01'')."
            ),
        )
    }

    /// Takes a keyword, in any case, if it comes next.
    fn word_is(&mut self, word: &str) -> bool {
        self.skip_spaces();
        let rest = self.rest();
        let is_next = rest
            .get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
            && !rest
                .get(word.len()..)
                .is_some_and(|after| after.starts_with(is_of_key));
        if is_next {
            self.at += word.len();
        }
        is_next
    }

    /// A text in quotes, without them; a doubled quote is one.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let start = self.at;
        let mut text = String::new();
        let mut rest = self.rest().chars();
        rest.next();
        self.at += quote.len_utf8();
        while let Some(character) = rest.next() {
            self.at += character.len_utf8();
            if character != quote {
                text.push(character);
            } else if rest.as_str().starts_with(quote) {
                rest.next();
                self.at += quote.len_utf8();
                text.push(quote);
            } else {
                return Ok(text);
            }
        }
        self.at = start;
        Err(self.refused())
    }

    /// A name in quotes, or as long as characters of names follow.
    fn name(&mut self, takes_dots: bool) -> Result<String> {
        if let Some(quote @ ('`' | '"' | '\'')) = self.peek() {
            self.quoted(quote)
        } else {
            let name: String = self
                .rest()
                .chars()
                .take_while(|character| is_of_key(*character) && (takes_dots || *character != '.'))
                .collect();
            if name.is_empty() {
                return Err(self.refused());
            }
            self.at += name.len();
            Ok(name)
        }
    }

    fn identifier(&mut self) -> Result<Identifier> {
        self.skip_spaces();
        let first = self.name(false)?;
        if self.peek() != Some('.') {
            return Ok(Identifier {
                entity: None,
                key: first,
            });
        }
        self.at += 1;
        Ok(Identifier {
            entity: Some(first),
            key: self.name(true)?,
        })
    }

    fn comparator(&mut self) -> Result<Comparator> {
        self.skip_spaces();
        let symbol: String = self
            .rest()
            .chars()
            .take_while(|character| matches!(character, '=' | '!' | '<' | '>' | '~'))
            .collect();
        if !symbol.is_empty() {
            let found = match symbol.as_str() {
                "=" => Comparator::Equal,
                "!=" => Comparator::NotEqual,
                "<" => Comparator::Less,
                "<=" => Comparator::LessOrEqual,
                ">" => Comparator::Greater,
                ">=" => Comparator::GreaterOrEqual,
                _ => {
                    return Err(Error::invalid(
                        "filter",
                        format!("Invalid comparator '{symbol}' in filter string."),
                    ));
                }
            };
            self.at += symbol.len();
            return Ok(found);
        }
        for (word, found) in [
            ("LIKE", Comparator::Like),
            ("ILIKE", Comparator::Ilike),
            ("IN", Comparator::In),
        ] {
            if self.word_is(word) {
                return Ok(found);
            }
        }
        if self.word_is("NOT") && self.word_is("IN") {
            return Ok(Comparator::NotIn);
        }
        if self.word_is("IS") {
            let is_not = self.word_is("NOT");
            if self.word_is("NULL") {
                return Ok(if is_not {
                    Comparator::IsNotNull
                } else {
                    Comparator::IsNull
                });
            }
        }
        Err(self.refused())
    }

    fn condition(&mut self) -> Result<Condition> {
        let identifier = self.identifier()?;
        let comparator = self.comparator()?;
        let value = match comparator {
            Comparator::IsNull | Comparator::IsNotNull => Literal::Nothing,
            Comparator::In | Comparator::NotIn => self.list()?,
            _ => self.literal()?,
        };
        Ok(Condition {
            identifier,
            comparator,
            value,
        })
    }

    fn literal(&mut self) -> Result<Literal> {
        self.skip_spaces();
        match self.peek() {
            Some(quote @ ('\'' | '"')) => self.quoted(quote).map(Literal::Text),
            Some('(') => self.list(),
            _ => {
                let number: String = self
                    .rest()
                    .chars()
                    .take_while(|character| {
                        character.is_ascii_alphanumeric() || matches!(character, '+' | '-' | '.')
                    })
                    .collect();
                let is_number = number.contains(|character: char| character.is_ascii_digit())
                    && number.parse::<f64>().is_ok();
                if !is_number {
                    let value: String = self.rest().trim().chars().take(200).collect();
                    return Err(Error::invalid(
                        "filter",
                        format!(
                            "Expected a quoted string value or a number in filter string. Got value {value}"
                        ),
                    ));
                }
                self.at += number.len();
                Ok(Literal::Number(number))
            }
        }
    }

    fn list(&mut self) -> Result<Literal> {
        let refused = |why: &str| {
            Error::invalid(
                "filter",
                format!(
                    "While parsing a list in the query, expected a non-empty list of string values, but got {why}"
                ),
            )
        };
        self.skip_spaces();
        if self.peek() != Some('(') {
            return Err(refused("ill-formed list."));
        }
        self.at += 1;
        let mut texts = Vec::new();
        loop {
            self.skip_spaces();
            match self.peek() {
                Some(quote @ ('\'' | '"')) => texts.push(self.quoted(quote)?),
                Some(')') if texts.is_empty() => return Err(refused("empty list")),
                Some(')') => {}
                Some(_) => return Err(refused("a value that is no quoted text.")),
                None => return Err(refused("ill-formed list.")),
            }
            self.skip_spaces();
            match self.peek() {
                Some(',') => self.at += 1,
                Some(')') => {
                    self.at += 1;
                    return Ok(Literal::List(texts));
                }
                _ => return Err(refused("ill-formed list.")),
            }
        }
    }
}

/// Characters of names that stand without quotes.
fn is_of_key(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '.' | '/' | '-' | ':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(filter: &str) -> String {
        match parse(filter) {
            Ok(conditions) => conditions
                .iter()
                .map(|condition| {
                    let Identifier { entity, key } = &condition.identifier;
                    let entity = entity.as_deref().unwrap_or("-");
                    format!(
                        "{entity}|{key}|{}|{}",
                        condition.comparator, condition.value
                    )
                })
                .collect::<Vec<_>>()
                .join(" & "),
            Err(_) => "refused".to_owned(),
        }
    }

    #[test]
    fn filters_are_read() {
        for (filter, expected) in [
            ("", ""),
            ("  ", ""),
            ("name = 'a'", "-|name|=|'a'"),
            (
                "name='a'and run_id IN ('b' , \"c\",)",
                "-|name|=|'a' & -|run_id|IN|('b', 'c')",
            ),
            ("metrics.loss > -0.5e3 AND", "metrics|loss|>|-0.5e3"),
            ("AND params.`a b` != \"it's\"", "params|a b|!=|'it's'"),
            (
                "tags.\"a.b\" ilike '%x_' AND AND `tag`.c is not null",
                "tags|a.b|ILIKE|'%x_' & tag|c|IS NOT NULL|",
            ),
            ("tags.a.b IS NULL", "tags|a.b|IS NULL|"),
            ("tags.Case like 'x'", "tags|Case|LIKE|'x'"),
            ("name NOT IN ('a')", "-|name|NOT IN|('a')"),
            ("name = 'it''s'", "-|name|=|'it's'"),
            ("metrics.m-1>=1", "metrics|m-1|>=|1"),
            ("name = 'AND x = y'", "-|name|=|'AND x = y'"),
        ] {
            assert_eq!(shown(filter), expected, "{filter}");
        }
        for filter in [
            "name",
            "name =",
            "name = a",
            "= 'a'",
            "name = 'a",
            "name == 'a'",
            "name <> 'a'",
            "(name = 'a')",
            "name = 'a' OR name = 'b'",
            "name = 'a' name = 'b'",
            "name IN ()",
            "name IN (1)",
            "name IN 'a'",
            "name IN ('a'",
            "name IS 'a'",
            "name NOT LIKE 'a'",
            "metrics. > 1",
            "name = 'a';",
            "metrics.x > nan",
        ] {
            assert_eq!(shown(filter), "refused", "{filter}");
        }
    }

    #[test]
    fn orders_are_read() {
        for (order, key, is_ascending) in [
            ("start_time", "start_time", true),
            ("metrics.`a b` DESC", "a b", false),
            ("  tags.x  asc ", "x", true),
        ] {
            let read = parse_order(order).unwrap();
            assert_eq!(
                (read.identifier.key.as_str(), read.is_ascending),
                (key, is_ascending)
            );
        }
        for order in ["", "name up", "name desc asc", "a, b", "DESC name desc"] {
            assert!(parse_order(order).is_err(), "{order}");
        }
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (text, pattern, expected) in [
            ("abc", "abc", true),
            ("abc", "ab", false),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "%b%", true),
            ("abc", "a_c", true),
            ("abc", "a__c", false),
            ("", "%", true),
            ("", "", true),
            ("", "_", false),
            ("aXbXc", "a%X%c", true),
            ("a.c", "a%d", false),
            ("é", "_", true),
            ("ABC", "abc", false),
        ] {
            assert_eq!(is_like(text, pattern), expected, "{text} LIKE {pattern}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_panics(filter in "\\PC{0,40}") {
            let _ = parse(&filter);
            let _ = parse_order(&filter);
        }

        #[test]
        fn texts_are_read_back(text in "\\PC{0,20}", key in "[a-z`\"' .]{1,8}") {
            let key_quoted = key.replace('`', "``");
            let text_quoted = text.replace('\'', "''");
            let read = parse(&format!("tags.`{key_quoted}` = '{text_quoted}'")).unwrap();
            prop_assert_eq!(&read[0].identifier.key, &key);
            prop_assert!(read[0].holds_for(&text));
        }
    }
}
