//! Bad input: each gets the one envelope, and nothing is half-written.

use crate::world::{World, digest, files, safetensors};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_what_a_route_takes_are_refused() {
    let world = World::start().await;
    let raw = |body: &'static str, media_type: &'static str| {
        let url = world.url("/v1/models");
        async move {
            let response = crate::world::http_client()
                .post(url)
                .header("content-type", media_type)
                .body(body)
                .send()
                .await
                .unwrap();
            let status = response.status().as_u16();
            let body: Value = response.json().await.unwrap();
            (status, body["error"]["code"].as_str().unwrap().to_owned())
        }
    };
    for (body, media_type, status, code) in [
        ("{", "application/json", 400, "malformed_body"),
        ("", "application/json", 400, "malformed_body"),
        ("{} {}", "application/json", 400, "invalid_argument"),
        (
            "{\"name\":\"x\"} 1",
            "application/json",
            400,
            "malformed_body",
        ),
        (
            "{\"name\":\"x\"}",
            "text/plain",
            415,
            "unsupported_media_type",
        ),
        ("[]", "application/json", 400, "invalid_argument"),
        ("{\"name\":1}", "application/json", 400, "invalid_argument"),
        (
            "{\"name\":\"x\",\"nmae\":1}",
            "application/json",
            400,
            "invalid_argument",
        ),
        (
            "{\"name\":\"x\",\"tags\":{\"a\":1}}",
            "application/json",
            400,
            "invalid_argument",
        ),
        (
            "{\"name\":\"a/b\"}",
            "application/json",
            400,
            "invalid_argument",
        ),
        (
            "\u{FEFF}{\"name\":\"x\"}",
            "application/json",
            400,
            "malformed_body",
        ),
    ] {
        assert_eq!(
            raw(body, media_type).await,
            (status, code.to_owned()),
            "{body:?}"
        );
    }
    let deep: &'static str = Box::leak("[".repeat(100_000).into_boxed_str());
    assert_eq!(raw(deep, "application/json").await.0, 400);
    assert_eq!(
        world.get("/v1/models").await.expect(200)["models"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused() {
    let world = World::start().await;
    let body = json!({"name": "x", "description": "y".repeat(6_000_000)});
    world
        .post("/v1/models", body)
        .await
        .expect_error(413, "body_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_routes_and_methods_answer_the_envelope() {
    let world = World::start().await;
    world
        .get("/nowhere")
        .await
        .expect_error(404, "route_not_found");
    world
        .get("/t/team-a/nowhere")
        .await
        .expect_error(404, "route_not_found");
    world
        .send(Method::PUT, "/v1/models", Some(json!({})), &[])
        .await
        .expect_error(405, "method_not_allowed");
    world
        .get("/v1/models/%FF")
        .await
        .expect_error(400, "invalid_argument");
    world
        .get("/v1/models?limit=0")
        .await
        .expect_error(400, "invalid_argument");
    world
        .get("/v1/models?limit=101")
        .await
        .expect_error(400, "invalid_argument");
    world
        .get("/v1/models?limit=x")
        .await
        .expect_error(400, "invalid_argument");
    world
        .get("/v1/models?lmit=1")
        .await
        .expect_error(400, "invalid_argument");
    world
        .get("/v1/models?cursor=abc")
        .await
        .expect_error(400, "invalid_cursor");
    world
        .get("/v1/models?order=sideways")
        .await
        .expect_error(400, "invalid_argument");
}

#[tokio::test(flavor = "multi_thread")]
async fn declarations_that_break_a_rule_are_refused_and_take_no_number() {
    let world = World::start().await;
    world.create_model("iris").await;
    let one = |path: &str, size: Value, digest: &str| json!([{"path": path, "size_bytes": size, "digest": digest}]);
    let good = digest(b"");
    let mut cases = vec![
        json!([]),
        one("m.bin", json!(-1), &good),
        one("m.bin", json!(1.5), &good),
        one("m.bin", json!(5_000_000_000_000_u64), &good),
        one("m.bin", json!(u64::MAX), &good),
        one("m.bin", json!(1), "sha256:xyz"),
        one("m.bin", json!(1), "md5:d41d8cd98f00b204e9800998ecf8427e"),
        one("m.bin", json!(1), &good.to_uppercase()),
        json!([{"path": "m.bin", "size_bytes": 1}]),
        json!([{"path": "m.bin", "size_bytes": 1, "digest": good, "media_type": "x"}]),
        json!([{"path": "a", "size_bytes": 1, "digest": good}, {"path": "a", "size_bytes": 1, "digest": good}]),
        json!([{"path": "a", "size_bytes": 1, "digest": good}, {"path": "A", "size_bytes": 1, "digest": good}]),
        json!([{"path": "caf\u{e9}", "size_bytes": 1, "digest": good}, {"path": "cafe\u{301}", "size_bytes": 1, "digest": good}]),
        json!([{"path": "a", "size_bytes": 1, "digest": good}, {"path": "a/b", "size_bytes": 1, "digest": good}]),
        (0..10_001)
            .map(|index| json!({"path": format!("f{index}"), "size_bytes": 1, "digest": good}))
            .collect(),
    ];
    let long = "x/".repeat(300);
    for path in [
        "../x",
        "/etc/passwd",
        "a\\b",
        "a\u{0}b",
        "a//b",
        ".",
        "..",
        "",
        "a/../b",
        "C:/x",
        &long,
        "\u{FF0E}\u{FF0E}/x",
        "a\u{202E}b",
    ] {
        cases.push(one(path, json!(1), &good));
    }
    for artifacts in cases {
        let shown = artifacts.to_string().chars().take(80).collect::<String>();
        let answer = world
            .post("/v1/models/iris/versions", json!({"artifacts": artifacts}))
            .await;
        let error = answer.expect_error(400, "invalid_argument");
        assert!(error["message"].as_str().unwrap().len() < 400, "{shown}");
    }
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    assert_eq!(
        world.register("iris", &content).await,
        1,
        "no refused declaration took a number"
    );
    world
        .post(
            "/v1/models/nobody/versions",
            json!({"artifacts": World::declaration(&content)}),
        )
        .await
        .expect_error(404, "model_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_artifacts_are_declared_uploaded_in_pages_and_listed() {
    let world = World::start().await;
    world.create_model("many").await;
    let content: Vec<Value> = (0..10_000)
        .map(|index| json!({"path": format!("shard-{index:05}.bin"), "size_bytes": 1, "digest": digest(b"x")}))
        .collect();
    let view = world
        .post("/v1/models/many/versions", json!({"artifacts": content}))
        .await
        .expect(201);
    assert_eq!(view["artifact_count"], 10_000);
    let page = world
        .post("/v1/models/many/versions/1/uploads", json!({}))
        .await
        .expect(200);
    assert_eq!(page["uploads"].as_array().unwrap().len(), 1_000);
    let after = page["next_after"].as_str().unwrap();
    let next = world
        .post(
            "/v1/models/many/versions/1/uploads",
            json!({"after": after}),
        )
        .await
        .expect(200);
    assert_eq!(next["uploads"][0]["path"], "shard-01000.bin");
    let error = world
        .post("/v1/models/many/versions/1/finalize", json!({}))
        .await
        .expect_error(409, "upload_incomplete");
    assert_eq!(
        error["details"]["missing"].as_array().unwrap().len(),
        100,
        "an error stays readable"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalize_before_the_upload_names_what_is_missing_and_changes_nothing() {
    let world = World::start().await;
    world.create_model("iris").await;
    let content = files(&[
        ("a.safetensors", &safetensors(8, 1)),
        ("b.safetensors", &safetensors(8, 2)),
    ]);
    let version = world.register("iris", &content).await;
    let path = format!("/v1/models/iris/versions/{version}/finalize");
    let error = world
        .post(&path, json!({}))
        .await
        .expect_error(409, "upload_incomplete");
    assert_eq!(
        error["details"]["missing"],
        json!(["a.safetensors", "b.safetensors"])
    );
    world.drain().await;
    assert_eq!(
        world.version("iris", version).await["status"],
        "PENDING_REGISTRATION"
    );
    world.upload("iris", version, &content).await;
    world.post(&path, json!({})).await.expect(200);
    world.drain().await;
    assert_eq!(world.version("iris", version).await["status"], "READY");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multipart_upload_with_a_missing_part_is_not_joined() {
    let world = World::start().await;
    world.create_model("big").await;
    let bytes = safetensors(70_000_000, 3);
    let version = world
        .register("big", &files(&[("m.safetensors", &bytes)]))
        .await;
    let answer = world
        .post(
            &format!("/v1/models/big/versions/{version}/uploads"),
            json!({}),
        )
        .await
        .expect(200);
    let upload = &answer["uploads"][0];
    assert_eq!(
        world
            .put_bytes(&upload["parts"][0], bytes[..16 * 1024 * 1024].to_vec())
            .await,
        200
    );
    let body = json!({"multipart": [{"path": "m.safetensors", "upload_id": upload["upload_id"]}]});
    let error = world
        .post(&format!("/v1/models/big/versions/{version}/finalize"), body)
        .await
        .expect_error(409, "upload_incomplete");
    assert_eq!(error["details"]["missing_parts"], json!([2, 3, 4, 5]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_never_comes_fails_the_version_after_its_deadline() {
    let world = World::start().await;
    world.create_model("iris").await;
    let version = world
        .register("iris", &files(&[("m.safetensors", &safetensors(8, 1))]))
        .await;
    world.drain().await;
    for _ in 0..60 {
        world.clock.advance_millis(6 * 3_600_000);
        world.sweep().await;
    }
    world.drain().await;
    assert_eq!(
        world.version("iris", version).await["status"],
        "FAILED_REGISTRATION"
    );
    let report = world
        .get(&format!("/v1/models/iris/versions/{version}/report"))
        .await
        .expect(200);
    assert_eq!(report["findings"][0]["path"], "m.safetensors", "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn promotions_that_make_no_sense_are_refused() {
    let world = World::start().await;
    world.create_model("iris").await;
    world
        .register("iris", &files(&[("m.safetensors", &safetensors(8, 1))]))
        .await;
    world
        .set_alias("iris", "champion", 9, json!(null))
        .await
        .expect_error(404, "version_not_found");
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect_error(409, "version_not_ready");
    world
        .set_alias("iris", "champion", 0, json!(null))
        .await
        .expect_error(400, "invalid_argument");
    for alias in ["latest", "LATEST", "v1", "a b", "a.b", "%00"] {
        world
            .set_alias("iris", alias, 1, json!(null))
            .await
            .expect_error(400, "invalid_argument");
    }
    let path = "/v1/models/iris/aliases/champion";
    world
        .put(path, json!({"version": 1}))
        .await
        .expect_error(400, "invalid_argument");
    world
        .put(
            path,
            json!({"version": 1, "expected_version": 1, "unconditional": true}),
        )
        .await
        .expect_error(400, "invalid_argument");
    world
        .post("/v1/models/iris/aliases/champion/rollback", json!({}))
        .await
        .expect_error(404, "alias_not_found");
    world
        .get("/v1/models/iris/aliases/champion/history")
        .await
        .expect_error(404, "alias_not_found");
    world
        .get("/v1/models/iris/versions/01")
        .await
        .expect_error(400, "invalid_argument");
    world
        .get("/v1/models/iris/versions/1/report")
        .await
        .expect_error(404, "artifact_not_found");
    world
        .get("/v1/models/iris/versions/1/downloads")
        .await
        .expect_error(409, "version_not_ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_was_changed_anywhere_is_refused() {
    let world = World::start().await;
    for name in ["a", "b", "c"] {
        world.create_model(name).await;
    }
    let page = world.get("/v1/models?limit=1").await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap().to_owned();
    for index in 0..cursor.len() {
        let mut changed: Vec<u8> = cursor.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let answer = world
            .get(&format!("/v1/models?limit=1&cursor={changed}"))
            .await;
        // The last character of base64 may carry bits that mean nothing.
        if index + 1 < cursor.len() {
            answer.expect_error(400, "invalid_cursor");
        }
    }
}
