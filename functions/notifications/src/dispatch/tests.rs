//! Who gets an event, and what follows from it.

use super::*;
use shared::domain::{ModelName, Principal, VersionNumber};

pub(crate) fn event(kind: EventType, model: Option<&str>) -> Event {
    Event {
        id: "01J0000000000000000000000A".into(),
        schema_version: 1,
        kind,
        tenant: TenantName::default_tenant(),
        model: model.map(|name| ModelName::parse(name).unwrap()),
        version: model.map(|_| VersionNumber::FIRST),
        alias: None,
        sequence: None,
        actor: Principal::parse("ann").unwrap(),
        reason: None,
        time: Timestamp::from_millis(1_000),
        request_id: "r".into(),
        data: serde_json::Map::new(),
    }
}

pub(crate) fn subscription(id: &str, kinds: &[EventType], model: Option<&str>) -> Subscription {
    Subscription {
        id: id.into(),
        tenant: TenantName::default_tenant(),
        url: "https://example.com/".into(),
        event_types: kinds.to_vec(),
        model: model.map(|name| ModelName::parse(name).unwrap()),
        secret: crate::sign::secret_of(&[1; 24]),
        description: None,
        created_by: Principal::parse("ann").unwrap(),
        created_at: Timestamp::from_millis(0),
    }
}

#[test]
fn an_event_goes_to_those_who_want_it() {
    let subscriptions = [
        subscription("all", &[], None),
        subscription("ready", &[EventType::VersionReady], None),
        subscription("iris", &[], Some("iris")),
        subscription(
            "iris-aliases",
            &[EventType::AliasSet, EventType::AliasRemoved],
            Some("iris"),
        ),
    ];
    let check = |kind, model, expected: &[&str]| {
        let found: Vec<_> = outgoing_of(
            &event(kind, model),
            &subscriptions,
            Timestamp::from_millis(0),
        )
        .into_iter()
        .map(|one| one.delivery.subscription_id)
        .collect();
        assert_eq!(found, expected, "{kind} of {model:?}");
    };
    check(
        EventType::VersionReady,
        Some("iris"),
        &["all", "ready", "iris"],
    );
    check(EventType::VersionReady, Some("wine"), &["all", "ready"]);
    check(
        EventType::AliasSet,
        Some("iris"),
        &["all", "iris", "iris-aliases"],
    );
    check(EventType::ModelCreated, None, &["all"]);
}

#[test]
fn an_event_never_has_more_deliveries_than_a_transaction_holds() {
    let subscriptions: Vec<_> = (0..200)
        .map(|number| subscription(&number.to_string(), &[], None))
        .collect();
    let event = event(EventType::VersionReady, Some("iris"));
    let count = outgoing_of(&event, &subscriptions, Timestamp::from_millis(0)).len();
    assert!(1 + 2 * count + work_of(&event).len() <= 100);
}

#[test]
fn a_registered_version_is_looked_after() {
    let work = work_of(&event(EventType::VersionRegistered, Some("iris")));
    assert_eq!(work[0].kind, WorkKind::Validate);
    assert_eq!(work[0].due, Timestamp::from_millis(301_000));
    assert_eq!(
        work[0].subject,
        r#"{"model":"iris","tenant":"default","version":1}"#
    );
    let work = work_of(&event(EventType::VersionReady, Some("iris")));
    assert_eq!(work[0].kind, WorkKind::Package);
    assert!(work_of(&event(EventType::VersionPackaged, Some("iris"))).is_empty());
}

#[test]
fn only_events_about_models_change_the_tag_index() {
    let pairs = json!([["team", "a"], ["team", "b"]]);
    let changed = |kind| {
        changed_tags(&event(kind, Some("iris")).with("tags_changed", pairs.clone())).len()
    };
    assert_eq!(changed(EventType::ModelUpdated), 2);
    assert_eq!(changed(EventType::ModelDeleted), 2);
    assert_eq!(changed(EventType::VersionUpdated), 0);
    assert!(changed_tags(&event(EventType::ModelCreated, Some("iris"))).is_empty());
}

#[test]
fn every_type_of_event_is_documented() {
    let page = include_str!("../../../docs/events.md");
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/events.schema.json")).unwrap();
    let kinds: Vec<_> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(schema["properties"]["type"]["enum"], json!(kinds));
    for kind in kinds {
        assert!(page.contains(&format!("\n| `{kind}` |")), "{kind}");
    }
}
