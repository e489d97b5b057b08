//! Subscriptions as their owners see them: order, pauses, replays, secrets, messages, and the feed.

use crate::world::{Answer, World};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

/// A receiver that answers each request with the next of its statuses, and 200 after them.
#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
    statuses: Arc<Mutex<VecDeque<u16>>>,
    /// Models whose events are refused.
    poisoned: Arc<Mutex<Vec<String>>>,
    url: String,
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            url: format!("http://{}/hook", listener.local_addr().unwrap()),
            ..Self::default()
        };
        let answer = |State(receiver): State<Self>, headers: HeaderMap, body: Bytes| async move {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let model = body["model"].as_str().unwrap_or_default().to_owned();
            receiver.got.lock().unwrap().push((headers, body));
            if receiver.poisoned.lock().unwrap().contains(&model) {
                return (StatusCode::INTERNAL_SERVER_ERROR, "poisoned");
            }
            let next = receiver.statuses.lock().unwrap().pop_front();
            (StatusCode::from_u16(next.unwrap_or(200)).unwrap(), "ok")
        };
        let router = Router::new().fallback(answer).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn answers(&self, statuses: &[u16]) {
        self.statuses.lock().unwrap().extend(statuses);
    }

    fn poison(&self, model: &str) {
        self.poisoned.lock().unwrap().push(model.to_owned());
    }

    fn heal(&self) {
        self.poisoned.lock().unwrap().clear();
    }

    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    /// Type and model of every request, in the order of arrival.
    fn types(&self) -> Vec<String> {
        let got = self.got.lock().unwrap();
        got.iter()
            .map(|(_, body)| body["type"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Ids of the events of a model in the order of their first arrival.
    fn order(&self, model: &str) -> Vec<String> {
        let got = self.got.lock().unwrap();
        let mut ids: Vec<String> = Vec::new();
        for (headers, body) in got.iter().filter(|(_, body)| body["model"] == model) {
            let id = body["id"].as_str().unwrap().to_owned();
            assert_eq!(
                headers["webhook-id"],
                id.as_str(),
                "the deduplication id is the event's"
            );
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }
}

async fn subscribe(world: &World, more: Value) -> Value {
    world.post("/v1/subscriptions", more).await.expect(201)
}

fn id_of(subscription: &Value) -> String {
    subscription["id"].as_str().unwrap().to_owned()
}

async fn deliveries(world: &World, id: &str, query: &str) -> Vec<Value> {
    let path = format!("/v1/subscriptions/{id}/deliveries?limit=100{query}");
    world.get(&path).await.expect(200)["deliveries"]
        .as_array()
        .unwrap()
        .clone()
}

async fn describe(world: &World, model: &str, text: &str) {
    let path = format!("/v1/models/{model}");
    world
        .patch(&path, json!({"description": text}))
        .await
        .expect(200);
}

async fn pass_minutes(world: &World, minutes: u64) {
    world.clock.advance_millis(minutes * 60_000);
    world.sweep().await;
    world.stack.drain().await.unwrap();
}

/// The events of a model, the oldest first.
async fn events_of(world: &World, model: &str) -> Vec<String> {
    let path = format!("/v1/models/{model}/events?limit=100&order=oldest");
    world.get(&path).await.expect(200)["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_event_waits_for_an_earlier_one_of_its_model_and_for_no_other() {
    let world = World::start().await;
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    let subscription = subscribe(&world, json!({"url": slow.url})).await;
    subscribe(&world, json!({"url": quick.url})).await;
    slow.poison("iris");
    world.create_model("iris").await;
    world.drain().await;
    world.create_model("rose").await;
    for number in 0..3 {
        describe(&world, "iris", &format!("text {number}")).await;
        describe(&world, "rose", &format!("text {number}")).await;
    }
    world.drain().await;
    assert_eq!(
        slow.order("iris").len(),
        1,
        "only the first of iris was sent"
    );
    assert_eq!(
        quick.order("iris").len(),
        4,
        "the other subscription does not wait"
    );
    pass_minutes(&world, 3).await;
    assert_eq!(slow.order("iris").len(), 1);
    assert_eq!(
        slow.order("rose"),
        events_of(&world, "rose").await,
        "rose does not wait for iris"
    );
    slow.heal();
    pass_minutes(&world, 10).await;
    assert_eq!(slow.order("iris"), events_of(&world, "iris").await);
    let pending = deliveries(&world, &id_of(&subscription), "&status=pending").await;
    assert!(pending.is_empty(), "{pending:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_event_becomes_a_dead_letter_after_a_day_and_lets_the_next_through() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let subscription = subscribe(&world, json!({"url": receiver.url, "model": "iris"})).await;
    let id = id_of(&subscription);
    // One event alone is refused, whatever else comes.
    receiver.answers(&[500; 15]);
    world.create_model("iris").await;
    world.drain().await;
    describe(&world, "iris", "next").await;
    world.drain().await;
    let began = world.clock.now();
    while deliveries(&world, &id, "&status=exhausted")
        .await
        .is_empty()
    {
        assert!(receiver.count() < 40, "it ends");
        pass_minutes(&world, 65).await;
    }
    let hours = world.clock.now().since(began) / 3_600_000;
    assert!(hours >= 24, "tried for {hours} hours");
    pass_minutes(&world, 65).await;
    assert_eq!(receiver.order("iris"), events_of(&world, "iris").await);
    let dead = deliveries(&world, &id, "&status=exhausted").await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0]["attempts"].as_array().unwrap().len(), 15);
    assert_eq!(dead[0]["attempts"][0]["answer_start"], "ok");

    // It is sent again on demand, once, under the same id.
    let before = receiver.count();
    let path = format!("/v1/subscriptions/{id}/replay");
    let answer = world
        .post(&path, json!({"status": "exhausted"}))
        .await
        .expect(200);
    assert_eq!(answer["replayed"], json!([dead[0]["event_id"]]));
    let again = world
        .post(&path, json!({"status": "exhausted"}))
        .await
        .expect(200);
    assert_eq!(
        again["replayed"],
        json!([]),
        "it is no dead letter any more"
    );
    pass_minutes(&world, 2).await;
    assert_eq!(receiver.count(), before + 1);
    assert!(
        deliveries(&world, &id, "&status=exhausted")
            .await
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_replayed_by_id_and_by_time_once_for_each_request() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let id = id_of(&subscribe(&world, json!({"url": receiver.url})).await);
    let began = world.clock.now();
    for name in ["a", "b", "c"] {
        world.create_model(name).await;
        world.drain().await;
        world.clock.advance_millis(60_000);
    }
    let path = format!("/v1/subscriptions/{id}/replay");
    let since = began.plus_millis(60_000).to_string();
    let replay = async || -> Answer {
        let headers = [("idempotency-key", "again")];
        world
            .send(
                reqwest::Method::POST,
                &path,
                Some(json!({"since": since})),
                &headers,
            )
            .await
    };
    let answer = replay().await.expect(200);
    assert_eq!(
        answer["replayed"].as_array().unwrap().len(),
        2,
        "{answer:#}"
    );
    assert_eq!(replay().await.expect(200), answer);
    pass_minutes(&world, 2).await;
    assert_eq!(receiver.count(), 5);
    let one = json!({"event_ids": [answer["replayed"][0]]});
    world.post(&path, one).await.expect(200);
    pass_minutes(&world, 2).await;
    assert_eq!(receiver.count(), 6);
    for wrong in [
        json!({}),
        json!({"event_ids": ["01J"]}),
        json!({"status": "delivered"}),
    ] {
        world
            .post(&path, wrong)
            .await
            .expect_error(400, "invalid_argument");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_is_paused_probed_and_resumed() {
    let world = World::start().await;
    let (broken, owner) = (Receiver::start().await, Receiver::start().await);
    let subscription = subscribe(
        &world,
        json!({"url": broken.url, "event_types": ["model.created"]}),
    )
    .await;
    let path = format!("/v1/subscriptions/{}", id_of(&subscription));
    let types = json!(["subscription.paused", "subscription.resumed"]);
    subscribe(&world, json!({"url": owner.url, "event_types": types})).await;
    broken.answers(&[500; 100]);
    for number in 0..12 {
        world.create_model(&format!("m{number}")).await;
    }
    world.drain().await;
    pass_minutes(&world, 2).await;
    let shown = world.get(&path).await.expect(200);
    assert_eq!(shown["endpoint"]["state"], "paused", "{shown:#}");
    assert_eq!(owner.types(), ["subscription.paused"]);
    let before = broken.count();
    pass_minutes(&world, 2).await;
    assert_eq!(broken.count(), before, "nothing is sent while it is paused");
    // The first probe fails and the pause is longer; the second succeeds.
    pass_minutes(&world, 6).await;
    assert_eq!(broken.count(), before + 1, "one probe");
    broken.statuses.lock().unwrap().clear();
    for _ in 0..6 {
        pass_minutes(&world, 11).await;
    }
    let shown = world.get(&path).await.expect(200);
    assert_eq!(shown["endpoint"]["state"], "ok", "{shown:#}");
    assert_eq!(
        owner.types(),
        ["subscription.paused", "subscription.resumed"]
    );
    assert!(
        deliveries(&world, &id_of(&subscription), "&status=pending")
            .await
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_rotates_with_an_overlap_and_lies_sealed() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let headers = [("idempotency-key", "k")];
    let create = async || {
        let body = json!({"url": receiver.url});
        world
            .send(
                reqwest::Method::POST,
                "/v1/subscriptions",
                Some(body),
                &headers,
            )
            .await
            .expect(201)
    };
    let created = create().await;
    assert_eq!(
        create().await,
        created,
        "the same key gives the same secret"
    );
    let path = format!("/v1/subscriptions/{}/secret", id_of(&created));
    let rotated = world
        .post(&path, json!({"overlap_hours": 1}))
        .await
        .expect(200);
    assert_ne!(rotated["secret"], created["secret"]);
    world.create_model("iris").await;
    world.drain().await;
    world.clock.advance_millis(3_600_000);
    world.create_model("rose").await;
    world.drain().await;
    let got = receiver.got.lock().unwrap().clone();
    let signatures: Vec<usize> = got
        .iter()
        .map(|(headers, _)| {
            headers["webhook-signature"]
                .to_str()
                .unwrap()
                .split(' ')
                .count()
        })
        .collect();
    assert_eq!(signatures, [2, 1]);
    for (headers, _) in &got {
        assert_eq!(headers["webhook-id"], headers["x-mlflow-delivery-id"]);
        assert!(headers.contains_key("x-mlflow-signature"));
    }
    let stored = world
        .stack
        .app()
        .registry
        .find_subscription(
            &shared::domain::TenantName::default_tenant(),
            &id_of(&created),
        )
        .await
        .unwrap();
    let stored = serde_json::to_string(&stored).unwrap();
    assert!(
        stored.contains("sealed:v1:") && !stored.contains("whsec_"),
        "{stored}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_filters_by_pattern_alias_and_tags() {
    let world = World::start().await;
    let [pattern, alias, tags] = [
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    ];
    subscribe(&world, json!({"url": pattern.url, "model_pattern": "ir*"})).await;
    subscribe(&world, json!({"url": alias.url, "aliases": ["champion"]})).await;
    subscribe(&world, json!({"url": tags.url, "tags": {"team": "vision"}})).await;
    world.ready_model("iris").await;
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    world
        .set_alias("iris", "other", 1, json!(null))
        .await
        .expect(200);
    world
        .post(
            "/v1/models",
            json!({"name": "rose", "tags": {"team": "vision"}}),
        )
        .await
        .expect(201);
    world.drain().await;
    assert!(pattern.count() >= 6);
    assert!(
        pattern
            .got
            .lock()
            .unwrap()
            .iter()
            .all(|(_, body)| body["model"] == "iris")
    );
    assert_eq!(alias.types(), ["alias.set"]);
    assert_eq!(tags.order("rose").len(), 1);
    assert_eq!(tags.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_one_message_and_people_get_e_mail_and_templates() {
    let world = World::start().await;
    let slack = Receiver::start().await;
    let types = json!(["model.created"]);
    subscribe(
        &world,
        json!({"url": slack.url, "format": "slack", "digest_minutes": 30, "event_types": types}),
    )
    .await;
    let topic = "arn:aws:sns:us-east-1:123456789012:models";
    subscribe(
        &world,
        json!({"format": "email", "topic_arn": topic, "event_types": types, "template": "new: {{ event.model }}"}),
    )
    .await;
    for name in ["a", "b", "c"] {
        world.create_model(name).await;
    }
    world.drain().await;
    assert_eq!(slack.count(), 0);
    let mails = world.stack.inbox().messages();
    assert_eq!(mails.len(), 3);
    assert_eq!(mails[0]["message"], "new: a");
    for _ in 0..20 {
        pass_minutes(&world, 2).await;
    }
    assert_eq!(slack.count(), 1, "one message for all");
    let blocks = slack.got.lock().unwrap()[0].1["blocks"].clone();
    assert_eq!(blocks[0]["text"]["text"], "3 events of the model registry");
    for wrong in [
        json!({"url": slack.url, "format": "slack", "template": "{{ nope"}),
        json!({"url": slack.url, "template": "x"}),
        json!({"url": slack.url, "format": "email", "topic_arn": topic}),
        json!({"format": "email", "topic_arn": "arn:aws:sqs:us-east-1:123456789012:x"}),
        json!({"url": slack.url, "digest_minutes": 0}),
        json!({"url": slack.url, "format": "pigeon"}),
    ] {
        world
            .post("/v1/subscriptions", wrong)
            .await
            .expect_error(400, "invalid_argument");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_subscription_rests_and_goes_on_where_it_stopped() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let id = id_of(&subscribe(&world, json!({"url": receiver.url})).await);
    let path = format!("/v1/subscriptions/{id}");
    receiver.answers(&[503]);
    world.create_model("a").await;
    world.drain().await;
    world
        .patch(&path, json!({"status": "disabled"}))
        .await
        .expect(200);
    world.create_model("unheard").await;
    world.drain().await;
    pass_minutes(&world, 30).await;
    assert_eq!(receiver.count(), 1);
    world
        .patch(&path, json!({"status": "active", "expected_revision": 1}))
        .await
        .expect(200);
    pass_minutes(&world, 2).await;
    assert_eq!(receiver.order("a").len(), 1);
    assert_eq!(receiver.count(), 2);
    assert!(receiver.order("unheard").is_empty());
    world
        .patch(&path, json!({"description": "x", "expected_revision": 1}))
        .await
        .expect_error(409, "conflict");
}

/// Reads the feed to its end.
async fn read_feed(world: &World, cursor: &mut Option<String>) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let after = cursor
            .as_ref()
            .map_or_else(String::new, |cursor| format!("&after={cursor}"));
        let page = world
            .get(&format!("/v1/events?limit=2{after}"))
            .await
            .expect(200);
        let events = page["events"].as_array().unwrap();
        ids.extend(
            events
                .iter()
                .map(|event| event["id"].as_str().unwrap().to_owned()),
        );
        *cursor = Some(page["next_cursor"].as_str().unwrap().to_owned());
        if page["has_more"] == false {
            return ids;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_has_every_event_once_also_those_that_were_dispatched_late() {
    let world = World::start_with(&[("FEED_DELAY_SECONDS", "30")]).await;
    let mut cursor = None;
    let mut read = Vec::new();
    world.create_model("early").await;
    world.create_model("late").await;
    // The first record is lost, and made good by the sweep long after the second was read.
    let waiting = world.stack.deliveries().await.unwrap();
    world.stack.drop_delivery(&waiting[0].id).unwrap();
    world.drain().await;
    assert!(
        read_feed(&world, &mut cursor).await.is_empty(),
        "not old enough"
    );
    world.clock.advance_millis(31_000);
    read.extend(read_feed(&world, &mut cursor).await);
    assert_eq!(read.len(), 1);
    for day in 0..3 {
        world.create_model(&format!("day-{day}")).await;
        world.drain().await;
        world.clock.advance_millis(24 * 3_600_000 / 2);
        world.sweep().await;
        world.clock.advance_millis(31_000);
        read.extend(read_feed(&world, &mut cursor).await);
    }
    let mut all = Vec::new();
    for model in ["early", "late", "day-0", "day-1", "day-2"] {
        all.extend(events_of(&world, model).await);
    }
    let mut sorted = read.clone();
    sorted.sort();
    all.sort();
    assert_eq!(sorted, all, "each once, none is missing");
    // Who begins anew reads the same.
    assert_eq!(read_feed(&world, &mut None).await, read);
    let ids: BTreeSet<&String> = read.iter().collect();
    assert_eq!(ids.len(), read.len());
    world
        .get("/v1/events?after=nonsense")
        .await
        .expect_error(400, "invalid_cursor");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_put_on_the_bus_whatever_the_bus_refuses() {
    let world = World::start().await;
    let inbox = world.stack.inbox().clone();
    inbox.fail_entries(5);
    for name in ["a", "b", "c"] {
        world.create_model(name).await;
    }
    world.drain().await;
    for _ in 0..3 {
        pass_minutes(&world, 2).await;
    }
    let events = inbox.events();
    let mut models: Vec<&str> = events
        .iter()
        .map(|entry| entry["Detail"]["model"].as_str().unwrap())
        .collect();
    models.sort_unstable();
    assert_eq!(models, ["a", "b", "c"]);
    assert_eq!(events[0]["Source"], "slipway");
    assert_eq!(events[0]["DetailType"], "model.created");
}

#[tokio::test(flavor = "multi_thread")]
async fn mlflows_webhooks_are_subscriptions() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let base = "/api/2.0/mlflow/webhooks";
    let event = |entity: &str, action: &str| json!({"entity": entity, "action": action});
    let body = json!({
        "name": "hook", "url": receiver.url, "secret": "s3cret",
        "events": [event("MODEL_VERSION", "CREATED"), event("MODEL_VERSION_TAG", "SET"), event("MODEL_VERSION_ALIAS", "DELETED")],
    });
    let created = world.post(base, body).await.expect(200)["webhook"].clone();
    let path = format!("{base}/{}", created["webhook_id"].as_str().unwrap());
    world.ready_model("iris").await;
    let tags = json!({"tags": {"a": "1", "b": "2"}});
    world
        .patch("/v1/models/iris/versions/1", tags)
        .await
        .expect(200);
    world.drain().await;
    let told: Vec<String> = receiver
        .got
        .lock()
        .unwrap()
        .iter()
        .map(|(_, body)| {
            let text = |field: &Value| field.as_str().unwrap_or("-").to_owned();
            format!(
                "{}.{} {}",
                text(&body["entity"]),
                text(&body["action"]),
                text(&body["data"]["key"])
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "model_version.created -",
            "model_version_tag.set a",
            "model_version_tag.set b"
        ]
    );
    world
        .patch(&path, json!({"status": "DISABLED"}))
        .await
        .expect(200);
    assert_eq!(
        world.get(&path).await.expect(200)["webhook"]["status"],
        "DISABLED"
    );
    world
        .post(&format!("{path}/test"), json!({}))
        .await
        .expect(200);
    world
        .post(base, json!({"name": "hook", "url": receiver.url}))
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    world
        .post(
            base,
            json!({"name": "hook", "url": receiver.url, "events": [event("MODEL_VERSION", "SET")]}),
        )
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    let listed = world
        .get(&format!("{base}?max_results=1"))
        .await
        .expect(200);
    assert_eq!(listed["webhooks"].as_array().unwrap().len(), 1);
    world.delete(&path).await.expect(200);
    world
        .get(&path)
        .await
        .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_of_mlflows_webhooks_that_fails_is_asked_again_within_seconds() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let webhook = json!({
        "name": "hook", "url": receiver.url,
        "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}],
    });
    let webhook = world
        .post("/api/2.0/mlflow/webhooks", webhook)
        .await
        .expect(200)["webhook"]["webhook_id"]
        .clone();
    receiver.answers(&[500, 429]);
    world.create_model("iris").await;
    world.create_model("wine").await;
    world.drain().await;
    let ids: Vec<_> = receiver
        .got
        .lock()
        .unwrap()
        .iter()
        .map(|(headers, _)| headers["x-mlflow-delivery-id"].clone())
        .collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert!(ids[1] == ids[0] && ids[2] == ids[0] && ids[3] != ids[0]);
    let id = webhook.as_str().unwrap();
    let deliveries = world
        .get(&format!("/v1/subscriptions/{id}/deliveries"))
        .await
        .expect(200);
    let statuses: Vec<Vec<u64>> = deliveries["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|delivery| {
            let attempts = delivery["attempts"].as_array().unwrap();
            attempts
                .iter()
                .map(|attempt| attempt["status"].as_u64().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(statuses, [vec![200], vec![500, 429, 200]]);
    let endpoint = world
        .get(&format!("/v1/subscriptions/{id}"))
        .await
        .expect(200)["endpoint"]
        .clone();
    assert_eq!(endpoint["state"], "ok", "{endpoint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_in_order_wherever_the_process_is_killed() {
    let listening: Arc<Mutex<Option<Receiver>>> = Arc::default();
    crate::crashes::cut_everywhere_with(
        &[],
        async |world| {
            let receiver = Receiver::start().await;
            subscribe(world, json!({"url": receiver.url})).await;
            // The first fails once, so that its retry is cut too, and what waits behind it.
            receiver.answers(&[500]);
            world.create_model("iris").await;
            describe(world, "iris", "one").await;
            *listening.lock().unwrap() = Some(receiver);
        },
        async |world, _| {
            crate::crashes::drain_until_cut(world).await;
            if !world.probe.was_cut() {
                world.clock.advance_millis(3 * 60_000);
                let _ = world.stack.sweep().await;
            }
            true
        },
        async |world| {
            let receiver = listening.lock().unwrap().clone().unwrap();
            assert_eq!(receiver.order("iris"), events_of(world, "iris").await);
            assert!(
                world.stack.inbox().events().len() >= 2,
                "both are on the bus"
            );
        },
    )
    .await;
}
