//! Templates of messages: Jinja's language without files, code or side effects, and with bounded work.

use super::summary::{link, summary};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Output, State, UndefinedBehavior, Value};
use shared::domain::Event;
use shared::{App, Error, Result};

/// Longest template, in characters.
const MAX_TEMPLATE: usize = 4_000;
/// Longest rendered text, in bytes.
const MAX_RENDERED: usize = 12_000;
/// Most steps that one rendering takes.
const FUEL: u64 = 20_000;

/// Who reads what was rendered, and so what must be escaped in values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Slack's `mrkdwn`.
    Slack,
    /// The Markdown of an Adaptive Card.
    Teams,
    /// Plain text.
    Text,
}

impl Target {
    /// A value as it must stand in the text, so that it cannot make a link, a mention or a heading.
    pub(super) fn escape(self, text: &str) -> String {
        let mut escaped = String::with_capacity(text.len());
        for character in text.chars() {
            match (self, character) {
                (Self::Slack, '&') => escaped.push_str("&amp;"),
                (Self::Slack, '<') => escaped.push_str("&lt;"),
                (Self::Slack, '>') => escaped.push_str("&gt;"),
                (Self::Slack, '*' | '_' | '~' | '`') => {
                    // Slack has no escape for these; an invisible joiner keeps them from pairing.
                    escaped.push('\u{2060}');
                    escaped.push(character);
                }
                (Self::Teams, '\\' | '*' | '_' | '[' | ']' | '`' | '#' | '<' | '>' | '!') => {
                    escaped.push('\\');
                    escaped.push(character);
                }
                (_, other) => escaped.push(other),
            }
        }
        escaped
    }
}

fn environment(target: Target) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(20);
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_auto_escape_callback(|_| AutoEscape::Custom("target".into()));
    environment.set_formatter(move |output: &mut Output, _: &mut State, value: &Value| {
        if value.is_undefined() || value.is_none() {
            return Ok(());
        }
        if value.is_safe() {
            return Ok(std::fmt::Write::write_str(output, &value.to_string())?);
        }
        Ok(std::fmt::Write::write_str(
            output,
            &target.escape(&value.to_string()),
        )?)
    });
    environment
}

/// Checks that a template can be read.
pub(crate) fn check(template: &str) -> Result<()> {
    if template.chars().count() > MAX_TEMPLATE {
        return Err(Error::invalid(
            "template",
            format!("the template is longer than {MAX_TEMPLATE} characters; shorten it"),
        ));
    }
    environment(Target::Text)
        .template_from_str(template)
        .map(drop)
        .map_err(|error| refused(&error))
}

/// Renders a template for an event.
pub(super) fn render(app: &App, template: &str, event: &Event, target: Target) -> Result<String> {
    let environment = environment(target);
    let link = link(app, event).unwrap_or_default();
    let context = minijinja::context! {
        event => Value::from(Serde(event.to_wire())),
        summary => summary(event),
        // Its bytes are percent-encoded, so that nothing in it needs to be escaped.
        link => Value::from_safe_string(link),
    };
    let mut rendered = environment
        .render_str(template, context)
        .map_err(|error| refused(&error))?;
    if rendered.len() > MAX_RENDERED {
        let end = (0..=MAX_RENDERED)
            .rev()
            .find(|end| rendered.is_char_boundary(*end))
            .unwrap_or(0);
        rendered.truncate(end);
        rendered.push('…');
    }
    Ok(rendered)
}

fn refused(error: &minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(" in line {line}"));
    Error::invalid(
        "template",
        format!(
            "the template is not usable{}: {}; see `docs/notifications.md`",
            line.unwrap_or_default(),
            error.detail().unwrap_or("it does not follow the grammar")
        ),
    )
}
