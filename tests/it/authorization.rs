//! Tokens: who has one is known, may do what it allows, and learns nothing of what it does not.

use crate::world::{Answer, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use shared::test_util::Cut;

const SECRET: &str = "a secret of the tests, and of nobody else";

pub(crate) async fn world() -> World {
    World::start_with(&[("TOKEN_SECRET", SECRET), ("TRUST_ACTOR_HEADER", "false")]).await
}

pub(crate) fn administrator() -> String {
    authorizer::administrator_token(SECRET)
}

async fn call(world: &World, token: &str, method: Method, path: &str, body: Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let body = (!body.is_null()).then_some(body);
    world
        .send(method, path, body, &[("authorization", &bearer)])
        .await
}

async fn create(world: &World, by: &str, path: &str, body: Value) -> Answer {
    call(world, by, Method::POST, path, body).await
}

/// A token of the tenant `default`.
async fn token(world: &World, body: Value) -> String {
    let made = create(world, &administrator(), "/v1/tokens", body)
        .await
        .expect(201);
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_token_and_everybody_is_told_in_their_own_words() {
    let world = world().await;
    for path in ["/v1/models", "/v1/nowhere", "/v1/models/iris", "/v1/tokens"] {
        world.get(path).await.expect_error(401, "unauthenticated");
    }
    for path in [
        "/api/2.0/mlflow-artifacts/artifacts?path=0",
        "/ajax-api/2.0/mlflow-artifacts/presigned/0/r/artifacts/a",
        "/api/2.0/mlflow/nowhere",
        "/get-artifact?run_id=r&path=a",
    ] {
        world.get(path).await.expect_mlflow(401, "UNAUTHENTICATED");
    }
    world.get("/v1/openapi.json").await.expect(200);
    world
        .get("/_local/state")
        .await
        .expect_error(401, "unauthenticated");
    assert_eq!(world.get("/healthz").await.status, 200);

    let mine = token(&world, json!({"name": "ci", "actions": ["read", "admin"]})).await;
    let others = [
        mine.replace("slw_default", "slw_team-a"),
        format!("{mine}0"),
        mine.get(..mine.len() - 1).unwrap().to_owned() + "g",
        {
            let last = mine.chars().last().unwrap();
            mine.get(..mine.len() - 1).unwrap().to_owned() + if last == '0' { "1" } else { "0" }
        },
        "slw_".into(),
        "nonsense".into(),
        String::new(),
        format!("{}0", administrator()),
        authorizer::administrator_token("another secret"),
    ];
    for bad in &others {
        let answer = call(&world, bad, Method::GET, "/v1/models", Value::Null).await;
        answer.expect_error(401, "unauthenticated");
    }
    call(&world, &mine, Method::GET, "/v1/models", Value::Null)
        .await
        .expect(200);
    call(&world, &mine, Method::GET, "/_local/state", Value::Null)
        .await
        .expect_error(403, "permission_denied");
    call(
        &world,
        &administrator(),
        Method::GET,
        "/_local/state",
        Value::Null,
    )
    .await
    .expect(200);
    let basic = format!("Basic {}", STANDARD.encode(format!("anybody:{mine}")));
    let answer = world
        .send(
            Method::GET,
            "/v1/models",
            None,
            &[("authorization", &basic)],
        )
        .await;
    answer.expect(200);
    // A header names nobody where tokens do.
    let answer = world
        .send(
            Method::GET,
            "/v1/models",
            None,
            &[("x-slipway-actor", "ada")],
        )
        .await;
    answer.expect_error(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_listed_and_revoked() {
    let world = world().await;
    let admin = administrator();
    let made = create(
        &world,
        &admin,
        "/v1/tokens",
        json!({
            "name": "nightly training", "actor": "ada", "groups": ["trainers", "ml"],
            "actions": ["write", "read"], "models": ["vision-*"], "expires_in_seconds": 3600,
        }),
    )
    .await
    .expect(201);
    let text = made["token"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with("slw_default_") && text.len() > 90,
        "{}",
        text.len()
    );
    assert_eq!(made["actions"], json!(["read", "write"]));
    assert_eq!(made["groups"], json!(["ml", "trainers"]));
    assert_eq!(made["created_by"], "administrator");
    let id = made["id"].as_str().unwrap();

    let listed = call(&world, &admin, Method::GET, "/v1/tokens", Value::Null)
        .await
        .expect(200);
    let shown = call(
        &world,
        &admin,
        Method::GET,
        &format!("/v1/tokens/{id}"),
        Value::Null,
    )
    .await
    .expect(200);
    assert_eq!(listed["tokens"], json!([shown]));
    assert!(
        shown.get("token").is_none() && shown.get("hash").is_none(),
        "{shown}"
    );

    // Who acts is whom the token names, with its groups.
    create(&world, &text, "/v1/models", json!({"name": "vision-cats"}))
        .await
        .expect(201);
    let events = call(
        &world,
        &text,
        Method::GET,
        "/v1/models/vision-cats/events",
        Value::Null,
    )
    .await
    .expect(200);
    assert_eq!(events["events"][0]["actor"], "ada");

    world.clock.advance_millis(3_600_000);
    call(&world, &text, Method::GET, "/v1/models", Value::Null)
        .await
        .expect_error(401, "unauthenticated");

    let lasting = token(&world, json!({"name": "lasting", "actions": ["read"]})).await;
    let lasting_id = lasting.split('_').nth(2).unwrap();
    let path = format!("/v1/tokens/{lasting_id}");
    call(&world, &lasting, Method::GET, "/v1/models", Value::Null)
        .await
        .expect(200);
    call(&world, &admin, Method::DELETE, &path, Value::Null)
        .await
        .expect(200);
    call(&world, &lasting, Method::GET, "/v1/models", Value::Null)
        .await
        .expect_error(401, "unauthenticated");
    call(&world, &admin, Method::DELETE, &path, Value::Null)
        .await
        .expect_error(404, "token_not_found");

    let stored = world
        .stack
        .app()
        .registry
        .find_token(&shared::domain::TenantName::default_tenant(), id)
        .await
        .unwrap()
        .unwrap();
    let secret = text.rsplit('_').next().unwrap();
    assert!(
        !serde_json::to_string(&stored).unwrap().contains(secret),
        "only the hash is stored"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_do_what_it_allows_with_the_models_that_it_names() {
    let world = world().await;
    let admin = administrator();
    for name in ["vision-cats", "audio"] {
        create(&world, &admin, "/v1/models", json!({"name": name}))
            .await
            .expect(201);
    }
    let reader = token(&world, json!({"name": "r", "actions": ["read"]})).await;
    let vision = token(
        &world,
        json!({"name": "v", "actions": ["read", "write"], "models": ["vision-*"]}),
    )
    .await;
    let promoter = token(&world, json!({"name": "p", "actions": ["promote"]})).await;

    create(&world, &reader, "/v1/models", json!({"name": "x"}))
        .await
        .expect_error(403, "permission_denied");
    for (path, name) in [
        ("/v1/models", "audio-2"),
        ("/v1/models/audio/rename", "vision-audio"),
        ("/v1/models/vision-cats/rename", "cats"),
    ] {
        let answer = create(&world, &vision, path, json!({"name": name})).await;
        answer.expect_error(403, "permission_denied");
    }
    for (token, path, status) in [
        (&reader, "/v1/models/audio", 200),
        (&vision, "/v1/models/vision-cats", 200),
        (&vision, "/v1/models/audio", 403),
        (&vision, "/v1/models/nothing", 403),
        (&vision, "/v1/models/vision-nothing", 404),
        (&vision, "/v1/models/audio/versions/1/downloads", 403),
        (&promoter, "/v1/models/audio", 403),
        (&reader, "/v1/events", 200),
        (&vision, "/v1/events", 403),
        (&reader, "/v1/subscriptions", 403),
        (&reader, "/v1/tokens", 403),
        (&vision, "/t/team-a/v1/models", 403),
        (&admin, "/t/team-a/v1/models", 200),
    ] {
        let answer = call(&world, token, Method::GET, path, Value::Null).await;
        assert_eq!(answer.status, status, "{path}: {:#}", answer.body);
    }
    // A refusal is the same whether the thing exists or not.
    let said = |answer: Answer| answer.expect_error(403, "permission_denied")["message"].clone();
    assert_eq!(
        said(
            call(
                &world,
                &vision,
                Method::GET,
                "/v1/models/audio",
                Value::Null
            )
            .await
        ),
        said(
            call(
                &world,
                &vision,
                Method::GET,
                "/v1/models/nothing",
                Value::Null
            )
            .await
        ),
    );
    let listed = call(&world, &vision, Method::GET, "/v1/models", Value::Null)
        .await
        .expect(200);
    let names: Vec<&str> = listed["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["vision-cats"]);

    let alias = json!({"version": 1, "unconditional": true});
    let path = "/v1/models/audio/aliases/champion";
    call(&world, &vision, Method::PUT, path, alias.clone())
        .await
        .expect_error(403, "permission_denied");
    call(&world, &reader, Method::PUT, path, alias.clone())
        .await
        .expect_error(403, "permission_denied");
    call(&world, &promoter, Method::PUT, path, alias)
        .await
        .expect_error(404, "version_not_found");

    // What a version holds is its model's business, by MLflow's routes too.
    for path in [
        "/api/2.0/mlflow-artifacts/artifacts/versions/audio/1/a",
        "/api/2.0/mlflow-artifacts/presigned/versions/audio/1/a",
        "/api/2.0/mlflow-artifacts/artifacts?path=versions/audio/1",
        "/model-versions/get-artifact?name=audio&version=1&path=a",
    ] {
        call(&world, &vision, Method::GET, path, Value::Null)
            .await
            .expect_mlflow(403, "PERMISSION_DENIED");
    }
    let path = "/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts/a";
    call(&world, &reader, Method::PUT, path, json!({}))
        .await
        .expect_mlflow(403, "PERMISSION_DENIED");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_away_more_than_they_have() {
    let world = world().await;
    let admin = token(&world, json!({"name": "a", "actions": ["read", "admin"]})).await;
    create(
        &world,
        &admin,
        "/v1/tokens",
        json!({"name": "b", "actions": ["write"]}),
    )
    .await
    .expect_error(403, "permission_denied");
    create(
        &world,
        &admin,
        "/v1/tokens",
        json!({"name": "b", "actions": ["read"], "models": ["x*"]}),
    )
    .await
    .expect(201);
    let narrow = token(
        &world,
        json!({"name": "n", "actions": ["read", "admin"], "models": ["x*"]}),
    )
    .await;
    create(
        &world,
        &narrow,
        "/v1/tokens",
        json!({"name": "b", "actions": ["read"], "models": ["x1"]}),
    )
    .await
    .expect_error(403, "permission_denied");
    for bad in [
        json!({"name": "b"}),
        json!({"name": " ", "actions": ["read"]}),
        json!({"name": "b", "actions": []}),
        json!({"name": "b", "actions": ["fly"]}),
        json!({"name": "b", "actions": ["read"], "models": []}),
        json!({"name": "b", "actions": ["read"], "models": ["a/b"]}),
        json!({"name": "b", "actions": ["read"], "expires_in_seconds": 0}),
        json!({"name": "b", "actions": ["read"], "groups": ["a\u{0}"]}),
        json!({"name": "b", "actions": ["read"], "more": 1}),
    ] {
        let answer = create(&world, &admin, "/v1/tokens", bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}: {:#}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_gives_the_same_token_which_is_stored_nowhere() {
    let world = world().await;
    let bearer = format!("Bearer {}", administrator());
    let send = || {
        let headers = [
            ("authorization", bearer.as_str()),
            ("idempotency-key", "once"),
        ];
        let body = json!({"name": "ci", "actions": ["read"]});
        let world = &world;
        async move {
            world
                .send(Method::POST, "/v1/tokens", Some(body), &headers)
                .await
        }
    };
    world.probe.reset(Cut::Never);
    let first = send().await.expect(201);
    assert_eq!(world.probe.operations(), ["TransactWriteItems"]);
    let second = send().await;
    assert_eq!(second.headers["idempotency-replayed"], "true");
    assert_eq!(second.expect(201), first);
    let text = first["token"].as_str().unwrap();
    call(&world, text, Method::GET, "/v1/models", Value::Null)
        .await
        .expect(200);
    let listed = call(
        &world,
        &administrator(),
        Method::GET,
        "/v1/tokens",
        Value::Null,
    )
    .await
    .expect(200);
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn knowing_a_caller_costs_one_read() {
    let world = world().await;
    let mine = token(&world, json!({"name": "ci", "actions": ["read"]})).await;
    world.probe.reset(Cut::Never);
    call(&world, &mine, Method::GET, "/v1/openapi.json", Value::Null)
        .await
        .expect(200);
    assert_eq!(world.probe.operations(), ["GetItem"]);
    assert!(world.probe.units() <= 1.0);
    world.probe.reset(Cut::Never);
    call(
        &world,
        &administrator(),
        Method::GET,
        "/v1/openapi.json",
        Value::Null,
    )
    .await
    .expect(200);
    call(&world, "nonsense", Method::GET, "/v1/models", Value::Null)
        .await
        .expect_error(401, "unauthenticated");
    assert_eq!(world.probe.operations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_hear_of_tokens_and_never_of_what_they_are() {
    let world = world().await;
    let mine = token(&world, json!({"name": "ci", "actions": ["read"]})).await;
    let id = mine.split('_').nth(2).unwrap().to_owned();
    call(
        &world,
        &administrator(),
        Method::DELETE,
        &format!("/v1/tokens/{id}"),
        Value::Null,
    )
    .await
    .expect(200);
    let delivered = world.stack.drain().await.unwrap();
    let told: Vec<&str> = delivered.iter().map(|event| event.what.as_str()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(!format!("{delivered:?}").contains(mine.rsplit('_').next().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_training_logged_names_no_model_that_its_reader_may_not_see() {
    const API: &str = "/api/2.0/mlflow";
    let world = world().await;
    let admin = administrator();
    let run = json!({"experiment_id": "0"});
    let run = create(&world, &admin, &format!("{API}/runs/create"), run)
        .await
        .expect(200)["run"]["info"]["run_id"]
        .clone();
    let logged = create(
        &world,
        &admin,
        &format!("{API}/logged-models"),
        json!({"experiment_id": "0"}),
    )
    .await
    .expect(200);
    let logged = logged["model"]["info"]["model_id"]
        .as_str()
        .unwrap()
        .to_owned();
    for name in ["fraud-eu", "churn"] {
        let body = json!({"name": name});
        create(
            &world,
            &admin,
            &format!("{API}/registered-models/create"),
            body,
        )
        .await
        .expect(200);
        let body =
            json!({"name": name, "source": "s3://elsewhere/m", "run_id": run, "model_id": logged});
        create(
            &world,
            &admin,
            &format!("{API}/model-versions/create"),
            body,
        )
        .await
        .expect(200);
    }
    let reader = json!({"name": "r", "actions": ["read"], "models": ["fraud-*"]});
    let reader = token(&world, reader).await;
    let run = run.as_str().unwrap();
    let search = json!({"experiment_ids": ["0"]});
    for (method, path, body) in [
        (Method::GET, format!("/v1/runs/{run}"), Value::Null),
        (
            Method::GET,
            format!("/v1/logged-models/{logged}"),
            Value::Null,
        ),
        (
            Method::GET,
            format!("{API}/logged-models/{logged}"),
            Value::Null,
        ),
        (
            Method::POST,
            format!("{API}/logged-models/search"),
            search.clone(),
        ),
        (
            Method::GET,
            format!("{API}/model-versions/search?filter=run_id%3D%27{run}%27"),
            Value::Null,
        ),
        (
            Method::GET,
            format!("{API}/registered-models/search"),
            Value::Null,
        ),
    ] {
        let shown = call(&world, &reader, method, &path, body)
            .await
            .expect(200)
            .to_string();
        assert!(shown.contains("fraud-eu"), "{path}: {shown}");
        assert!(!shown.contains("churn"), "{path}: {shown}");
    }
    let datasets = format!("{API}/experiments/search-datasets");
    call(&world, &reader, Method::POST, &datasets, search)
        .await
        .expect(200);
    for path in [
        "registered-models/get?name=churn",
        "registered-models/get-latest-versions?name=churn",
        "registered-models/alias?name=churn&alias=a",
        "model-versions/get?name=churn&version=1",
        "model-versions/get-download-uri?name=churn&version=1",
    ] {
        call(
            &world,
            &reader,
            Method::GET,
            &format!("{API}/{path}"),
            Value::Null,
        )
        .await
        .expect_mlflow(403, "PERMISSION_DENIED");
    }
}
