//! The validation policy, and versions that are judged again by it.

use crate::crashes::cut_everywhere_with;
use crate::world::{Answer, Files, World, files, safetensors};
use reqwest::Method;
use serde_json::{Value, json};
use shared::test_util::Cut;

/// A pickle with an object of this class, which has one attribute.
fn pickle_of(module: &str, class: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        [&[0x8c, length], text.as_bytes()].concat()
    };
    let mut bytes = b"\x80\x04".to_vec();
    bytes.extend(text(module));
    bytes.extend(text(class));
    bytes.extend(b"\x93)\x81}");
    bytes.extend(text("weight"));
    bytes.extend(b"K\x01sb.");
    bytes
}

/// A model of a class that the built-in list does not know.
fn scorer() -> Files {
    files(&[("model.pkl", &pickle_of("our_models.scoring", "Scorer"))])
}

const ALLOWED: &str = "class our_models.scoring Scorer";

async fn set_policy(world: &World, expected: u64, policy: Value) -> Answer {
    world
        .put(
            "/v1/validation-policy",
            json!({"expected_revision": expected, "policy": policy, "reason": "reviewed by security"}),
        )
        .await
}

async fn rejudge(world: &World, version: u64, body: Value) -> Answer {
    world
        .post(&format!("/v1/models/iris/versions/{version}/rejudge"), body)
        .await
}

