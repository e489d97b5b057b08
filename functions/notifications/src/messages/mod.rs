//! Messages for people: Slack, Microsoft Teams, e-mail; and templates for them.

mod summary;
mod template;

pub(crate) use summary::one_line;
pub(crate) use template::check as check_template;

use crate::messages::summary::{link, summary};
use crate::messages::template::{Target, render};
use serde_json::{Value, json};
use shared::domain::{Event, Subscription};
use shared::{App, Result};

/// Most events that a message tells one by one; of more it tells how many there are.
const MOST_SHOWN: usize = 20;

/// Longest text of a section in Slack, in characters.
const SLACK_SECTION: usize = 3_000;

/// A Slack message in Block Kit: <https://docs.slack.dev/reference/block-kit>.
pub(crate) fn slack(app: &App, subscription: &Subscription, events: &[&Event]) -> Result<String> {
    let mut blocks = Vec::new();
    if events.len() > 1 {
        blocks.push(json!({"type": "header", "text": {
            "type": "plain_text", "text": headline(events),
        }}));
    }
    for event in events.iter().take(MOST_SHOWN) {
        let text = if let Some(template) = &subscription.template {
            render(app, template, event, Target::Slack)?
        } else {
            let text = Target::Slack.escape(&summary(event));
            match link(app, event) {
                Some(link) => format!("*<{link}|{text}>*"),
                None => format!("*{text}*"),
            }
        };
        blocks.push(json!({"type": "section", "text": {
            "type": "mrkdwn", "text": shortened(&text, SLACK_SECTION),
        }}));
        if subscription.template.is_none() {
            let facts: Vec<String> = facts(event)
                .iter()
                .map(|(name, value)| format!("*{name}:* {}", Target::Slack.escape(value)))
                .collect();
            blocks.push(json!({"type": "context", "elements": [{
                "type": "mrkdwn", "text": shortened(&facts.join("  ·  "), SLACK_SECTION),
            }]}));
        }
    }
    if let Some(rest) = rest_of(events) {
        blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": rest}]}));
    }
    // What notifications and screen readers show.
    let text = Target::Slack.escape(&headline(events));
    Ok(json!({"text": text, "blocks": blocks}).to_string())
}

/// A Microsoft Teams message with an Adaptive Card: <https://adaptivecards.io/explorer/>.
pub(crate) fn teams(app: &App, subscription: &Subscription, events: &[&Event]) -> Result<String> {
    let mut body = Vec::new();
    let mut actions = Vec::new();
    if events.len() > 1 {
        body.push(json!({
            "type": "TextBlock", "size": "Large", "weight": "Bolder", "wrap": true,
            "text": headline(events),
        }));
    }
    for event in events.iter().take(MOST_SHOWN) {
        if let Some(template) = &subscription.template {
            let text = render(app, template, event, Target::Teams)?;
            body.push(json!({"type": "TextBlock", "wrap": true, "text": text}));
        } else {
            let text = Target::Teams.escape(&summary(event));
            body.push(json!({"type": "TextBlock", "weight": "Bolder", "wrap": true, "text": text}));
            let facts: Vec<Value> = facts(event)
                .iter()
                .map(|(name, value)| json!({"title": name, "value": Target::Teams.escape(value)}))
                .collect();
            body.push(json!({"type": "FactSet", "facts": facts}));
        }
        // A card shows few buttons.
        if let (Some(link), true) = (link(app, event), actions.len() < 6) {
            let title = if events.len() > 1 {
                shortened(&summary(event), 60)
            } else {
                "Open".to_owned()
            };
            actions.push(json!({"type": "Action.OpenUrl", "title": title, "url": link}));
        }
    }
    if let Some(rest) = rest_of(events) {
        body.push(json!({"type": "TextBlock", "wrap": true, "isSubtle": true, "text": rest}));
    }
    Ok(json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": body,
                "actions": actions,
            },
        }],
    })
    .to_string())
}

/// Subject and text of an e-mail.
pub(crate) fn email(
    app: &App,
    subscription: &Subscription,
    events: &[&Event],
) -> Result<(String, String)> {
    let mut texts = Vec::new();
    for event in events.iter().take(MOST_SHOWN) {
        let text = if let Some(template) = &subscription.template {
            render(app, template, event, Target::Text)?
        } else {
            let mut lines = vec![summary(event)];
            let facts = facts(event);
            lines.extend(
                facts
                    .iter()
                    .map(|(name, value)| format!("  {name}: {value}")),
            );
            lines.extend(link(app, event).map(|link| format!("  {link}")));
            lines.join("\n")
        };
        texts.push(text);
    }
    texts.extend(rest_of(events));
    Ok((
        format!("[Slipway] {}", headline(events)),
        texts.join("\n\n"),
    ))
}

/// One line for all events.
fn headline(events: &[&Event]) -> String {
    match events {
        [one] => summary(one),
        _ => format!("{} events of the model registry", events.len()),
    }
}

fn rest_of(events: &[&Event]) -> Option<String> {
    let rest = events
        .len()
        .checked_sub(MOST_SHOWN)
        .filter(|rest| *rest > 0)?;
    Some(format!("and {rest} more"))
}

/// What a person wants to know beside the summary.
fn facts(event: &Event) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("By", event.actor.to_string()),
        ("At", event.time.to_string()),
    ];
    facts.extend(event.reason.clone().map(|reason| ("Why", reason)));
    let verdict = event.data.get("verdict").and_then(Value::as_str);
    facts.extend(verdict.map(|verdict| ("Verdict", verdict.to_owned())));
    facts
}

/// Cuts a text at a number of characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests;
