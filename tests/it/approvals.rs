//! Promotion requests: people and automatic checks decide, and the last yes promotes in the same transaction.

use crate::crashes::cut_everywhere_with;
use crate::promotion::{events, protect, send_as, version_with, version_with_code};
use crate::world::{Answer, World};
use reqwest::Method;
use serde_json::{Value, json};
use shared::check_token;
use shared::domain::Event;

const REQUESTS: &str = "/v1/models/iris/promotion-requests";

async fn ask(world: &World, version: u64, alias: &str) -> Answer {
    let body = json!({"version": version, "alias": alias, "reason": "better", "evidence": ["https://ci.example/1"]});
    send_as(world, ("ada", "dev"), Method::POST, REQUESTS, body).await
}

async fn asked(world: &World, version: u64, alias: &str) -> String {
    let request = ask(world, version, alias).await.expect(201);
    request["id"].as_str().unwrap().to_owned()
}

async fn act(world: &World, who: (&str, &str), id: &str, verb: &str) -> Answer {
    let body = json!({"comment": format!("{verb} it"), "evidence": ["https://ci.example/2"]});
    let path = format!("{REQUESTS}/{id}/{verb}");
    send_as(world, who, Method::POST, &path, body).await
}

async fn champion(world: &World) -> Value {
    let answer = world.get("/v1/models/iris/aliases/champion").await;
    answer.body["version"].clone()
}

async fn inbox(world: &World) -> usize {
    let page = world.get("/v1/promotion-requests").await.expect(200);
    page["requests"].as_array().unwrap().len()
}

/// What a subscriber gets of an event that asks for a check.
async fn token(world: &World, check: &str) -> String {
    let all = events(world, "check.requested").await;
    let told = all
        .iter()
        .find(|event| event["data"]["check"] == check)
        .unwrap();
    assert!(
        told["data"]["token"].is_null(),
        "readers of events get no token"
    );
    let mut stored = told.clone();
    for name in ["specversion", "source"] {
        stored.as_object_mut().unwrap().remove(name);
    }
    let event: Event = serde_json::from_value(stored).unwrap();
    let wire = check_token::to_delivered_wire(&world.stack.app().config, &event);
    wire["data"]["token"].as_str().unwrap().to_owned()
}

async fn answer(world: &World, id: &str, check: &str, token: &str, passed: bool) -> Answer {
    let body = json!({"check": check, "token": token, "passed": passed, "details": "42 of 42", "evidence": ["s3://logs/1"]});
    send_as(
        world,
        ("robot", ""),
        Method::POST,
        &format!("{REQUESTS}/{id}/checks"),
        body,
    )
    .await
}

