//! Who gets an event, and what follows from it.

use super::*;
use serde_json::json;
use shared::domain::subscription::{Circuit, Filter, Format};
use shared::domain::{ModelName, Principal, VersionNumber};

pub(crate) fn event(kind: EventType, model: Option<&str>) -> Event {
    Event {
        id: "01J0000000000000000000000A".into(),
        schema_version: 1,
        kind,
        tenant: TenantName::default_tenant(),
        model: model.map(|name| ModelName::parse(name).unwrap()),
        model_id: None,
        version: model.map(|_| VersionNumber::FIRST),
        alias: None,
        sequence: None,
        actor: Principal::parse("ann").unwrap(),
        reason: None,
        time: Timestamp::from_millis(1_000),
        request_id: "r".into(),
        data: serde_json::Map::new(),
        chain: None,
    }
}

pub(crate) fn subscription(id: &str, kinds: &[EventType], model: Option<&str>) -> Subscription {
    Subscription {
        id: id.into(),
        tenant: TenantName::default_tenant(),
        name: None,
        url: "https://example.com/".into(),
        format: Format::Cloudevents,
        filter: Filter {
            event_types: kinds.to_vec(),
            model: model.map(|name| ModelName::parse(name).unwrap()),
            ..Filter::default()
        },
        secret: None,
        former_secret: None,
        template: None,
        digest_minutes: None,
        status: SubscriptionStatus::Active,
        circuit: Circuit::default(),
        description: None,
        created_by: Principal::parse("ann").unwrap(),
        created_at: Timestamp::from_millis(0),
        updated_at: None,
        revision: 0,
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
        let event = event(kind, model);
        let found: Vec<_> = subscriptions
            .iter()
            .filter(|subscription| subscription.filter.wants(&event))
            .map(|subscription| subscription.id.as_str())
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
fn patterns_stages_and_aliases_restrict() {
    use shared::domain::{AliasName, StageName};
    let wants = |filter: &Filter, event: &Event| filter.wants(event);
    let pattern = Filter {
        model_pattern: Some("ir*".into()),
        ..Filter::default()
    };
    assert!(wants(
        &pattern,
        &event(EventType::VersionReady, Some("iris"))
    ));
    assert!(!wants(
        &pattern,
        &event(EventType::VersionReady, Some("rose"))
    ));
    assert!(!wants(&pattern, &event(EventType::VersionReady, None)));
    let target = Filter {
        stages: vec![StageName::parse("Production").unwrap()],
        aliases: vec![AliasName::parse("champion").unwrap()],
        ..Filter::default()
    };
    let mut set = event(EventType::AliasSet, Some("iris"));
    assert!(!wants(&target, &set));
    set.alias = Some(AliasName::parse("champion").unwrap());
    assert!(wants(&target, &set));
    let moved = event(EventType::VersionStageChanged, Some("iris"));
    assert!(wants(
        &target,
        &moved
            .clone()
            .with("from", "Staging")
            .with("to", "Production")
    ));
    assert!(wants(
        &target,
        &moved
            .clone()
            .with("from", "Production")
            .with("to", "Archived")
    ));
    assert!(!wants(
        &target,
        &moved.with("from", "None").with("to", "Staging")
    ));
}

#[test]
fn an_event_never_has_more_deliveries_than_a_transaction_holds() {
    let event = event(EventType::VersionRestored, Some("iris"));
    // Two rows of the feed, two writes of the chain, delivery and place for each, the work of looking after them and of
    // the seal, and what follows or the changes by time.
    assert!(2 + 2 + 2 * MAX_DELIVERIES + 2 + work_of(&event, 1, 2).unwrap().len().max(2) <= 100);
    const { assert!(MAX_DELIVERIES > MAX_SUBSCRIPTIONS) };
}

#[test]
fn a_digest_is_due_at_the_end_of_its_window() {
    let mut digest = subscription("s", &[], None);
    digest.digest_minutes = Some(15);
    let at = |minutes: u64| Timestamp::from_millis(minutes * 60_000);
    assert_eq!(due_of(&digest, at(0)), at(15));
    assert_eq!(due_of(&digest, at(14)), at(15));
    assert_eq!(due_of(&digest, at(15)), at(30));
    let event = event(EventType::VersionReady, Some("iris"));
    assert!(
        first_delivery(&event, &digest, at(1), "01J")
            .place
            .starts_with("digest#")
    );
    digest.digest_minutes = None;
    assert_eq!(due_of(&digest, at(14)), at(14));
}

#[test]
fn a_registered_version_is_looked_after() {
    let work = work_of(&event(EventType::VersionRegistered, Some("iris")), 1, 2).unwrap();
    assert_eq!(work[0].kind, WorkKind::Validate);
    assert_eq!(work[0].due, Timestamp::from_millis(301_000));
    assert_eq!(
        work[0].subject,
        r#"{"tenant":"default","model":"iris","version":1}"#
    );
    let work = work_of(&event(EventType::VersionReady, Some("iris")), 1, 2).unwrap();
    assert_eq!(work[0].kind, WorkKind::Package);
    let packaged = event(EventType::VersionPackaged, Some("iris"));
    let work = work_of(&packaged, 1, 2).unwrap();
    assert_eq!(work[0].kind, WorkKind::Collect);
    assert_eq!(work[0].due, packaged.time.plus_millis(1));
    let deleted = event(EventType::VersionDeleted, Some("iris"));
    let work = work_of(&deleted, 1, 2).unwrap();
    assert_eq!(work[0].due, deleted.time.plus_millis(2));
    assert!(
        work_of(&event(EventType::VersionUpdated, Some("iris")), 1, 2)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn only_events_about_models_change_the_tag_index() {
    let pairs = json!([["team", "a"], ["team", "b"]]);
    let changed =
        |kind| changed_tags(&event(kind, Some("iris")).with("tags_changed", pairs.clone())).len();
    assert_eq!(changed(EventType::ModelUpdated), 2);
    assert_eq!(changed(EventType::ModelDeleted), 2);
    assert_eq!(changed(EventType::VersionUpdated), 0);
    assert!(changed_tags(&event(EventType::ModelCreated, Some("iris"))).is_empty());
}

#[test]
fn every_type_of_event_is_documented() {
    let page = include_str!("../../../../docs/events.md");
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../../docs/events.schema.json")).unwrap();
    let kinds: Vec<_> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(schema["properties"]["type"]["enum"], json!(kinds));
    for kind in kinds {
        assert!(page.contains(&format!("\n| `{kind}` |")), "{kind}");
    }
}
