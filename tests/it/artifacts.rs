//! Files of runs: how they come in and go out, and what keeps them apart.

use crate::world::{World, files, safetensors};
use reqwest::Method;
use serde_json::{Value, json};
use shared::domain::TenantName;
use shared::domain::tracking::{ExperimentId, Lifecycle, Run, RunId, RunStatus};
use shared::test_util::Cut;

const ROOT: &str = "0/r1/artifacts";
const FILES: &str = "/api/2.0/mlflow-artifacts";

/// A client that follows no redirect, so that a test sees where it would go.
fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

async fn add_run(world: &World, tenant: &str, id: &str, lifecycle: Lifecycle) {
    let run = Run {
        id: RunId::parse(id).unwrap(),
        experiment_id: ExperimentId::DEFAULT,
        name: id.into(),
        user_id: "ada".into(),
        status: RunStatus::Running,
        start_time: 1,
        end_time: None,
        artifact_uri: format!("mlflow-artifacts:/0/{id}/artifacts"),
        lifecycle,
        life: 0,
        params: [].into(),
        tags: [].into(),
        metrics: [].into(),
        datasets: Vec::new(),
        model_inputs: Vec::new(),
        model_outputs: Vec::new(),
        revision: 1,
    };
    world
        .stack
        .app()
        .registry
        .create_run(&TenantName::parse(tenant).unwrap(), &run, None)
        .await
        .unwrap();
}

async fn world() -> World {
    let world = World::start().await;
    add_run(&world, "default", "r1", Lifecycle::Active).await;
    world
}

