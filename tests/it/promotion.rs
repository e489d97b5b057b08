//! Stages, protections and waivers: what guards a promotion, and what it says when it denies.

use crate::crashes::cut_everywhere_with;
use crate::world::{Answer, World, files, http_client, safetensors};
use reqwest::Method;
use serde_json::{Value, json};
use shared::App;
use shared::app::Clock;
use shared::test_util::Cut;
use std::collections::BTreeSet;

/// Sends as somebody who belongs to groups.
pub(crate) async fn send_as(
    world: &World,
    (who, groups): (&str, &str),
    method: Method,
    path: &str,
    body: Value,
) -> Answer {
    let headers = [("x-slipway-actor", who), ("x-slipway-groups", groups)];
    world.send(method, path, Some(body), &headers).await
}

/// Another ready version of `iris`, with metadata and tags.
pub(crate) async fn version_with(world: &World, fill: u8, more: Value) -> u64 {
    let content = files(&[("m.safetensors", &safetensors(8, fill))]);
    let mut body = more;
    body["artifacts"] = World::declaration(&content);
    let version = world
        .post("/v1/models/iris/versions", body)
        .await
        .expect(201)["version"]
        .as_u64()
        .unwrap();
    world.upload("iris", version, &content).await;
    let path = format!("/v1/models/iris/versions/{version}/finalize");
    world.post(&path, json!({})).await.expect(200);
    world.drain().await;
    assert_eq!(world.version("iris", version).await["status"], "READY");
    version
}

/// A ready version of `iris` whose environment would be built from somebody's repository.
pub(crate) async fn version_with_code(world: &World) -> u64 {
    let content = files(&[
        ("m.safetensors", &safetensors(8, 200)),
        ("requirements.txt", b"git+https://github.com/a/b\n"),
    ]);
    let version = world.publish("iris", &content).await;
    let view = world.version("iris", version).await;
    assert_eq!(view["status"], "READY", "{view:#}");
    assert_eq!(view["validation"]["verdict"], "contains_code", "{view:#}");
    version
}

pub(crate) async fn protect(world: &World, protections: Value) -> Value {
    let revision = world.get("/v1/protections").await.expect(200)["revision"].clone();
    let body = json!({"expected_revision": revision, "protections": protections});
    world.put("/v1/protections", body).await.expect(200)
}

pub(crate) async fn stage(world: &World, version: u64, stage: &str) -> Answer {
    let path = format!("/v1/models/iris/versions/{version}/stage");
    world.post(&path, json!({"stage": stage})).await
}

async fn stage_of(world: &World, version: u64) -> String {
    let view = world.version("iris", version).await;
    view["stage"].as_str().unwrap().to_owned()
}

/// The ids of the conditions that a denial names.
fn denied_by(answer: Answer) -> BTreeSet<String> {
    let error = answer.expect_error(403, "promotion_denied");
    let conditions = error["details"]["conditions"].as_array().unwrap().clone();
    let message = error["message"].as_str().unwrap();
    conditions
        .iter()
        .map(|condition| {
            let id = condition["id"].as_str().unwrap().to_owned();
            assert!(message.contains(&id), "{message}");
            let advice = condition["satisfied_by"].as_str().unwrap();
            assert!(!advice.is_empty() && message.contains(advice), "{message}");
            id
        })
        .collect()
}