fn two_of_risk() -> Value {
    json!([{"id": "serving", "aliases": ["champion"], "approval": {"needed": 2, "groups": ["risk"]}}])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_approval_promotes_and_the_requester_has_none() {
    let world = World::start().await;
    world.ready_model("iris").await;
    protect(&world, two_of_risk()).await;
    let denied = world.set_alias("iris", "champion", 1, json!(null)).await;
    let error = denied.expect_error(403, "promotion_denied");
    assert_eq!(
        error["details"]["conditions"][0]["id"],
        "registry/serving/approval"
    );

    let id = asked(&world, 1, "champion").await;
    assert_eq!(inbox(&world).await, 1);
    let second = ask(&world, 1, "champion")
        .await
        .expect_error(409, "conflict");
    assert_eq!(second["details"]["current"]["request_id"], json!(id));
    world
        .delete("/v1/models/iris/versions/1")
        .await
        .expect_error(409, "version_in_use");

    act(&world, ("ada", "risk"), &id, "approve")
        .await
        .expect_error(403, "permission_denied");
    act(&world, ("ben", "dev"), &id, "approve")
        .await
        .expect_error(403, "permission_denied");
    let first = act(&world, ("rita", "risk"), &id, "approve")
        .await
        .expect(200);
    assert_eq!(first["status"], "open");
    // The same person counts once.
    assert_eq!(
        act(&world, ("rita", "risk"), &id, "approve")
            .await
            .expect(200)["status"],
        "open"
    );
    assert_eq!(champion(&world).await, json!(null));
    let path = format!("{REQUESTS}/{id}/promote");
    send_as(&world, ("ada", ""), Method::POST, &path, json!({}))
        .await
        .expect_error(409, "conflict");
    let last = act(&world, ("rob", "risk"), &id, "approve")
        .await
        .expect(200);
    assert_eq!(last["status"], "promoted");
    assert_eq!(champion(&world).await, json!(1));
    assert_eq!(inbox(&world).await, 0);
    let view = world.version("iris", 1).await;
    assert_eq!(view["alias_count"], 1);
    let history = world
        .get("/v1/models/iris/aliases/champion/history")
        .await
        .expect(200);
    assert_eq!(history["events"][0]["data"]["request_id"], json!(id));
    assert_eq!(history["events"][0]["actor"], "rob");
    act(&world, ("rob", "risk"), &id, "reject")
        .await
        .expect_error(409, "conflict");
    assert_eq!(events(&world, "promotion.approved").await.len(), 3);
    let listed = world.get(REQUESTS).await.expect(200);
    assert_eq!(
        listed["requests"][0]["decisions"].as_array().unwrap().len(),
        2
    );
    world
        .get(&format!("{REQUESTS}/none"))
        .await
        .expect_error(404, "request_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_or_a_withdrawal_ends_a_request_and_frees_its_version() {
    let world = World::start().await;
    world.ready_model("iris").await;
    protect(&world, two_of_risk()).await;
    let id = asked(&world, 1, "champion").await;
    act(&world, ("rita", "risk"), &id, "approve")
        .await
        .expect(200);
    act(&world, ("ben", "dev"), &id, "reject")
        .await
        .expect_error(403, "permission_denied");
    // After an approval, one rejection is enough.
    assert_eq!(
        act(&world, ("rob", "risk"), &id, "reject")
            .await
            .expect(200)["status"],
        "rejected"
    );
    act(&world, ("rita", "risk"), &id, "approve")
        .await
        .expect_error(409, "conflict");
    let id = asked(&world, 1, "champion").await;
    act(&world, ("rita", "risk"), &id, "withdraw")
        .await
        .expect_error(403, "permission_denied");
    assert_eq!(
        act(&world, ("ada", ""), &id, "withdraw").await.expect(200)["status"],
        "withdrawn"
    );
    world.delete("/v1/models/iris/versions/1").await.expect(200);
    ask(&world, 1, "champion")
        .await
        .expect_error(409, "deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_expires_by_the_sweep_and_before_it() {
    let world = World::start().await;
    world.ready_model("iris").await;
    protect(&world, two_of_risk()).await;
    let id = asked(&world, 1, "champion").await;
    world.clock.advance_millis(169 * 3_600_000);
    act(&world, ("rita", "risk"), &id, "approve")
        .await
        .expect_error(409, "conflict");
    assert_eq!(events(&world, "promotion.expired").await.len(), 1);
    let id = asked(&world, 1, "champion").await;
    world.clock.advance_millis(169 * 3_600_000);
    // Another one takes the place of what has expired, whether somebody said so or not.
    let next = asked(&world, 1, "champion").await;
    let old = world.get(&format!("{REQUESTS}/{id}")).await.expect(200);
    assert_eq!(old["status"], "expired");
    world.clock.advance_millis(169 * 3_600_000);
    for _ in 0..2 {
        world.sweep().await;
    }
    let old = world.get(&format!("{REQUESTS}/{next}")).await.expect(200);
    assert_eq!(old["status"], "expired");
    assert_eq!(events(&world, "promotion.expired").await.len(), 3);
    assert_eq!(inbox(&world).await, 0);
    world.delete("/v1/models/iris/versions/1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_checks_are_approvers_too() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let checked = json!([{"id": "serving", "aliases": ["champion"], "approval": {"needed": 1},
        "checks": [{"name": "smoke"}, {"name": "load", "timeout_minutes": 10}]}]);
    protect(&world, checked).await;
    let id = asked(&world, 1, "champion").await;
    act(&world, ("ben", ""), &id, "approve").await.expect(200);
    let smoke = token(&world, "smoke").await;
    answer(&world, &id, "smoke", "00", true)
        .await
        .expect_error(403, "permission_denied");
    answer(&world, &id, "load", &smoke, true)
        .await
        .expect_error(403, "permission_denied");
    assert_eq!(
        answer(&world, &id, "smoke", &smoke, true).await.expect(200)["status"],
        "open"
    );
    answer(&world, &id, "smoke", &smoke, true)
        .await
        .expect_error(409, "conflict");
    let load = token(&world, "load").await;
    assert_eq!(
        answer(&world, &id, "load", &load, true).await.expect(200)["status"],
        "promoted"
    );
    assert_eq!(champion(&world).await, json!(1));

    // One that fails, and one that says nothing in time.
    let second = version_with(&world, 2, json!({})).await;
    let id = asked(&world, second, "champion").await;
    let all = events(&world, "check.requested").await;
    assert_eq!(all.len(), 4);
    let smoke = token(&world, "smoke").await;
    assert_eq!(
        answer(&world, &id, "smoke", &smoke, false)
            .await
            .expect(200)["status"],
        "rejected"
    );
    let id = asked(&world, second, "champion").await;
    world.clock.advance_millis(11 * 60_000);
    for _ in 0..2 {
        world.sweep().await;
    }
    let late = world.get(&format!("{REQUESTS}/{id}")).await.expect(200);
    assert_eq!(late["status"], "rejected");
    let statuses: Vec<&Value> = late["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| &check["status"])
        .collect();
    assert!(statuses.contains(&&json!("timed_out")), "{late:#}");
    assert_eq!(champion(&world).await, json!(1));
    // Going back does not wait for machines or people.
    world
        .post(
            "/v1/models/iris/aliases/champion/rollback",
            json!({"to_version": second}),
        )
        .await
        .expect_error(403, "promotion_denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_promotes_only_what_it_saw() {
    let world = World::start().await;
    world.ready_model("iris").await;
    version_with(&world, 2, json!({})).await;
    protect(
        &world,
        json!([{"id": "serving", "aliases": ["champion"], "conditions": []}]),
    )
    .await;
    let id = asked(&world, 2, "champion").await;
    // Nothing but the request asks for approval here, so the alias moves meanwhile.
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    let lost = act(&world, ("ben", ""), &id, "approve")
        .await
        .expect_error(409, "conflict");
    assert_eq!(lost["details"]["current"]["version"], 1);
    assert_eq!(champion(&world).await, json!(1));
    act(&world, ("ada", ""), &id, "withdraw").await.expect(200);
    // Approvals and promotions at once: one of them wins, and the other is told so.
    let id = asked(&world, 2, "champion").await;
    let (approved, moved) = tokio::join!(
        act(&world, ("ben", ""), &id, "approve"),
        world.put(
            "/v1/models/iris/aliases/champion",
            json!({"version": 2, "expected_sequence": 1, "unconditional": true})
        )
    );
    assert!(
        approved.status == 200 || approved.status == 409,
        "{:#}",
        approved.body
    );
    assert!(
        moved.status == 200 || moved.status == 409,
        "{:#}",
        moved.body
    );
    let alias = world
        .get("/v1/models/iris/aliases/champion")
        .await
        .expect(200);
    assert_eq!(
        (&alias["version"], &alias["sequence"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(world.version("iris", 2).await["alias_count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_at_once_are_all_counted_and_promote_once() {
    let world = World::start().await;
    world.ready_model("iris").await;
    protect(
        &world,
        json!([{"id": "serving", "aliases": ["champion"], "approval": {"needed": 4}}]),
    )
    .await;
    let id = asked(&world, 1, "champion").await;
    let people = ["a", "b", "c", "d"];
    let all = people.map(|who| act(&world, (who, ""), &id, "approve"));
    let mut promoted = 0;
    for one in futures::future::join_all(all).await {
        promoted += usize::from(one.expect(200)["status"] == "promoted");
    }
    assert_eq!(promoted, 1);
    let alias = world
        .get("/v1/models/iris/aliases/champion")
        .await
        .expect(200);
    assert_eq!(alias["sequence"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_contains_code_needs_an_approval_or_to_wait_for_what_else_denies_it() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let code = version_with_code(&world).await;
    protect(
        &world,
        json!([{"id": "serving", "aliases": ["champion"], "stages": ["Production"]}]),
    )
    .await;
    let id = asked(&world, code, "champion").await;
    assert_eq!(
        act(&world, ("ben", ""), &id, "approve").await.expect(200)["status"],
        "promoted"
    );
    // The same for a stage.
    let body = json!({"version": code, "stage": "production"});
    let id = world.post(REQUESTS, body).await.expect(201)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        act(&world, ("ben", ""), &id, "approve").await.expect(200)["status"],
        "promoted"
    );
    assert_eq!(world.version("iris", code).await["stage"], "Production");

    // Where something else still stands in the way, the approval counts and the promotion waits.
    let frozen = json!([{"id": "serving", "aliases": ["champion"], "approval": {"auto_promote": true},
        "freezes": [{"id": "f", "until": "2099-01-01T00:00:00Z"}]}]);
    protect(&world, frozen).await;
    let id = asked(&world, 1, "champion").await;
    assert_eq!(
        act(&world, ("ben", ""), &id, "approve").await.expect(200)["status"],
        "open"
    );
    assert_eq!(events(&world, "promotion.denied").await.len(), 1);
    let path = format!("{REQUESTS}/{id}/promote");
    let promote = async || send_as(&world, ("ada", ""), Method::POST, &path, json!({})).await;
    promote().await.expect_error(403, "promotion_denied");
    protect(
        &world,
        json!([{"id": "serving", "aliases": ["champion"], "approval": {}}]),
    )
    .await;
    assert_eq!(promote().await.expect(200)["status"], "promoted");
    assert_eq!(champion(&world).await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_and_deciding_survive_every_cut() {
    let send = async |world: &World, who: &str, path: &str, body: Value| {
        let headers = [("idempotency-key", "the-key"), ("x-slipway-actor", who)];
        world
            .send(Method::POST, path, Some(body), &headers)
            .await
            .status
            < 300
    };
    cut_everywhere_with(
        &[],
        async |world| {
            world.ready_model("iris").await;
            protect(world, json!([{"id": "p", "aliases": ["champion"], "approval": {}, "checks": [{"name": "smoke", "timeout_minutes": 10000}]}])).await;
        },
        async |world, _| send(world, "ada", REQUESTS, json!({"version": 1, "alias": "champion"})).await,
        async |world| {
            assert_eq!(inbox(world).await, 1);
            assert_eq!(events(world, "promotion.requested").await.len(), 1);
            assert_eq!(events(world, "check.requested").await.len(), 1);
        },
    )
    .await;
    cut_everywhere_with(
        &[],
        async |world| {
            world.ready_model("iris").await;
            protect(world, json!([{"id": "p", "aliases": ["champion"], "approval": {"expires_after_hours": 2000}}])).await;
            asked(world, 1, "champion").await;
        },
        async |world, _| {
            let page = world.get(REQUESTS).await;
            let Some(id) = page.body["requests"][0]["id"].as_str().map(str::to_owned) else {
                return false;
            };
            send(world, "ben", &format!("{REQUESTS}/{id}/approve"), json!({})).await
        },
        async |world| {
            assert_eq!(champion(world).await, json!(1));
            assert_eq!(inbox(world).await, 0);
            assert_eq!(world.version("iris", 1).await["alias_count"], 1);
            assert_eq!(events(world, "promotion.approved").await.len(), 1);
            world.post("/v1/models/iris/aliases/champion/rollback", json!({"to_version": 1})).await;
        },
    )
    .await;
}