async fn events_of(world: &World, kind: &str) -> Vec<Value> {
    let events = world
        .get("/v1/models/iris/events?limit=100")
        .await
        .expect(200);
    let all = events["events"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|event| event["type"] == kind)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_set_by_compare_and_swap_and_shown() {
    let world = World::start().await;
    let shown = world.get("/v1/validation-policy").await.expect(200);
    assert_eq!(shown["revision"], 0);
    assert_eq!(
        shown["policy"]["accepted_verdicts"],
        json!(["clean", "contains_code", "unsupported"])
    );
    let policy = json!({
        "allow_list": [ALLOWED], "required": ["signature"], "accepted_verdicts": ["clean"],
        "rule_verdicts": {"environment.unpinned": "malformed"},
    });
    let set = set_policy(&world, 0, policy.clone()).await.expect(200);
    assert_eq!(
        (&set["revision"], &set["changed_by"]),
        (&json!(1), &json!("ada"))
    );
    assert_ne!(set["allow_list_digest"], shown["allow_list_digest"]);
    assert_eq!(world.get("/v1/validation-policy").await.expect(200), set);
    let lost = set_policy(&world, 0, policy.clone())
        .await
        .expect_error(409, "conflict");
    assert_eq!(lost["details"]["current"]["revision"], 1);
    // What was shown can be sent back as it is.
    let same =
        json!({"expected_revision": 1, "policy": set["policy"], "advisories": set["advisories"]});
    world.put("/v1/validation-policy", same).await.expect(200);
    // Another tenant has a policy of its own.
    let other = world
        .get("/t/team-a/v1/validation-policy")
        .await
        .expect(200);
    assert_eq!(other["revision"], 0);
    world.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_accepted_is_refused_by_name() {
    let world = World::start().await;
    for (policy, field, word) in [
        (
            json!({"allow_list": ["call os system"]}),
            "allow_list",
            "os.system",
        ),
        (
            json!({"allow_list": [ALLOWED, "data builtins eval"]}),
            "allow_list",
            "builtins.eval",
        ),
        (json!({"allow_list": ["Scorer"]}), "allow_list", "line 1"),
        (
            json!({"accepted_verdicts": ["clean", "unsafe"]}),
            "accepted_verdicts",
            "unsafe",
        ),
        (
            json!({"accepted_verdicts": ["clean", "malformed"]}),
            "accepted_verdicts",
            "malformed",
        ),
        (
            json!({"accepted_verdicts": ["clean", "incomplete"]}),
            "accepted_verdicts",
            "incomplete",
        ),
        (
            json!({"accepted_verdicts": ["contains_code"]}),
            "accepted_verdicts",
            "clean",
        ),
        (
            json!({"rule_verdicts": {"pickle.bomb": "clean"}}),
            "rule_verdicts",
            "pickle.bomb",
        ),
        (
            json!({"rule_verdicts": {"no.rule": "unsafe"}}),
            "rule_verdicts",
            "no.rule",
        ),
    ] {
        let error = set_policy(&world, 0, policy.clone())
            .await
            .expect_error(400, "invalid_argument");
        assert_eq!(error["details"]["field"], field, "{policy}");
        assert!(error["message"].as_str().unwrap().contains(word), "{error}");
    }
    for body in [
        json!({"policy": {}}),
        json!({"expected_revision": 0, "policy": {"allowed": []}}),
        json!({"expected_revision": 0, "policy": {"required": ["hat"]}}),
        json!({"expected_revision": -1, "policy": {}}),
    ] {
        let answer = world.put("/v1/validation-policy", body.clone()).await;
        assert_eq!(answer.status, 400, "{body}");
    }
    for advisories in [
        json!({}),
        json!({"osv": [], "key": "advisories/default/x.json"}),
        json!({"osv": {"no": "records"}}),
        json!({"key": "incoming/default/iris/1/x.json"}),
        json!({"key": "advisories/team-a/x.json"}),
        json!({"key": "advisories/default/missing.json"}),
    ] {
        let body = json!({"expected_revision": 0, "policy": {}, "advisories": advisories});
        world
            .put("/v1/validation-policy", body)
            .await
            .expect_error(400, "invalid_argument");
    }
    assert_eq!(
        world.get("/v1/validation-policy").await.expect(200)["revision"],
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_judged_by_the_policy_and_reports_say_which() {
    let world = World::start().await;
    world.create_model("iris").await;
    let refused = world.publish("iris", &scorer()).await;
    assert_eq!(
        world.version("iris", refused).await["status"],
        "FAILED_REGISTRATION"
    );
    let policy = set_policy(&world, 0, json!({"allow_list": [ALLOWED]}))
        .await
        .expect(200);
    let taken = world.publish("iris", &scorer()).await;
    let view = world.version("iris", taken).await;
    assert_eq!(
        (&view["status"], &view["validation"]["policy_revision"]),
        (&json!("READY"), &json!(1))
    );
    let report = world
        .get("/v1/models/iris/versions/2/report")
        .await
        .expect(200);
    assert_eq!(report["policy_revision"], 1);
    assert_eq!(report["allow_list_digest"], policy["allow_list_digest"]);
    assert_eq!(report["rules_digest"], policy["rules_digest"]);

    set_policy(
        &world,
        1,
        json!({"accepted_verdicts": ["clean"], "required": ["signature"]}),
    )
    .await
    .expect(200);
    let unknown = world
        .publish("iris", &files(&[("weights.xyz", b"\x01\x02\x03\x04")]))
        .await;
    let report = world
        .get(&format!("/v1/models/iris/versions/{unknown}/report"))
        .await
        .expect(200);
    let rules: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["rule"].as_str().unwrap())
        .collect();
    assert!(rules.contains(&"completeness.signature"), "{rules:?}");
    set_policy(&world, 2, json!({"accepted_verdicts": ["clean"]}))
        .await
        .expect(200);
    let unknown = world
        .publish("iris", &files(&[("weights.xyz", b"\x01\x02\x03\x05")]))
        .await;
    let view = world.version("iris", unknown).await;
    assert_eq!(view["status"], "FAILED_REGISTRATION");
    assert_eq!(view["validation"]["verdict"], "unsupported");
    assert!(
        view["validation"]["summary"]
            .as_str()
            .unwrap()
            .contains("does not accept"),
        "{view}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn advisories_of_a_deployment_are_pinned_and_held_against_dependencies() {
    let world = World::start().await;
    world.create_model("iris").await;
    let record = json!([{"id": "PYSEC-1", "summary": "it leaks", "affected": [{
        "package": {"ecosystem": "PyPI", "name": "leaky"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}]}]}]);
    let key = "advisories/default/osv.json";
    let bucket = world.stack.app().bucket.clone();
    bucket
        .put_immutable(key, record.to_string().into(), "application/json")
        .await
        .unwrap();
    let by_key = json!({"expected_revision": 0, "policy": {}, "advisories": {"key": key}});
    let set = world.put("/v1/validation-policy", by_key).await.expect(200);
    assert_eq!(
        (
            &set["advisories"]["key"],
            &set["advisories"]["record_count"]
        ),
        (&json!(key), &json!(1))
    );
    let content = files(&[
        ("model.safetensors", &safetensors(8, 1)),
        ("requirements.txt", b"leaky==1.0\n"),
    ]);
    world.publish("iris", &content).await;
    let report = world
        .get("/v1/models/iris/versions/1/report")
        .await
        .expect(200);
    assert_eq!(
        report["findings"][0]["rule"],
        "environment.known-vulnerability"
    );
    assert_eq!(world.version("iris", 1).await["status"], "READY", "a note");

    let policy = json!({"rule_verdicts": {"environment.known-vulnerability": "unsafe"}});
    let enclosed = json!({"expected_revision": 1, "policy": policy, "advisories": {"osv": record}});
    let set = world
        .put("/v1/validation-policy", enclosed)
        .await
        .expect(200);
    assert!(
        set["advisories"]["key"]
            .as_str()
            .unwrap()
            .starts_with("documents/default/")
    );
    let again = json!({"expected_revision": 2, "policy": policy, "advisories": set["advisories"]});
    world.put("/v1/validation-policy", again).await.expect(200);
    world.publish("iris", &content).await;
    assert_eq!(
        world.version("iris", 2).await["validation"]["verdict"],
        "unsafe"
    );
    let answer = rejudge(&world, 1, json!({})).await.expect(200);
    assert_eq!(
        (&answer["validation"]["verdict"], &answer["rejudged"]),
        (&json!("unsafe"), &json!(true))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_version_becomes_ready_when_the_list_learns_its_class_without_reading_it() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.publish("iris", &scorer()).await;
    set_policy(&world, 0, json!({"allow_list": [ALLOWED]}))
        .await
        .expect(200);
    world.probe.reset(Cut::Never);
    let answer = rejudge(&world, 1, json!({"reason": "the class was reviewed"}))
        .await
        .expect(200);
    assert_eq!(
        world.probe.operations(),
        [
            "GetItem",
            "GetObject",
            "GetItem",
            "HeadObject",
            "PutObject",
            "TransactWriteItems"
        ],
        "one object is read: the report"
    );
    assert!(world.probe.units() <= 6.0, "{}", world.probe.units());
    assert_eq!(
        (&answer["status"], &answer["previous_verdict"]),
        (&json!("READY"), &json!("unsafe"))
    );
    world.drain().await;
    world.sweep().await;
    world.drain().await;
    let view = world.version("iris", 1).await;
    assert!(
        view["package"]["manifest_digest"].is_string(),
        "it is packaged: {view}"
    );
    let downloads = world
        .get("/v1/models/iris/versions/1/downloads")
        .await
        .expect(200);
    assert_eq!(
        world.download(&downloads["downloads"][0]).await,
        scorer()["model.pkl"]
    );
    let told = events_of(&world, "version.rejudged").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["reason"], "the class was reviewed");
    assert_eq!(told[0]["data"]["previous_status"], "FAILED_REGISTRATION");
    // Asked again, there is nothing to change.
    let again = rejudge(&world, 1, json!({})).await.expect(200);
    assert_eq!(again["rejudged"], false);
    assert_eq!(events_of(&world, "version.rejudged").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_no_longer_accepted_serves_on_but_cannot_be_promoted() {
    let world = World::start().await;
    world.create_model("iris").await;
    set_policy(&world, 0, json!({"allow_list": [ALLOWED]}))
        .await
        .expect(200);
    world.publish("iris", &scorer()).await;
    world.publish("iris", &scorer()).await;
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    // Both versions are remembered by promote before they are judged again.
    world
        .set_alias("iris", "spare", 2, json!(null))
        .await
        .expect(200);
    world
        .send(
            Method::DELETE,
            "/v1/models/iris/aliases/spare",
            Some(json!({"expected_version": 2})),
            &[],
        )
        .await
        .expect(200);
    set_policy(&world, 1, json!({})).await.expect(200);
    for version in [1, 2] {
        let answer = rejudge(&world, version, json!({})).await.expect(200);
        assert_eq!(
            (&answer["status"], &answer["validation"]["verdict"]),
            (&json!("READY"), &json!("unsafe"))
        );
        assert!(answer["revoked_at"].is_string());
    }
    let alias = world
        .get("/v1/models/iris/aliases/champion")
        .await
        .expect(200);
    assert_eq!(alias["version"], 1, "what serves goes on serving");
    world
        .get("/v1/models/iris/versions/1/downloads")
        .await
        .expect(200);
    world
        .get("/v1/models/iris/versions/2/downloads")
        .await
        .expect_error(409, "version_revoked");
    let refused = world
        .set_alias("iris", "champion", 2, json!(1))
        .await
        .expect_error(409, "version_revoked");
    assert_eq!(refused["details"]["verdict"], "unsafe");
    world
        .post(
            "/v1/models/iris/versions/1/stage",
            json!({"stage": "Production"}),
        )
        .await
        .expect_error(409, "version_revoked");
    // Accepted again, it can be promoted again.
    set_policy(&world, 2, json!({"allow_list": [ALLOWED]}))
        .await
        .expect(200);
    let answer = rejudge(&world, 2, json!({})).await.expect(200);
    assert_eq!(answer.get("revoked_at"), None);
    world
        .set_alias("iris", "champion", 2, json!(1))
        .await
        .expect(200);
    world.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn judging_again_is_idempotent_and_refuses_what_it_cannot_judge() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.publish("iris", &scorer()).await;
    set_policy(&world, 0, json!({"allow_list": [ALLOWED]}))
        .await
        .expect(200);
    let path = "/v1/models/iris/versions/1/rejudge";
    let key = [("idempotency-key", "k")];
    let first = world.send(Method::POST, path, Some(json!({})), &key).await;
    let second = world.send(Method::POST, path, Some(json!({})), &key).await;
    assert_eq!(first.body, second.body);
    assert_eq!(
        second
            .headers
            .get("idempotency-replayed")
            .map(String::as_str),
        Some("true")
    );
    // Nothing was uploaded yet.
    world.register("iris", &scorer()).await;
    rejudge(&world, 2, json!({}))
        .await
        .expect_error(409, "version_not_ready");
    rejudge(&world, 9, json!({}))
        .await
        .expect_error(404, "version_not_found");
    rejudge(&world, 1, json!({"deep": true}))
        .await
        .expect_error(400, "invalid_argument");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_versions_of_a_model_are_judged_again_page_by_page() {
    let world = World::start().await;
    world.create_model("iris").await;
    for _ in 0..3 {
        world.publish("iris", &scorer()).await;
    }
    world.register("iris", &scorer()).await;
    set_policy(&world, 0, json!({"allow_list": [ALLOWED]}))
        .await
        .expect(200);
    let mut body = json!({"limit": 2});
    let mut seen = Vec::new();
    loop {
        let page = world
            .post("/v1/models/iris/rejudge", body.clone())
            .await
            .expect(200);
        seen.extend(page["versions"].as_array().unwrap().clone());
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        body["cursor"] = cursor.into();
    }
    assert_eq!(seen.len(), 4);
    assert!(
        seen[..3]
            .iter()
            .all(|one| one["status"] == "READY" && one["rejudged"] == true)
    );
    assert_eq!(seen[3]["error"]["code"], "version_not_ready");
    world
        .post("/v1/models/iris/rejudge", json!({"limit": 21}))
        .await
        .expect_error(400, "invalid_argument");
    world
        .post("/v1/models/none/rejudge", json!({}))
        .await
        .expect_error(404, "model_not_found");
    world.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_read_again_by_the_sweep_where_somebody_asks_for_it() {
    let world = World::start().await;
    world.create_model("iris").await;
    world
        .publish("iris", &files(&[("m.safetensors", &safetensors(8, 1))]))
        .await;
    // From then on its files are read where packaging put them.
    world.pass(2 * 3_600_000).await;
    world.publish("iris", &scorer()).await;
    set_policy(
        &world,
        0,
        json!({"allow_list": [ALLOWED], "accepted_verdicts": ["clean"]}),
    )
    .await
    .expect(200);
    for version in [1, 2] {
        for _ in 0..2 {
            let answer = rejudge(&world, version, json!({"read_artifacts": true}))
                .await
                .expect(202);
            assert_eq!(answer["reads_artifacts"], true);
        }
    }
    world.clock.advance_millis(1_000);
    world.sweep().await;
    world.drain().await;
    world.sweep().await;
    world.drain().await;
    for version in [1, 2] {
        let view = world.version("iris", version).await;
        assert_eq!(
            (&view["status"], &view["validation"]["policy_revision"]),
            (&json!("READY"), &json!(1)),
            "{view}"
        );
        assert!(view["package"].is_object());
    }
    assert_eq!(events_of(&world, "version.rejudged").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_and_a_further_judgement_survive_every_cut() {
    cut_everywhere_with(
        &[],
        async |world: &World| {
            world.create_model("iris").await;
            world.publish("iris", &scorer()).await;
        },
        async |world: &World, _| {
            let key = [("idempotency-key", "policy")];
            let policy = json!({"expected_revision": 0, "policy": {"allow_list": [ALLOWED]}});
            let set = world
                .send(Method::PUT, "/v1/validation-policy", Some(policy), &key)
                .await;
            if set.status != 200 {
                return false;
            }
            let path = "/v1/models/iris/versions/1/rejudge";
            let judged = world
                .send(
                    Method::POST,
                    path,
                    Some(json!({})),
                    &[("idempotency-key", "again")],
                )
                .await;
            judged.status == 200
        },
        async |world: &World| {
            world.drain().await;
            assert_eq!(
                world.get("/v1/validation-policy").await.expect(200)["revision"],
                1
            );
            assert_eq!(world.version("iris", 1).await["status"], "READY");
            assert_eq!(events_of(world, "version.rejudged").await.len(), 1);
        },
    )
    .await;
}