fn ids(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(crate) async fn events(world: &World, kind: &str) -> Vec<Value> {
    let page = world
        .get("/v1/models/iris/events?limit=100")
        .await
        .expect(200);
    let all = page["events"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|event| event["type"] == kind)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_are_configured_by_revision_and_hold_one_version_if_they_are_exclusive() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let second = version_with(&world, 2, json!({})).await;
    let mlflow = world.get("/v1/stages").await.expect(200);
    assert_eq!(mlflow["revision"], 0);
    assert_eq!(mlflow["stages"][3]["name"], "Archived");
    // Shared stages hold both.
    stage(&world, 1, "production").await.expect(200);
    stage(&world, second, "Production").await.expect(200);

    let rules = json!({
        "expected_revision": 0,
        "stages": [{"name": "Dev"}, {"name": "Production", "exclusive": true}, {"name": "Old"}],
        "transitions": {"None": ["Dev"], "Dev": ["Production"]},
        "archive": "Old",
    });
    world
        .put("/v1/models/iris/stages", rules.clone())
        .await
        .expect(200);
    let lost = world.put("/v1/models/iris/stages", rules).await;
    assert_eq!(
        lost.expect_error(409, "conflict")["details"]["current"]["revision"],
        1
    );

    let third = version_with(&world, 3, json!({})).await;
    let refused = stage(&world, third, "Production").await;
    let error = refused.expect_error(409, "transition_not_allowed");
    assert_eq!(error["details"]["allowed"], json!(["Dev"]));
    stage(&world, third, "Staging")
        .await
        .expect_error(400, "invalid_argument");
    stage(&world, third, "Dev").await.expect(200);
    // Everybody who stood there from before leaves, and then whoever is there.
    stage(&world, third, "Production").await.expect(200);
    assert_eq!(stage_of(&world, 1).await, "Old");
    assert_eq!(stage_of(&world, second).await, "Old");
    stage(&world, second, "Dev").await.expect(200);
    stage(&world, second, "Production").await.expect(200);
    assert_eq!(stage_of(&world, third).await, "Old");

    // To archive, and to bring back to where it was.
    world
        .post(
            &format!("/v1/models/iris/versions/{second}/archive"),
            json!({}),
        )
        .await
        .expect(200);
    assert_eq!(stage_of(&world, second).await, "Old");
    let path = format!("/v1/models/iris/versions/{second}/unarchive");
    world
        .post(&path, json!({"reason": "needed again"}))
        .await
        .expect(200);
    assert_eq!(stage_of(&world, second).await, "Production");
    world
        .post(&path, json!({}))
        .await
        .expect_error(409, "conflict");

    let archived = events(&world, "version.stage_changed").await;
    assert!(
        archived
            .iter()
            .any(|event| event["data"]["archived_for"] == third)
    );
    assert_eq!(events(&world, "stages.changed").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_race_for_an_exclusive_stage_do_not_share_it() {
    let world = World::start().await;
    world.ready_model("iris").await;
    for fill in 2..6 {
        version_with(&world, fill, json!({})).await;
    }
    let rules = json!({"expected_revision": 0, "stages": [{"name": "Live", "exclusive": true}, {"name": "Archived"}]});
    world.put("/v1/stages", rules).await.expect(200);
    let moves = (1..=5).map(|version| stage(&world, version, "Live"));
    for answer in futures::future::join_all(moves).await {
        answer.expect(200);
    }
    let mut live = 0;
    for version in 1..=5 {
        live += usize::from(stage_of(&world, version).await == "Live");
    }
    assert_eq!(live, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn archiving_what_is_in_a_stage_is_part_of_the_transaction() {
    let world = World::start().await;
    world.ready_model("iris").await;
    for fill in 2..4 {
        version_with(&world, fill, json!({})).await;
    }
    stage(&world, 1, "Production").await.expect(200);
    stage(&world, 2, "Production").await.expect(200);
    let body = json!({"stage": "Production", "archive_existing": true});
    world
        .post("/v1/models/iris/versions/3/stage", body.clone())
        .await
        .expect(200);
    for (version, expected) in [(1, "Archived"), (2, "Archived"), (3, "Production")] {
        assert_eq!(stage_of(&world, version).await, expected);
    }
    let body = json!({"stage": "Archived", "archive_existing": true});
    world
        .post("/v1/models/iris/versions/3/stage", body)
        .await
        .expect_error(400, "invalid_argument");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_life_warns_and_is_told_once() {
    let world = World::start().await;
    world.ready_model("iris").await;
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    let at = |days: u64| {
        let millis = world.clock.now().millis() + days * 86_400_000;
        json!(shared::domain::Timestamp::from_millis(millis))
    };
    let path = "/v1/models/iris/versions/1/lifecycle";
    let wrong = json!({"deprecated_at": at(9), "end_of_life_at": at(8)});
    world
        .put(path, wrong)
        .await
        .expect_error(400, "invalid_argument");
    let dates = json!({"deprecated_at": at(10), "end_of_life_at": at(20)});
    let view = world.put(path, dates).await.expect(200);
    assert!(view["warnings"].is_null());
    world.sweep().await;
    assert!(events(&world, "version.deprecated").await.is_empty());

    for (days, kind, word) in [
        (11, "version.deprecated", "deprecated"),
        (10, "version.end_of_life", "ended"),
    ] {
        world.clock.advance_millis(days * 86_400_000);
        for _ in 0..2 {
            world.sweep().await;
        }
        assert_eq!(events(&world, kind).await.len(), 1, "{kind}");
        for path in [
            "/v1/models/iris/aliases/champion",
            "/v1/models/iris/versions/1",
        ] {
            let view = world.get(path).await.expect(200);
            let warning = view["warnings"][0].as_str().unwrap();
            assert!(warning.contains(word), "{path}: {warning}");
        }
    }
    // A version that gets an alias later brings its dates along; dates that are taken away warn no more.
    world
        .set_alias("iris", "other", 1, json!(null))
        .await
        .expect(200);
    assert!(world.get("/v1/models/iris/aliases/other").await.expect(200)["warnings"].is_array());
    world.put(path, json!({})).await.expect(200);
    for alias in ["other", "champion"] {
        let view = world
            .get(&format!("/v1/models/iris/aliases/{alias}"))
            .await
            .expect(200);
        assert!(view["warnings"].is_null(), "{view:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_finds_the_last_version_that_is_still_ready() {
    let world = World::start().await;
    world.ready_model("iris").await;
    for fill in 2..5 {
        version_with(&world, fill, json!({})).await;
    }
    let mut held = json!(null);
    for version in 1..=4 {
        world
            .set_alias("iris", "champion", version, held)
            .await
            .expect(200);
        held = json!(version);
    }
    world.delete("/v1/models/iris/versions/3").await.expect(200);
    world.delete("/v1/models/iris/versions/2").await.expect(200);
    let back = world
        .post("/v1/models/iris/aliases/champion/rollback", json!({}))
        .await
        .expect(200);
    assert_eq!(back["version"], 1);
    // Nothing is left behind version 1 but itself and version 4.
    let back = world
        .post("/v1/models/iris/aliases/champion/rollback", json!({}))
        .await
        .expect(200);
    assert_eq!(back["version"], 4);
    world
        .post(
            "/v1/models/iris/aliases/champion/rollback",
            json!({"to_version": 3}),
        )
        .await
        .expect_error(409, "deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_alias_needs_a_clean_validation() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let unknown = version_with_code(&world).await;
    // Nothing is protected until somebody says so.
    world
        .set_alias("iris", "free", unknown, json!(null))
        .await
        .expect(200);
    protect(
        &world,
        json!([{"id": "serving", "aliases": ["champ*"], "stages": ["production"]}]),
    )
    .await;
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    let denied = world
        .set_alias("iris", "Champion", unknown, json!(null))
        .await;
    assert_eq!(
        denied_by(denied),
        ids(&["registry/serving/clean-validation"])
    );
    let denied = stage(&world, unknown, "Production").await;
    assert_eq!(
        denied_by(denied),
        ids(&["registry/serving/clean-validation"])
    );
    stage(&world, unknown, "Staging").await.expect(200);
    world
        .set_alias("iris", "free", 1, json!(unknown))
        .await
        .expect(200);

    let told = events(&world, "promotion.denied").await;
    assert_eq!(told.len(), 2);
    assert_eq!(told[0]["actor"], "ada");
    assert_eq!(told[0]["version"], unknown);
    assert_eq!(told[0]["data"]["policy"]["registry"]["protections"], 1);
    assert!(told[0]["data"]["conditions"][0]["satisfied_by"].is_string());
    let history = world
        .get("/v1/models/iris/aliases/champion/history")
        .await
        .expect(200);
    assert_eq!(
        history["events"][0]["data"]["policy"]["registry"]["protections"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_names_every_condition_that_failed() {
    let world = World::start().await;
    world.create_model("iris").await;
    version_with(
        &world,
        1,
        json!({"metrics": {"accuracy": 0.97}, "tags": {"risk": "low"}}),
    )
    .await;
    let protection = json!([{
        "id": "serving", "aliases": ["champion"], "metrics": {"accuracy": {}},
        "conditions": [
            {"id": "accuracy", "satisfied_by": "train until accuracy is at most 0.01 below the champion's",
             "when": "context.metrics has accuracy && (if context has holder && context.holder.metrics has accuracy \
                      then context.metrics.accuracy >= context.holder.metrics.accuracy - 10000 else true)"},
            {"id": "risk", "satisfied_by": "tag the version with risk=low", "when": "context has risk && context.risk == \"low\""},
            {"id": "data", "satisfied_by": "declare the datasets with digests", "when": "context.datasets.known"},
        ],
        "freezes": [{"id": "holidays", "from": "2020-01-01T00:00:00Z", "until": "2099-01-01T00:00:00Z", "reason": "year's end"}],
    }]);
    protect(&world, protection.clone()).await;
    let all = world.set_alias("iris", "champion", 1, json!(null)).await;
    assert_eq!(
        denied_by(all),
        ids(&["registry/serving/data", "registry/serving/freeze:holidays"])
    );

    let mut thawed = protection;
    thawed[0]["freezes"] = json!([]);
    protect(&world, thawed).await;
    let data = json!([{"name": "d", "digest": "md5:1"}]);
    let first = version_with(
        &world,
        2,
        json!({"metrics": {"accuracy": 0.97}, "tags": {"risk": "low"}, "datasets": data}),
    )
    .await;
    world
        .set_alias("iris", "champion", first, json!(null))
        .await
        .expect(200);
    // Metadata beyond what fits into the version's item lies apart, and is read in the same call.
    let big = json!({"metrics": {"accuracy": 0.959}, "datasets": data, "hyper_parameters": {"x": "y".repeat(3_000)}});
    let worse = version_with(&world, 3, big).await;
    let denied = world
        .set_alias("iris", "champion", worse, json!(first))
        .await;
    assert_eq!(
        denied_by(denied),
        ids(&["registry/serving/accuracy", "registry/serving/risk"])
    );
    let tags = json!({"tags": {"risk": "low"}});
    world
        .patch(&format!("/v1/models/iris/versions/{worse}"), tags)
        .await
        .expect(200);
    let denied = world
        .set_alias("iris", "champion", worse, json!(first))
        .await;
    assert_eq!(denied_by(denied), ids(&["registry/serving/accuracy"]));
    let enough = json!({"metrics": {"accuracy": 0.96}, "datasets": data, "tags": {"risk": "low"}, "hyper_parameters": {"x": "y".repeat(3_000)}});
    let enough = version_with(&world, 4, enough).await;

    let asked = json!({"version": worse, "alias": "champion"});
    let told = events(&world, "promotion.denied").await.len();
    let simulated = world
        .post("/v1/models/iris/simulate", asked)
        .await
        .expect(200);
    assert_eq!(
        (&simulated["allowed"], &simulated["holder"]),
        (&json!(false), &json!(first))
    );
    assert_eq!(simulated["conditions"].as_array().unwrap().len(), 3);
    let asked = json!({"version": enough, "alias": "champion"});
    let simulated = world
        .post("/v1/models/iris/simulate", asked)
        .await
        .expect(200);
    assert_eq!(simulated["allowed"], true, "{simulated:#}");
    assert_eq!(events(&world, "promotion.denied").await.len(), told);
    world
        .set_alias("iris", "champion", enough, json!(first))
        .await
        .expect(200);
    // Going back is asked the same.
    let path = "/v1/models/iris/aliases/champion/rollback";
    let denied = world.post(path, json!({"to_version": worse})).await;
    // The holder has 0.96, so 0.959 is near enough by now.
    denied.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn protections_are_checked_when_they_are_set_and_every_revision_stays() {
    let world = World::start().await;
    world.create_model("iris").await;
    let put = async |protections: Value| {
        let body = json!({"expected_revision": 0, "protections": protections});
        world.put("/v1/models/iris/protections", body).await
    };
    let condition = |when: &str| json!([{"id": "p", "aliases": ["a"], "conditions": [{"id": "c", "when": when, "satisfied_by": "x"}]}]);
    for when in [
        "context.nothing",
        "context.version == \"1\"",
        "(",
        "true }; forbid(principal, action, resource) when { true",
        "context.metrics.accuracy > 1",
    ] {
        let error = put(condition(when))
            .await
            .expect_error(400, "invalid_argument");
        assert!(
            error["message"].as_str().unwrap().contains("p/c"),
            "{error:#}"
        );
    }
    put(json!([{"id": "p"}]))
        .await
        .expect_error(400, "invalid_argument");
    put(json!([{"id": "p", "aliases": ["a"], "typo": 1}]))
        .await
        .expect_error(400, "invalid_argument");
    world
        .put(
            "/v1/protections",
            json!({"expected_revision": 0, "protections": [], "typo": 1}),
        )
        .await
        .expect_error(400, "invalid_argument");
    world
        .put("/v1/protections", json!({"protections": []}))
        .await
        .expect_error(400, "invalid_argument");
    world
        .put(
            "/v1/models/nothing/protections",
            json!({"expected_revision": 0, "protections": []}),
        )
        .await
        .expect_error(404, "model_not_found");
    world
        .get("/v1/models/nothing/protections")
        .await
        .expect_error(404, "model_not_found");
    assert_eq!(put(condition("true")).await.expect(200)["revision"], 1);
    put(condition("false")).await.expect_error(409, "conflict");
    let body = json!({"expected_revision": 1, "protections": []});
    world
        .put("/v1/models/iris/protections", body)
        .await
        .expect(200);
    let first = world
        .get("/v1/models/iris/protections?revision=1")
        .await
        .expect(200);
    assert_eq!(first["protections"][0]["conditions"][0]["when"], "true");
    world
        .get("/v1/models/iris/protections?revision=3")
        .await
        .expect_error(400, "invalid_argument");
    assert_eq!(events(&world, "protections.changed").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiver_is_granted_by_who_may_has_an_end_and_is_in_the_history() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let code = version_with_code(&world).await;
    protect(
        &world,
        json!([{"id": "serving", "aliases": ["champion", "shadow"], "waiver_groups": ["risk"]}]),
    )
    .await;
    let at = |hours: u64| {
        json!(shared::domain::Timestamp::from_millis(
            world.clock.now().millis() + hours * 3_600_000
        ))
    };
    let waiver = |conditions: Value, expires: Value| json!({"conditions": conditions, "version": code, "alias": "champion", "reason": "read by hand", "expires_at": expires});
    let id = "registry/serving/clean-validation";
    let grant = async |who: (&str, &str), body: Value| {
        send_as(&world, who, Method::POST, "/v1/models/iris/waivers", body).await
    };
    let risk = ("rita", "risk,other");
    grant(("ben", "dev"), waiver(json!([id]), at(2)))
        .await
        .expect_error(403, "permission_denied");
    grant(risk, waiver(json!(["registry/serving/none"]), at(2)))
        .await
        .expect_error(400, "invalid_argument");
    grant(risk, waiver(json!([]), at(2)))
        .await
        .expect_error(400, "invalid_argument");
    grant(risk, waiver(json!([id]), at(0)))
        .await
        .expect_error(400, "invalid_argument");
    grant(risk, waiver(json!([id]), at(24 * 91)))
        .await
        .expect_error(400, "invalid_argument");
    let granted = grant(risk, waiver(json!([id]), at(2))).await.expect(201);

    let denied = world.set_alias("iris", "shadow", code, json!(null)).await;
    assert_eq!(denied_by(denied), ids(&[id]), "it is for another alias");
    world
        .set_alias("iris", "champion", code, json!(null))
        .await
        .expect(200);
    let history = world
        .get("/v1/models/iris/aliases/champion/history")
        .await
        .expect(200);
    assert_eq!(
        history["events"][0]["data"]["policy"]["waived"][0]["waiver"],
        granted["id"]
    );
    world
        .set_alias("iris", "champion", 1, json!(code))
        .await
        .expect(200);
    world.clock.advance_millis(2 * 3_600_000);
    let denied = world.set_alias("iris", "champion", code, json!(1)).await;
    assert_eq!(denied_by(denied), ids(&[id]), "its time is over");
    let listed = world.get("/v1/models/iris/waivers").await.expect(200);
    assert_eq!(listed["waivers"][0]["is_expired"], true);

    let second = grant(risk, waiver(json!([id]), at(2))).await.expect(201);
    let path = format!("/v1/models/iris/waivers/{}", second["id"].as_str().unwrap());
    send_as(&world, ("ben", "dev"), Method::DELETE, &path, json!({}))
        .await
        .expect_error(403, "permission_denied");
    send_as(&world, ("rob", "risk"), Method::DELETE, &path, json!({}))
        .await
        .expect(200);
    send_as(&world, ("rob", "risk"), Method::DELETE, &path, json!({}))
        .await
        .expect_error(404, "waiver_not_found");
    let denied = world.set_alias("iris", "champion", code, json!(1)).await;
    assert_eq!(denied_by(denied), ids(&[id]), "it was revoked");
    assert_eq!(events(&world, "waiver.granted").await.len(), 2);
    assert_eq!(events(&world, "waiver.revoked").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_rests_on_an_old_policy_is_decided_anew() {
    // Promotions and a policy that forbids them, at once: whatever comes after the policy is denied.
    let world = World::start().await;
    world.ready_model("iris").await;
    version_with(&world, 2, json!({})).await;
    protect(&world, json!([{"id": "p", "aliases": ["champion"]}])).await;
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    let never = json!([{"id": "p", "aliases": ["champion"], "conditions": [{"id": "never", "when": "false", "satisfied_by": "nothing"}]}]);
    let flip = async || {
        for round in 0..20_u64 {
            let body = json!({"version": 1 + round % 2, "unconditional": true});
            world.put("/v1/models/iris/aliases/champion", body).await;
        }
    };
    let ((), _) = tokio::join!(flip(), protect(&world, never));
    flip().await;
    let set_at = world.get("/v1/protections").await.expect(200)["revision"].clone();
    assert_eq!(set_at, 2);
    let history = world
        .get("/v1/models/iris/aliases/champion/history?limit=100")
        .await
        .expect(200);
    for event in history["events"].as_array().unwrap() {
        assert_eq!(
            event["data"]["policy"]["registry"]["protections"], 1,
            "{event:#}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_policy_is_in_force_in_every_process_with_its_answer() {
    let world = World::start().await;
    world.ready_model("iris").await;
    version_with(&world, 2, json!({})).await;
    let config = world.stack.app().config.as_ref().clone();
    let another = promote::router(App::new(config, Clock::system(), &[]));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/v1/models/iris/aliases/champion",
        listener.local_addr().unwrap()
    );
    let server = tokio::spawn(async move { axum::serve(listener, another).await });
    let http = http_client();
    let promote = async |version: u64| {
        let body = json!({"version": version, "unconditional": true});
        let answer = http.put(&url).json(&body).send().await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!(promote(1).await, 200, "nothing governs, and it knows that");
    let never = json!([{"id": "p", "aliases": ["champion"], "conditions": [{"id": "never", "when": "false", "satisfied_by": "nothing"}]}]);
    protect(&world, never).await;
    assert_eq!(promote(2).await, 403);
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn guarding_survives_every_cut() {
    let send = async |world: &World, method: Method, path: &str, body: Value| {
        let headers = [
            ("idempotency-key", "the-key"),
            ("x-slipway-actor", "rita"),
            ("x-slipway-groups", "risk"),
        ];
        world.send(method, path, Some(body), &headers).await.status < 300
    };
    cut_everywhere_with(
        &[],
        async |world| drop(world.create_model("iris").await),
        async |world, _| {
            let body = json!({"expected_revision": 0, "protections": [{"id": "p", "aliases": ["champion"]}]});
            send(world, Method::PUT, "/v1/models/iris/protections", body).await
        },
        async |world| {
            let view = world.get("/v1/models/iris/protections").await.expect(200);
            assert_eq!(view["revision"], 1);
            assert_eq!(events(world, "protections.changed").await.len(), 1);
        },
    )
    .await;
    cut_everywhere_with(
        &[],
        async |world| {
            world.ready_model("iris").await;
            protect(world, json!([{"id": "p", "aliases": ["champion"], "waiver_groups": ["risk"], "conditions": [
                {"id": "never", "when": "context has holder && context.holder.version < 0", "satisfied_by": "a waiver"}]}])).await;
            let body = json!({"conditions": ["registry/p/never"], "reason": "r",
                "expires_at": shared::domain::Timestamp::from_millis(world.clock.now().millis() + 80 * 86_400_000)});
            send_as(world, ("rita", "risk"), Method::POST, "/v1/models/iris/waivers", body).await.expect(201);
        },
        async |world, _| {
            let body = json!({"version": 1, "expected_version": null});
            send(world, Method::PUT, "/v1/models/iris/aliases/champion", body).await
        },
        async |world| {
            let alias = world.get("/v1/models/iris/aliases/champion").await.expect(200);
            assert_eq!(alias["sequence"], 1);
            assert_eq!(world.version("iris", 1).await["alias_count"], 1);
            assert!(events(world, "promotion.denied").await.is_empty());
        },
    )
    .await;
    cut_everywhere_with(
        &[],
        async |world| {
            world.ready_model("iris").await;
            version_with(world, 2, json!({})).await;
            let rules = json!({"expected_revision": 0, "stages": [{"name": "Live", "exclusive": true}, {"name": "Archived"}]});
            world.put("/v1/stages", rules).await.expect(200);
            stage(world, 1, "Live").await.expect(200);
        },
        async |world, _| send(world, Method::POST, "/v1/models/iris/versions/2/stage", json!({"stage": "Live"})).await,
        async |world| {
            assert_eq!(stage_of(world, 1).await, "Archived");
            assert_eq!(stage_of(world, 2).await, "Live");
            assert_eq!(events(world, "version.stage_changed").await.len(), 3);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_promotion_keeps_its_budget() {
    let world = World::start().await;
    world.ready_model("iris").await;
    version_with(&world, 2, json!({})).await;
    protect(&world, json!([{"id": "p", "aliases": ["champion"]}])).await;
    for (version, held) in [
        (1, json!(null)),
        (2, json!(1)),
        (1, json!(2)),
        (2, json!(1)),
    ] {
        world.probe.reset(Cut::Never);
        world
            .set_alias("iris", "champion", version, held)
            .await
            .expect(200);
        let operations = world.probe.operations();
        let reads = operations
            .iter()
            .filter(|name| *name == "BatchGetItem")
            .count();
        // What is loaded, and in the first call of a process what guards it.
        assert!(
            reads <= 2 && operations.len() == reads + 1,
            "{operations:?}"
        );
        if world.probe.units() <= 12.0 {
            assert_eq!(operations, ["TransactWriteItems"]);
        }
    }
    assert!(world.probe.units() <= 12.0, "{}", world.probe.units());
    // An alias that nothing guards rests on that.
    world
        .set_alias("iris", "other", 1, json!(null))
        .await
        .expect(200);
    world
        .set_alias("iris", "other", 2, json!(1))
        .await
        .expect(200);
    world.probe.reset(Cut::Never);
    world
        .set_alias("iris", "other", 1, json!(2))
        .await
        .expect(200);
    assert_eq!(world.probe.operations(), ["TransactWriteItems"]);
    assert!(world.probe.units() <= 12.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_guards_a_model_stays_with_it_when_it_is_renamed() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let never = json!({"expected_revision": 0, "protections": [{"id": "p", "aliases": ["champion"],
        "conditions": [{"id": "never", "when": "false", "satisfied_by": "nothing"}]}]});
    world
        .put("/v1/models/iris/protections", never)
        .await
        .expect(200);
    world
        .post("/v1/models/iris/rename", json!({"name": "lily"}))
        .await
        .expect(200);
    let denied = world.set_alias("lily", "champion", 1, json!(null)).await;
    denied.expect_error(403, "promotion_denied");
    let view = world.get("/v1/models/lily/protections").await.expect(200);
    assert_eq!(view["revision"], 1);
    // Another model that gets the name is guarded by nothing.
    world.ready_model("iris").await;
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    let body = json!({"version": 1, "alias": "next"});
    let path = "/v1/models/lily/promotion-requests";
    let request = world.post(path, body).await.expect(201);
    let path = format!("{path}/{}/approve", request["id"].as_str().unwrap());
    let approved = send_as(&world, ("ben", ""), Method::POST, &path, json!({})).await;
    assert_eq!(approved.expect(200)["status"], "promoted");
    let alias = world.get("/v1/models/lily/aliases/next").await.expect(200);
    assert_eq!(alias["version"], 1);
    let path = "/v1/rollouts/e/lily";
    let body = json!({"model": "lily", "strategy": "single", "expected_revision": 0,
        "deployments": [{"version": 1, "role": "champion", "weight": 10_000}]});
    world.put(path, body).await.expect(200);
    assert_eq!(world.get(path).await.expect(200)["model"], "lily");
    let deleted = world.delete("/v1/models/lily/versions/1").await;
    deleted.expect_error(409, "version_in_use");
}