async fn put(world: &World, path: &str, bytes: Vec<u8>) -> (u16, Value) {
    let answer = client()
        .put(world.url(path))
        .header("content-type", "text/plain")
        .body(bytes)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

/// What a client gets that follows the redirect.
async fn fetch(world: &World, path: &str) -> (u16, Vec<u8>) {
    let answer = client().get(world.url(path)).send().await.unwrap();
    if answer.status() != 307 {
        return (
            answer.status().as_u16(),
            answer.bytes().await.unwrap().to_vec(),
        );
    }
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(location.starts_with(&world.stack.s3_url()), "{location}");
    let answer = client().get(location).send().await.unwrap();
    (
        answer.status().as_u16(),
        answer.bytes().await.unwrap().to_vec(),
    )
}

async fn upload_by_parts(world: &World, folder: &str, name: &str, parts: &[Vec<u8>]) {
    let created = world
        .post(
            &format!("{FILES}/mpu/create/{folder}"),
            json!({"path": name, "num_parts": parts.len()}),
        )
        .await
        .expect(200);
    let mut done = Vec::new();
    let credentials = created["credentials"].as_array().unwrap();
    assert_eq!(credentials.len(), parts.len());
    for (credential, bytes) in credentials.iter().zip(parts) {
        assert_eq!(credential["headers"], json!({}));
        let answer = client()
            .put(credential["url"].as_str().unwrap())
            .header("content-length", bytes.len())
            .body(bytes.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        let etag = answer.headers()["etag"].to_str().unwrap();
        done.push(json!({
            "part_number": credential["part_number"], "etag": etag, "url": credential["url"],
        }));
    }
    let body = json!({"path": name, "upload_id": created["upload_id"], "parts": done});
    for time in ["at first", "and again, because the answer was lost"] {
        let answer = world
            .post(&format!("{FILES}/mpu/complete/{folder}"), body.clone())
            .await;
        assert_eq!(answer.expect(200), json!({}), "{time}");
    }
}

async fn list(world: &World, path: &str) -> Value {
    let path = percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC);
    world
        .get(&format!("{FILES}/artifacts?path={path}"))
        .await
        .expect(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_by_every_way_and_come_out_as_they_were() {
    let world = world().await;
    let (status, body) = put(
        &world,
        &format!("{FILES}/artifacts/{ROOT}/a%20b/n%C3%A4.txt"),
        b"hi".to_vec(),
    )
    .await;
    assert_eq!((status, body), (200, json!({})));
    assert_eq!(
        put(&world, &format!("{FILES}/artifacts/{ROOT}/empty"), vec![])
            .await
            .0,
        200
    );
    upload_by_parts(&world, &format!("{ROOT}/model"), "empty", &[vec![]]).await;
    let large = vec![vec![7; 5 * 1024 * 1024], vec![8; 1000]];
    upload_by_parts(
        &world,
        &format!("{ROOT}/model"),
        "/home/ada/big.bin",
        &large,
    )
    .await;

    assert_eq!(
        list(&world, ROOT).await["files"],
        json!([
            {"path": "a b", "is_dir": true},
            {"path": "empty", "is_dir": false, "file_size": 0},
            {"path": "model", "is_dir": true},
        ])
    );
    assert_eq!(
        list(&world, &format!("{ROOT}/model")).await["files"],
        json!([
            {"path": "big.bin", "is_dir": false, "file_size": 5_243_880},
            {"path": "empty", "is_dir": false, "file_size": 0},
        ])
    );
    assert_eq!(list(&world, &format!("{ROOT}/nothing")).await, json!({}));
    assert_eq!(
        list(&world, &format!("{ROOT}/empty")).await,
        json!({}),
        "a file is no folder"
    );
    assert_eq!(
        list(&world, "").await["files"],
        json!([{"path": "0", "is_dir": true}])
    );

    for (path, expected) in [
        ("a%20b/n%C3%A4.txt", b"hi".to_vec()),
        ("empty", vec![]),
        ("model/empty", vec![]),
        ("model/big.bin", large.concat()),
    ] {
        let got = fetch(&world, &format!("{FILES}/artifacts/{ROOT}/{path}")).await;
        assert!(got == (200, expected.clone()), "{path}");
        let presigned = world
            .get(&format!("{FILES}/presigned/{ROOT}/{path}"))
            .await
            .expect(200);
        assert_eq!(presigned["file_size"], expected.len());
        assert_eq!(presigned["headers"], json!({}));
        let got = client()
            .get(presigned["url"].as_str().unwrap())
            .send()
            .await
            .unwrap();
        assert!(got.bytes().await.unwrap() == expected, "{path}");
    }

    let listed = world
        .get("/ajax-api/2.0/mlflow/artifacts/list?run_id=r1&path=model")
        .await
        .expect(200);
    assert_eq!(listed["root_uri"], "mlflow-artifacts:/0/r1/artifacts");
    assert_eq!(listed["files"][0]["path"], "model/big.bin");

    let deleted = world
        .delete(&format!("{FILES}/artifacts/{ROOT}/model"))
        .await;
    assert_eq!(deleted.expect(200), json!({}));
    assert_eq!(
        fetch(&world, &format!("{FILES}/artifacts/{ROOT}/model/big.bin"))
            .await
            .0,
        404
    );
    assert_eq!(
        fetch(&world, &format!("{FILES}/artifacts/{ROOT}/empty"))
            .await
            .0,
        200
    );
    world
        .delete(&format!("{FILES}/artifacts/{ROOT}/"))
        .await
        .expect(200);
    assert_eq!(list(&world, ROOT).await, json!({}));
    world
        .get(&format!("{FILES}/presigned/{ROOT}/empty"))
        .await
        .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_too_large_for_a_plain_put_is_told_what_to_set() {
    let world = world().await;
    let path = format!("{FILES}/artifacts/{ROOT}/big.bin");
    assert_eq!(put(&world, &path, vec![1; 4_400_000]).await.0, 200);
    for size in [4_400_001, 5_500_001, 20_000_000] {
        let (status, body) = put(&world, &path, vec![1; size]).await;
        assert_eq!(status, 413, "{body}");
        let message = body["message"].as_str().unwrap();
        assert!(
            message.contains("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD=true"),
            "{message}"
        );
        assert!(body["error_code"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_leaves_its_root() {
    let world = world().await;
    add_run(&world, "team-b", "r2", Lifecycle::Active).await;
    add_run(&world, "default", "gone", Lifecycle::Deleted).await;
    let mine = format!("{FILES}/artifacts/0/r2/artifacts/secret.txt");
    assert_eq!(
        put(&world, &format!("/t/team-b{mine}"), b"secret".to_vec())
            .await
            .0,
        200
    );
    for trick in [
        format!("{ROOT}/..%2F..%2F..%2Fteam-b/0/r2/artifacts/secret.txt"),
        format!("{ROOT}/%252e%252e%252f%252e%252e/x"),
        format!("{ROOT}/%25252e%25252e/x"),
        format!("{ROOT}/a%5C..%5Cb"),
        format!("{ROOT}/a%00b"),
        format!("{ROOT}/%EF%BC%8E%EF%BC%8E/x"),
        format!("{ROOT}/%2Fetc/passwd"),
        format!("{ROOT}//x"),
        "%2E%2E/team-b/0/r2/artifacts/secret.txt".to_owned(),
    ] {
        let path = format!("{FILES}/artifacts/{trick}");
        let url = world.url(&path);
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let answer = client().request(method.clone(), &url).send().await.unwrap();
            let status = answer.status();
            let body: Value = answer.json().await.unwrap();
            assert!(status == 400 || status == 404, "{method} {trick}: {status}");
            assert!(body["error_code"].is_string(), "{body}");
        }
        let (status, _) = put(&world, &path, b"x".to_vec()).await;
        assert!(status == 400 || status == 404, "{trick}: {status}");
    }
    // Nobody's root, another tenant's run, another run's root, and a run that was deleted.
    for (path, status) in [
        ("0", 400),
        ("0/file.txt", 400),
        ("0/r1/file.txt", 400),
        ("0/r2/artifacts/x", 404),
        ("1/r1/artifacts/x", 404),
        ("r1/artifacts/x", 404),
        ("0/gone/artifacts/x", 400),
        ("versions/iris/1/x", 403),
    ] {
        let (got, body) = put(&world, &format!("{FILES}/artifacts/{path}"), b"x".to_vec()).await;
        assert_eq!(got, status, "{path}: {body}");
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() {
            let answer = world
                .post(
                    &format!("{FILES}/mpu/create/{folder}"),
                    json!({"path": "x", "num_parts": 1}),
                )
                .await;
            assert_eq!(answer.status, status, "{path}");
        }
    }
    let (status, _) = fetch(&world, &mine).await;
    assert_eq!(status, 404, "another tenant's file is not there");
    assert_eq!(
        fetch(&world, &format!("/t/team-b{mine}")).await,
        (200, b"secret".to_vec())
    );
    let missing = world
        .post(
            &format!("{FILES}/mpu/create/{ROOT}"),
            json!({"num_parts": 1}),
        )
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    assert!(missing.contains("'path'"), "{missing}");
    world
        .post(
            &format!("{FILES}/mpu/create/{ROOT}"),
            json!({"path": "x", "num_parts": 10_001}),
        )
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    let body =
        json!({"path": "x", "upload_id": "nothing", "parts": [{"part_number": 1, "etag": "a"}]});
    world
        .post(&format!("{FILES}/mpu/complete/{ROOT}"), body)
        .await
        .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
    world
        .post(
            &format!("{FILES}/mpu/abort/{ROOT}"),
            json!({"path": "x", "upload_id": "nothing"}),
        )
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_images_are_kept_though_parts_of_them_look_like_escapes() {
    const NAME: &str = "dog%step%100%timestamp%17%c4187c99.png";
    let world = world().await;
    let encoded =
        percent_encoding::utf8_percent_encode(NAME, percent_encoding::NON_ALPHANUMERIC).to_string();
    let path = format!("{FILES}/artifacts/{ROOT}/images/{encoded}");
    let (status, body) = put(&world, &path, b"png".to_vec()).await;
    assert_eq!(status, 200, "{body}");
    // The name as MLflow's server keeps it, and as its clients decode it.
    let kept = NAME.replace("%c4", "\u{FFFD}");
    let file = json!([{"path": kept, "is_dir": false, "file_size": 3}]);
    assert_eq!(list(&world, &format!("{ROOT}/images")).await["files"], file);
    assert_eq!(fetch(&world, &path).await, (200, b"png".to_vec()));
    let attached = format!("/get-artifact?run_id=r1&path=images/{encoded}");
    assert_eq!(fetch(&world, &attached).await, (200, b"png".to_vec()));
    upload_by_parts(&world, &format!("{ROOT}/images"), NAME, &[b"jpeg".to_vec()]).await;
    assert_eq!(fetch(&world, &path).await, (200, b"jpeg".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_outside_of_all_roots_are_kept_and_never_shown() {
    let world = world().await;
    let artifacts = format!("{FILES}/artifacts");
    for path in ["a.html", "dir/a.html", "dir/b.bin"] {
        let (status, body) = put(&world, &format!("{artifacts}/{path}"), b"x".to_vec()).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    put(&world, &format!("{artifacts}/{ROOT}/a"), b"x".to_vec()).await;
    assert_eq!(
        list(&world, "dir").await["files"],
        json!([
            {"path": "a.html", "is_dir": false, "file_size": 1},
            {"path": "b.bin", "is_dir": false, "file_size": 1},
        ])
    );
    let answer = client()
        .get(world.url(&format!("{artifacts}/dir/a.html")))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers()[name].to_str().unwrap();
    assert_eq!(header("content-type"), "text/html");
    assert_eq!(header("content-disposition"), "attachment; filename=a.html");
    assert_eq!(header("x-content-type-options"), "nosniff");
    // Parts need a root, and a folder, in which roots could lie, is not hidden with what it holds.
    world
        .post(
            &format!("{FILES}/mpu/create/dir"),
            json!({"path": "c", "num_parts": 1}),
        )
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    for (folder, status) in [("dir", 200), ("0", 400)] {
        let answer = world.delete(&format!("{artifacts}/{folder}")).await;
        assert_eq!(answer.status, status, "{folder}");
    }
    for (path, status) in [("dir/b.bin", 200), ("0/r1/artifacts/a", 200)] {
        let (got, _) = fetch(&world, &format!("{artifacts}/{path}")).await;
        assert_eq!(got, status, "{path}");
    }
    world
        .delete(&format!("{artifacts}/dir/b.bin"))
        .await
        .expect(200);
    let (status, _) = fetch(&world, &format!("{artifacts}/dir/b.bin")).await;
    assert_eq!(status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_gives_back_what_was_judged_under_its_own_name() {
    let world = World::start().await;
    let name = "my iris 100%";
    world
        .post("/v1/models", json!({"name": name}))
        .await
        .expect(201);
    let encoded = "my%20iris%20100%25";
    let bytes = safetensors(64, 1);
    let content = files(&[("data/model.safetensors", &bytes), ("README.md", b"# hi")]);
    world.publish(encoded, &content).await;
    // Wherever the files are by now: its uploads were removed.
    world.pass(2 * 3_600_000).await;
    let uri = shared::domain::Location::version_uri(
        &shared::domain::ModelName::parse(name).unwrap(),
        shared::domain::VersionNumber::FIRST,
    );
    assert_eq!(uri, format!("mlflow-artifacts:/versions/{encoded}/1"));
    let root = format!("versions/{encoded}/1");
    assert_eq!(
        list(&world, &root).await["files"],
        json!([
            {"path": "README.md", "is_dir": false, "file_size": 4},
            {"path": "data", "is_dir": true},
        ])
    );
    assert_eq!(
        list(&world, &format!("{root}/data")).await["files"][0]["path"],
        "model.safetensors"
    );
    let got = fetch(
        &world,
        &format!("{FILES}/artifacts/{root}/data/model.safetensors"),
    )
    .await;
    assert_eq!(got, (200, bytes));
    let presigned = world
        .get(&format!("{FILES}/presigned/{root}/README.md"))
        .await
        .expect(200);
    assert_eq!(presigned["file_size"], 4);
    for (method, path) in [
        (Method::PUT, "README.md"),
        (Method::DELETE, "README.md"),
        (Method::DELETE, ""),
    ] {
        let url = world.url(&format!("{FILES}/artifacts/{root}/{path}"));
        let answer = client().request(method, url).send().await.unwrap();
        assert_eq!(answer.status(), 403);
        assert_eq!(
            answer.json::<Value>().await.unwrap()["error_code"],
            "PERMISSION_DENIED"
        );
    }
    assert_eq!(
        fetch(&world, &format!("{FILES}/artifacts/{root}/nothing"))
            .await
            .0,
        404
    );
    assert_eq!(
        fetch(&world, &format!("{FILES}/artifacts/versions/other/1/a"))
            .await
            .0,
        404
    );

    let answer = client()
        .get(world.url(&format!(
            "/model-versions/get-artifact?name={encoded}&version=1&path=README.md"
        )))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert_eq!(
        answer.headers()["content-disposition"],
        "attachment; filename=README.md"
    );
    assert_eq!(answer.headers()["content-type"], "text/plain");
    assert_eq!(answer.text().await.unwrap(), "# hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn attachments_are_saved_and_not_shown() {
    let world = world().await;
    for (name, bytes) in [
        ("page.html", &b"<script>"[..]),
        ("latin.txt", &b"caf\xe9"[..]),
        ("empty.csv", &b""[..]),
    ] {
        put(
            &world,
            &format!("{FILES}/artifacts/{ROOT}/out/{name}"),
            bytes.to_vec(),
        )
        .await;
        let answer = client()
            .get(world.url(&format!("/get-artifact?run_uuid=r1&path=out/{name}")))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{name}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert_eq!(
            answer.headers()["content-disposition"],
            format!("attachment; filename={name}")
        );
        assert_eq!(answer.bytes().await.unwrap(), bytes, "{name}");
    }
    upload_by_parts(&world, ROOT, "big.bin", &[vec![1; 5_000_000]]).await;
    let (status, bytes) = fetch(&world, "/get-artifact?run_id=r1&path=big.bin").await;
    assert_eq!((status, bytes.len()), (200, 5_000_000));
    for path in [
        "/get-artifact?run_id=r1&path=nothing",
        "/get-artifact?run_id=nobody&path=a",
        "/model-versions/get-artifact?name=iris&version=1&path=a",
    ] {
        world
            .get(path)
            .await
            .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
    }
    world
        .get("/get-artifact?run_id=r1")
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
}

#[tokio::test(flavor = "multi_thread")]
async fn sagemakers_client_gets_presigned_requests() {
    let world = world().await;
    let asked = world
        .post(
            "/api/2.0/mlflow/artifacts/presigned-upload-url",
            json!({"run_id": "r1", "path": "a/b.txt", "expiration": 60}),
        )
        .await
        .expect(200);
    let answer = client()
        .put(asked["presigned_url"].as_str().unwrap())
        .body("hello")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    let asked = world
        .post(
            "/api/2.0/mlflow/artifacts/presigned-download-url",
            json!({"run_id": "r1", "path": "a/b.txt"}),
        )
        .await
        .expect(200);
    assert_eq!(asked["file_size"], 5);
    let answer = client()
        .get(asked["presigned_url"].as_str().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello");
    for body in [
        json!({"path": "a"}),
        json!({"run_id": "r1", "model_id": "m-1", "path": "a"}),
        json!({"run_id": "r1", "path": "../a"}),
        json!({"run_id": "r1", "path": "a", "expiration": 604_801}),
    ] {
        world
            .post("/api/2.0/mlflow/artifacts/presigned-upload-url", body)
            .await
            .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_files_are_listed_by_the_page_and_hidden_whole() {
    let world = world().await;
    let app = world.stack.app();
    for number in 0..2_050 {
        let key = format!("runs/default/{ROOT}/many/{number:05}");
        app.bucket
            .put(&key, "x".into(), "text/plain")
            .await
            .unwrap();
    }
    app.bucket
        .put(
            &format!("runs/default/{ROOT}/many2"),
            "x".into(),
            "text/plain",
        )
        .await
        .unwrap();
    world.probe.reset(Cut::Never);
    assert_eq!(
        list(&world, &format!("{ROOT}/many")).await["files"]
            .as_array()
            .unwrap()
            .len(),
        2_050
    );
    assert_eq!(world.probe.operations(), ["ListObjectsV2"; 3]);
    world.probe.reset(Cut::Never);
    assert_eq!(
        list(&world, ROOT).await["files"].as_array().unwrap().len(),
        2
    );
    assert_eq!(
        world.probe.operations(),
        ["ListObjectsV2"],
        "a folder costs one entry"
    );
    world
        .delete(&format!("{FILES}/artifacts/{ROOT}/many"))
        .await
        .expect(200);
    assert_eq!(
        list(&world, ROOT).await["files"],
        json!([{"path": "many2", "is_dir": false, "file_size": 1}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_keep_their_budget() {
    let world = world().await;
    let spent = |world: &World| {
        let operations = world.probe.operations();
        let units = world.probe.units();
        world.probe.reset(Cut::Never);
        (operations.join(" "), units)
    };
    spent(&world);
    let path = format!("{FILES}/artifacts/{ROOT}/a");
    put(&world, &path, b"x".to_vec()).await;
    assert_eq!(
        spent(&world),
        ("BatchGetItem PutObject".into(), 2.0),
        "the process that made a run knows where it lies; any other reads it once"
    );
    let created = world
        .post(
            &format!("{FILES}/mpu/create/{ROOT}"),
            json!({"path": "b", "num_parts": 100}),
        )
        .await
        .expect(200);
    assert_eq!(
        spent(&world),
        ("BatchGetItem CreateMultipartUpload".into(), 2.0)
    );
    let body = json!({"path": "b", "upload_id": created["upload_id"]});
    world
        .post(&format!("{FILES}/mpu/abort/{ROOT}"), body)
        .await
        .expect(200);
    assert_eq!(spent(&world), ("AbortMultipartUpload".into(), 0.0));
    fetch(&world, &path).await;
    assert_eq!(spent(&world), ("HeadObject".into(), 0.0));
    world
        .get(&format!("{FILES}/presigned/{ROOT}/a"))
        .await
        .expect(200);
    assert_eq!(spent(&world), ("HeadObject".into(), 0.0));
    world.get("/get-artifact?run_id=r1&path=a").await;
    assert_eq!(spent(&world), ("BatchGetItem GetObject".into(), 2.0));
    world.delete(&path).await.expect(200);
    assert_eq!(
        spent(&world),
        ("BatchGetItem ListObjectsV2 DeleteObjects".into(), 2.0)
    );
    let loose = format!("{FILES}/artifacts/dir/a");
    put(&world, &loose, b"x".to_vec()).await;
    assert_eq!(spent(&world), ("PutObject".into(), 0.0));
    fetch(&world, &loose).await;
    assert_eq!(spent(&world), ("GetObject".into(), 0.0));
    world.delete(&loose).await.expect(200);
    assert_eq!(spent(&world), ("DeleteObjects".into(), 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_in_s3_are_where_the_registry_finds_files_too() {
    let world = World::start_with(&[("S3_ARTIFACT_ROOTS", "true")]).await;
    let created = world
        .post(
            "/t/team-a/api/2.0/mlflow/runs/create",
            json!({"experiment_id": "0"}),
        )
        .await
        .expect(200);
    let info = &created["run"]["info"];
    let id = info["run_id"].as_str().unwrap();
    let root = format!("s3://slipway/runs/team-a/0/{id}/artifacts");
    assert_eq!(info["artifact_uri"], root);
    // As a client with credentials writes it.
    let key = format!("runs/team-a/0/{id}/artifacts/a.txt");
    let app = world.stack.app();
    app.bucket
        .put(&key, "hello".into(), "text/plain")
        .await
        .unwrap();
    let listed = world
        .get(&format!(
            "/t/team-a/api/2.0/mlflow/artifacts/list?run_id={id}"
        ))
        .await
        .expect(200);
    assert_eq!(listed["root_uri"], root);
    assert_eq!(listed["files"][0]["path"], "a.txt");
    let path = format!("/t/team-a/get-artifact?run_id={id}&path=a.txt");
    assert_eq!(fetch(&world, &path).await, (200, b"hello".to_vec()));
    let asked = world
        .post(
            "/t/team-a/api/2.0/mlflow/artifacts/presigned-upload-url",
            json!({"run_id": id, "path": "b.txt"}),
        )
        .await
        .expect(200);
    assert!(
        asked["presigned_url"]
            .as_str()
            .unwrap()
            .contains("artifacts/b.txt")
    );
    let elsewhere = world
        .post(
            "/api/2.0/mlflow/experiments/create",
            json!({"name": "elsewhere", "artifact_location": "s3://another/place"}),
        )
        .await
        .expect(200);
    let run = world
        .post(
            "/api/2.0/mlflow/runs/create",
            json!({"experiment_id": elsewhere["experiment_id"]}),
        )
        .await
        .expect(200);
    let id = run["run"]["info"]["run_id"].as_str().unwrap();
    world
        .get(&format!("/api/2.0/mlflow/artifacts/list?run_id={id}"))
        .await
        .expect_mlflow(501, "NOT_IMPLEMENTED");
}
