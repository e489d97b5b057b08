//! What people read, and what nobody can make them read.

use super::template::{Target, check, render};
use super::*;
use crate::client::tests::app;
use crate::dispatch::tests::{event, subscription};
use shared::domain::EventType;
use shared::domain::subscription::Format;

fn for_people(format: Format, template: Option<&str>) -> Subscription {
    Subscription {
        format,
        template: template.map(str::to_owned),
        ..subscription("s", &[], None)
    }
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_slack_message_is_block_kit_with_a_link() {
    let app = app();
    let ready = event(EventType::VersionReady, Some("iris")).with("verdict", "passed");
    let message = json_of(&slack(&app, &for_people(Format::Slack, None), &[&ready]).unwrap());
    assert_eq!(message["text"], "iris 1 is ready");
    assert_eq!(
        message["blocks"][0]["text"]["text"],
        "*<https://registry.example/v1/models/iris/versions/1|iris 1 is ready>*"
    );
    assert_eq!(message["blocks"][1]["type"], "context");
}

#[test]
fn a_teams_message_is_an_adaptive_card_with_a_button() {
    let app = app();
    let moved = event(EventType::AliasSet, Some("iris")).with("to", 3);
    let message = json_of(&teams(&app, &for_people(Format::Teams, None), &[&moved]).unwrap());
    let card = &message["attachments"][0]["content"];
    assert_eq!(card["type"], "AdaptiveCard");
    assert_eq!(card["actions"][0]["type"], "Action.OpenUrl");
    assert_eq!(
        card["actions"][0]["url"],
        "https://registry.example/v1/models/iris/versions/1"
    );
    assert_eq!(card["body"][1]["facts"][0]["title"], "By");
}

#[test]
fn an_email_has_a_subject_and_a_digest_counts() {
    let app = app();
    let ready = event(EventType::VersionReady, Some("iris"));
    let subscription = for_people(Format::Email, None);
    let (subject, text) = email(&app, &subscription, &[&ready]).unwrap();
    assert_eq!(subject, "[Slipway] iris 1 is ready");
    assert!(text.contains("https://registry.example/v1/models/iris/versions/1"));
    let many: Vec<&Event> = vec![&ready; 25];
    let (subject, text) = email(&app, &subscription, &many).unwrap();
    assert_eq!(subject, "[Slipway] 25 events of the model registry");
    assert!(text.ends_with("and 5 more"));
    let message = json_of(&slack(&app, &for_people(Format::Slack, None), &many).unwrap());
    assert!(
        message["blocks"].as_array().unwrap().len() <= 50,
        "Slack takes 50 blocks"
    );
}

#[test]
fn values_cannot_make_links_mentions_or_headings() {
    let app = app();
    let nasty = event(EventType::VersionReady, Some("<!channel> *x* [y](z) & co"));
    let message = slack(&app, &for_people(Format::Slack, None), &[&nasty]).unwrap();
    assert!(!message.contains("<!channel>"), "{message}");
    let text = render(&app, "{{ event.model }}|{{ link }}", &nasty, Target::Slack).unwrap();
    assert!(text.starts_with("&lt;!channel&gt;"), "{text}");
    let text = render(&app, "{{ event.model }}", &nasty, Target::Teams).unwrap();
    assert!(text.contains(r"\[y\]"), "{text}");
}

#[test]
fn a_template_says_it_in_its_owners_words() {
    let app = app();
    let ready = event(EventType::VersionReady, Some("iris"));
    let template = "{% if event.type == 'version.ready' %}:tada: {{ summary|upper }}{% endif %} <{{ link }}|open>";
    let message = slack(&app, &for_people(Format::Slack, Some(template)), &[&ready]).unwrap();
    assert_eq!(
        json_of(&message)["blocks"][0]["text"]["text"],
        ":tada: IRIS 1 IS READY <https://registry.example/v1/models/iris/versions/1|open>"
    );
    // What is not there is empty, however deep it is asked for.
    assert_eq!(
        render(&app, "[{{ event.data.a.b }}]", &ready, Target::Text).unwrap(),
        "[]"
    );
}

#[test]
fn a_template_that_is_wrong_or_endless_is_refused() {
    let app = app();
    let ready = event(EventType::VersionReady, Some("iris"));
    for template in [
        "{{ event",
        "{% for %}",
        "{{ event.type | nonsense_filter_that( }}",
    ] {
        assert!(check(template).is_err(), "{template}");
    }
    assert!(check(&"x".repeat(4_001)).is_err());
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    assert!(render(&app, endless, &ready, Target::Text).is_err());
    // No file, no other template.
    assert!(render(&app, "{% include '/etc/passwd' %}", &ready, Target::Text).is_err());
    let long = "{{ 'x' * 9999 }}{{ 'x' * 9999 }}";
    assert!(render(&app, long, &ready, Target::Text).map_or(true, |text| text.len() <= 12_010));
}
