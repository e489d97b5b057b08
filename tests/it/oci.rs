//! Versions as OCI clients see them: tags, manifests, blobs, referrers, and what is not given out.

use crate::authorization;
use crate::budgets::cost;
use crate::crashes::cut_everywhere;
use crate::world::{Files, World, digest, files, http_client, repository, safetensors};
use reqwest::Method;
use serde_json::{Value, json};
use shared::domain::{Digest, ModelName, TenantName};
use std::collections::{BTreeMap, BTreeSet};

const DAY: u64 = 24 * 3_600_000;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn content() -> Files {
    files(&[
        ("README.md", b"# Irises"),
        ("config.json", b"{}"),
        ("data/weights.safetensors", &safetensors(2_000, 1)),
        ("weights.safetensors", &safetensors(64, 2)),
    ])
}

/// An answer with its bytes.
struct Pulled {
    status: u16,
    headers: BTreeMap<String, String>,
    bytes: Vec<u8>,
}

impl Pulled {
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        let body = String::from_utf8_lossy(&self.bytes);
        assert_eq!(self.status, status, "{body}");
        self
    }

    #[track_caller]
    fn expect_error(self, status: u16, code: &str) {
        let body: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        assert_eq!(
            (self.status, body["errors"][0]["code"].as_str()),
            (status, Some(code)),
            "{body:#}"
        );
        assert!(!body["errors"][0]["message"].as_str().unwrap().is_empty());
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    fn digest(&self) -> String {
        self.headers["docker-content-digest"].clone()
    }
}

/// Sends a request, and follows redirects as clients do.
async fn send(world: &World, method: Method, path: &str, headers: &[(&str, &str)]) -> Pulled {
    let mut request = http_client().request(method, world.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    Pulled {
        status: response.status().as_u16(),
        headers: response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
        bytes: response.bytes().await.unwrap().to_vec(),
    }
}

async fn pull(world: &World, path: &str) -> Pulled {
    send(world, Method::GET, path, &[]).await
}

/// Every file of a manifest's layers, fetched by digest as clients do.
async fn layers_of(world: &World, name: &str, manifest: &Value) -> Files {
    let mut found = Files::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let blob = layer["digest"].as_str().unwrap();
        let bytes = pull(world, &format!("/v2/{name}/blobs/{blob}"))
            .await
            .expect(200)
            .bytes;
        assert_eq!(digest(&bytes), blob);
        assert_eq!(layer["size"], bytes.len());
        let path = layer["annotations"]["org.cncf.model.filepath"].as_str();
        assert_eq!(
            path,
            layer["annotations"]["org.opencontainers.image.title"].as_str()
        );
        found.insert(path.unwrap().to_owned(), bytes);
    }
    found
}

/// Holds a document against a schema that its specification publishes.
#[track_caller]
fn check_schema(name: &str, document: &Value) {
    let read = |name: &str| {
        let path = repository().join(format!("tests/fixtures/oci/{name}.json"));
        std::fs::read_to_string(path).unwrap()
    };
    // The files name each other by relative addresses, so they are put into one.
    let mut schema: Value = serde_json::from_str(&inlined(&read(name), "")).unwrap();
    for part in ["content-descriptor", "defs-descriptor", "defs"] {
        schema["files"][part] = serde_json::from_str(&inlined(&read(part), part)).unwrap();
    }
    let validator = jsonschema::validator_for(&schema).unwrap();
    if let Err(error) = validator.validate(document) {
        panic!("{name}: {error} at {}\n{document:#}", error.instance_path());
    }
}

fn inlined(schema: &str, name: &str) -> String {
    let own = if name.is_empty() {
        "#/".to_owned()
    } else {
        format!("#/files/{name}/")
    };
    let mut value: Value = serde_json::from_str(
        &schema
            .replace("\"#/", &format!("\"{own}"))
            .replace(
                "\"content-descriptor.json\"",
                "\"#/files/content-descriptor\"",
            )
            .replace("\"defs-descriptor.json#/", "\"#/files/defs-descriptor/")
            .replace("\"defs.json#/", "\"#/files/defs/"),
    )
    .unwrap();
    let fields = value.as_object_mut().unwrap();
    for field in ["id", "$id", "$schema"] {
        fields.remove(field);
    }
    value.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_a_model_by_alias_number_and_digest() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.publish("iris", &content()).await;
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    let support = pull(&world, "/v2/").await.expect(200);
    assert_eq!(
        support.headers["docker-distribution-api-version"],
        "registry/2.0"
    );
    pull(&world, "/v2").await.expect(200);
    assert_eq!(
        pull(&world, "/v2/iris/tags/list").await.expect(200).json(),
        json!({"name": "iris", "tags": ["1", "champion"]})
    );

    let first = pull(&world, "/v2/iris/manifests/champion")
        .await
        .expect(200);
    let name = first.digest();
    assert_eq!(name, digest(&first.bytes));
    assert_eq!(first.headers["content-type"], MANIFEST);
    assert_eq!(first.headers["etag"], format!("\"{name}\""));
    for reference in ["1", "v1", "latest", name.as_str()] {
        let path = format!("/v2/iris/manifests/{reference}");
        let other = pull(&world, &path).await.expect(200);
        assert_eq!(other.bytes, first.bytes, "{reference}");
        let head = send(&world, Method::HEAD, &path, &[]).await.expect(200);
        assert_eq!((head.digest(), head.bytes.len()), (name.clone(), 0));
        assert_eq!(
            head.headers["content-length"],
            first.bytes.len().to_string()
        );
        let unchanged = [("if-none-match", first.headers["etag"].as_str())];
        send(&world, Method::GET, &path, &unchanged)
            .await
            .expect(304);
    }
    let docker = [(
        "accept",
        "application/vnd.docker.distribution.manifest.v2+json",
    )];
    send(&world, Method::GET, "/v2/iris/manifests/1", &docker)
        .await
        .expect_error(406, "UNSUPPORTED");

    let manifest = first.json();
    check_schema("image-manifest-schema", &manifest);
    assert_eq!(
        manifest["artifactType"],
        "application/vnd.cncf.model.manifest.v1+json"
    );
    assert_eq!(layers_of(&world, "iris", &manifest).await, content());
    let kinds: BTreeMap<&str, &str> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| {
            let path = layer["annotations"]["org.cncf.model.filepath"].as_str();
            (path.unwrap(), layer["mediaType"].as_str().unwrap())
        })
        .collect();
    for (path, kind) in [
        ("README.md", "doc"),
        ("config.json", "weight.config"),
        ("weights.safetensors", "weight"),
    ] {
        assert_eq!(
            kinds[path],
            format!("application/vnd.cncf.model.{kind}.v1.raw")
        );
    }
    let config = &manifest["config"];
    assert_eq!(
        config["mediaType"],
        "application/vnd.cncf.model.config.v1+json"
    );
    let path = format!("/v2/iris/blobs/{}", config["digest"].as_str().unwrap());
    let bytes = pull(&world, &path).await.expect(200).bytes;
    assert_eq!(config["size"], bytes.len());
    let config: Value = serde_json::from_slice(&bytes).unwrap();
    check_schema("model-config-schema", &config);
    assert_eq!(config["descriptor"]["name"], "iris");
    assert_eq!(config["config"]["format"], "safetensors");

    let weights = digest(&content()["weights.safetensors"]);
    let path = format!("/v2/iris/blobs/{weights}");
    let head = send(&world, Method::HEAD, &path, &[]).await.expect(200);
    assert_eq!(head.digest(), weights);
    let size = content()["weights.safetensors"].len();
    assert_eq!(head.headers["content-length"], size.to_string());
    let part = send(&world, Method::GET, &path, &[("range", "bytes=8-11")]).await;
    assert_eq!(
        part.expect(206).bytes,
        content()["weights.safetensors"][8..12]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn attestations_refer_to_the_manifest() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.publish("iris", &content()).await;
    let subject = pull(&world, "/v2/iris/manifests/1").await.expect(200);
    let name = subject.digest();
    let list = pull(&world, &format!("/v2/iris/referrers/{name}"))
        .await
        .expect(200);
    assert_eq!(list.headers["content-type"], INDEX);
    assert!(!list.headers.contains_key("oci-filters-applied"));
    let index = list.json();
    check_schema("image-index-schema", &index);
    let mut found = BTreeSet::new();
    for entry in index["manifests"].as_array().unwrap() {
        let path = format!("/v2/iris/manifests/{}", entry["digest"].as_str().unwrap());
        let referrer = pull(&world, &path).await.expect(200);
        assert_eq!(entry["size"], referrer.bytes.len());
        let manifest = referrer.json();
        check_schema("image-manifest-schema", &manifest);
        assert_eq!(manifest["subject"]["digest"], name);
        assert_eq!(manifest["subject"]["size"], subject.bytes.len());
        assert_eq!(manifest["artifactType"], entry["artifactType"]);
        assert_eq!(manifest["annotations"], entry["annotations"]);
        let config = manifest["config"]["digest"].as_str().unwrap();
        let path = format!("/v2/iris/blobs/{config}");
        assert_eq!(pull(&world, &path).await.expect(200).bytes, b"{}");
        let layer = &manifest["layers"][0];
        let title = layer["annotations"]["org.opencontainers.image.title"]
            .as_str()
            .unwrap();
        let path = format!("/v2/iris/blobs/{}", layer["digest"].as_str().unwrap());
        let bytes = pull(&world, &path).await.expect(200).bytes;
        let path = format!("/v1/models/iris/versions/1/attestations/{title}");
        assert_eq!(
            bytes,
            pull(&world, &path).await.expect(200).bytes,
            "{title}"
        );
        found.insert(title.to_owned());
    }
    let expected = [
        "bom.cdx.json",
        "model.sig",
        "provenance.sigstore.json",
        "validation.sigstore.json",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());

    let path = format!("/v2/iris/referrers/{name}?artifactType=application/vnd.cyclonedx%2Bjson");
    let filtered = pull(&world, &path).await.expect(200);
    assert_eq!(filtered.headers["oci-filters-applied"], "artifactType");
    assert_eq!(filtered.json()["manifests"].as_array().unwrap().len(), 1);
    // Where clients look that do not know the endpoint; and what they are told there can be pulled by digest.
    let tag = name.replace(':', "-");
    let fallback = pull(&world, &format!("/v2/iris/manifests/{tag}"))
        .await
        .expect(200);
    assert_eq!(
        (&fallback.bytes, &fallback.headers["content-type"]),
        (&list.bytes, &INDEX.to_owned())
    );
    let path = format!("/v2/iris/manifests/{}", fallback.digest());
    assert_eq!(pull(&world, &path).await.expect(200).bytes, list.bytes);
    // Nothing refers to a referrer, and nothing to what is not there.
    let other = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    for nothing in [
        other,
        digest(b"nothing"),
        format!("sha512:{}", "0".repeat(128)),
    ] {
        let list = pull(&world, &format!("/v2/iris/referrers/{nothing}"))
            .await
            .expect(200);
        assert_eq!(list.json()["manifests"], json!([]));
        check_schema("image-index-schema", &list.json());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_given_out_is_unknown() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.publish("iris", &content()).await;
    let manifest = pull(&world, "/v2/iris/manifests/1").await.expect(200);
    let weights = digest(&content()["weights.safetensors"]);
    let paths = [
        "/v2/iris/manifests/1".to_owned(),
        "/v2/iris/manifests/latest".to_owned(),
        format!("/v2/iris/manifests/{}", manifest.digest()),
        format!("/v2/iris/blobs/{weights}"),
    ];
    world.delete("/v1/models/iris/versions/1").await.expect(200);
    world.drain().await;
    for path in &paths {
        let code = if path.contains("blobs") {
            "BLOB_UNKNOWN"
        } else {
            "MANIFEST_UNKNOWN"
        };
        pull(&world, path).await.expect_error(404, code);
    }
    assert_eq!(
        pull(&world, "/v2/iris/tags/list").await.expect(200).json()["tags"],
        json!([])
    );
    world
        .post("/v1/models/iris/versions/1/restore", json!({}))
        .await
        .expect(200);
    for path in &paths {
        pull(&world, path).await.expect(200);
    }
    // A version that is not packaged, or never will be, is no tag.
    world.register("iris", &content()).await;
    pull(&world, "/v2/iris/manifests/2")
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
    pull(&world, "/v2/iris/manifests/latest").await.expect(200);

    world.delete("/v1/models/iris/versions/1").await.expect(200);
    world.drain().await;
    world.pass(31 * DAY).await;
    let app = world.stack.app();
    let (tenant, model) = (
        TenantName::default_tenant(),
        ModelName::parse("iris").unwrap(),
    );
    for bytes in content().values().chain([&manifest.bytes]) {
        let left = app
            .registry
            .holdings(&tenant, &model, &Digest::of(bytes), 10, None, true)
            .await
            .unwrap();
        assert!(left.items.is_empty(), "a row outlived its version");
    }
    for path in &paths {
        pull(&world, path).await.expect(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_versions_share_are_pulled_from_each_of_them() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.create_model("lily").await;
    world.publish("iris", &content()).await;
    world.publish("iris", &content()).await;
    world.publish("lily", &content()).await;
    let digests = async |path: &str| pull(&world, path).await.expect(200).digest();
    let first = digests("/v2/iris/manifests/1").await;
    assert_ne!(first, digests("/v2/iris/manifests/2").await);
    // By digest a manifest is found in its own repository alone.
    let path = format!("/v2/lily/manifests/{first}");
    pull(&world, &path)
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
    let blob = digest(&content()["weights.safetensors"]);
    world.delete("/v1/models/iris/versions/2").await.expect(200);
    world.delete("/v1/models/iris/versions/1").await.expect(200);
    world.drain().await;
    world.pass(31 * DAY).await;
    pull(&world, &format!("/v2/iris/blobs/{blob}"))
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    let manifest = pull(&world, "/v2/lily/manifests/1").await.expect(200);
    assert_eq!(layers_of(&world, "lily", &manifest.json()).await, content());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_has_a_repository_in_its_tenant() {
    let world = World::start().await;
    let small = files(&[("m.safetensors", &safetensors(8, 1))]);
    for (name, repository) in [
        ("Llama-3-8B", "x--llama-3-8--b"),
        ("iris#1", "iris__231"),
        ("iris", "iris"),
        ("検 査", "x__e6__a4__9c__20__e6__9f__bb"),
    ] {
        world.create_model(name).await;
        let path = name.replace('#', "%23");
        world.publish(&path, &small).await;
        let view = world.version(&path, 1).await;
        assert_eq!(view["package"]["oci_repository"], repository);
        let manifest = pull(&world, &format!("/v2/{repository}/manifests/1"))
            .await
            .expect(200);
        assert_eq!(
            layers_of(&world, repository, &manifest.json()).await,
            small,
            "{name}"
        );
        pull(&world, &format!("/v2/default/{repository}/manifests/1"))
            .await
            .expect(200);
        let path = format!("/v2/team-a/{repository}/manifests/1");
        pull(&world, &path).await.expect_error(404, "NAME_UNKNOWN");
        let path = format!("/t/team-a/v2/{repository}/manifests/1");
        pull(&world, &path).await.expect_error(404, "NAME_UNKNOWN");
        let path = format!("/t/team-a/v2/default/{repository}/manifests/1");
        pull(&world, &path).await.expect_error(404, "NAME_UNKNOWN");
    }
    // A renamed model is pulled by its new name, and what takes its old one is another.
    let blob = digest(&small["m.safetensors"]);
    world
        .post("/v1/models/iris/rename", json!({"name": "Iris"}))
        .await
        .expect(200);
    for path in [
        "manifests/1",
        "tags/list",
        "manifests/latest",
        &format!("blobs/{blob}"),
    ] {
        pull(&world, &format!("/v2/x--iris/{path}"))
            .await
            .expect(200);
        pull(&world, &format!("/v2/iris/{path}")).await.expect(404);
    }
    world.create_model("iris").await;
    let other = files(&[("m.safetensors", &safetensors(8, 2))]);
    world.publish("iris", &other).await;
    for (repository, files) in [("x--iris", &small), ("iris", &other)] {
        let manifest = pull(&world, &format!("/v2/{repository}/manifests/1"))
            .await
            .expect(200);
        let name = manifest.digest();
        assert_eq!(
            &layers_of(&world, repository, &manifest.json()).await,
            files
        );
        pull(&world, &format!("/v2/{repository}/manifests/{name}"))
            .await
            .expect(200);
    }
    pull(&world, &format!("/v2/iris/blobs/{blob}"))
        .await
        .expect_error(404, "BLOB_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_come_in_pages() {
    let world = World::start().await;
    world.create_model("iris").await;
    for fill in 1..=12 {
        let content = files(&[("m.safetensors", &safetensors(8, fill))]);
        world.publish("iris", &content).await;
    }
    for (alias, version) in [("champion", 3), ("Challenger", 4), ("2", 7), ("検査", 1)] {
        world
            .set_alias("iris", alias, version, json!(null))
            .await
            .expect(200);
    }
    world
        .delete("/v1/models/iris/versions/11")
        .await
        .expect(200);
    let all = [
        "1",
        "10",
        "12",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "9",
        "Challenger",
        "champion",
    ];
    let whole = pull(&world, "/v2/iris/tags/list").await.expect(200);
    assert_eq!(whole.json()["tags"], json!(all));
    assert!(!whole.headers.contains_key("link"));
    for limit in [1, 2, 5, 12, 13, 20] {
        let mut path = format!("/v2/iris/tags/list?n={limit}");
        let mut found = Vec::new();
        loop {
            let page = pull(&world, &path).await.expect(200);
            let tags = page.json()["tags"].as_array().unwrap().clone();
            let link = page.headers.get("link").cloned();
            assert!(tags.len() == limit || link.is_none());
            found.extend(tags);
            let Some(link) = link else { break };
            let (target, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
            assert_eq!(rest, "; rel=\"next\"");
            path = target.to_owned();
        }
        assert_eq!(json!(found), json!(all), "n={limit}");
    }
    let tags = async |query: &str| {
        let page = pull(&world, &format!("/v2/iris/tags/list{query}"))
            .await
            .expect(200);
        page.json()["tags"].clone()
    };
    assert_eq!(tags("?n=0").await, json!([]));
    assert_eq!(tags("?last=9").await, json!(["Challenger", "champion"]));
    assert_eq!(tags("?n=2&last=nothing").await, json!([]));
    assert_eq!(tags("?n=2&last=11").await, json!(["12", "2"]));
    pull(&world, "/v2/iris/tags/list?n=x")
        .await
        .expect_error(400, "UNSUPPORTED");
    // A number is that of a version.
    let two = pull(&world, "/v2/iris/manifests/2")
        .await
        .expect(200)
        .json();
    assert_eq!(two["annotations"]["org.opencontainers.image.version"], "2");
    pull(&world, "/v2/iris/manifests/11")
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_pushes_or_is_unknown_is_refused_in_the_words_of_the_protocol() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let some = digest(b"some");
    for (method, path) in [
        (Method::POST, "/v2/iris/blobs/uploads/".to_owned()),
        (
            Method::POST,
            format!("/v2/iris/blobs/uploads/?mount={some}&from=lily"),
        ),
        (Method::PATCH, "/v2/iris/blobs/uploads/1".to_owned()),
        (
            Method::PUT,
            format!("/v2/iris/blobs/uploads/1?digest={some}"),
        ),
        (Method::PUT, "/v2/iris/manifests/2".to_owned()),
        (Method::DELETE, "/v2/iris/manifests/1".to_owned()),
        (Method::DELETE, format!("/v2/iris/blobs/{some}")),
        (Method::POST, "/v2/token".to_owned()),
    ] {
        send(&world, method, &path, &[])
            .await
            .expect_error(405, "UNSUPPORTED");
    }
    for (path, status, code) in [
        ("/v2/nothing/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/nothing/manifests/1".to_owned(), 404, "NAME_UNKNOWN"),
        (
            "/v2/nothing/manifests/latest".to_owned(),
            404,
            "NAME_UNKNOWN",
        ),
        (format!("/v2/nothing/manifests/{some}"), 404, "NAME_UNKNOWN"),
        (format!("/v2/nothing/blobs/{some}"), 404, "NAME_UNKNOWN"),
        (format!("/v2/nothing/referrers/{some}"), 404, "NAME_UNKNOWN"),
        ("/v2/Iris/manifests/1".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/a/b/c/manifests/1".to_owned(), 404, "NAME_UNKNOWN"),
        (
            "/v2/iris/manifests/nothing".to_owned(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        ("/v2/iris/manifests/99".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("/v2/iris/manifests/%20".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (
            format!("/v2/iris/manifests/{some}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            format!("/v2/iris/manifests/sha256-{}", "0".repeat(64)),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "/v2/iris/manifests/sha256:0".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (format!("/v2/iris/blobs/{some}"), 404, "BLOB_UNKNOWN"),
        (
            format!("/v2/iris/blobs/sha512:{}", "0".repeat(128)),
            404,
            "BLOB_UNKNOWN",
        ),
        ("/v2/iris/blobs/nothing".to_owned(), 400, "DIGEST_INVALID"),
        (
            "/v2/iris/referrers/nothing".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        ("/v2/iris".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/_catalog".to_owned(), 404, "UNSUPPORTED"),
    ] {
        pull(&world, &path).await.expect_error(status, code);
    }
    // A manifest is no blob, and a blob is no manifest.
    let manifest = pull(&world, "/v2/iris/manifests/1").await.expect(200);
    pull(&world, &format!("/v2/iris/blobs/{}", manifest.digest()))
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    let layer = manifest.json()["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    pull(&world, &format!("/v2/iris/manifests/{layer}"))
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
    // The host's own refusals have the shape, too.
    pull(&world, "/t/NO/v2/iris/manifests/1")
        .await
        .expect_error(400, "UNSUPPORTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_challenged_and_their_tokens_count_as_anywhere() {
    let world = authorization::world().await;
    let admin = authorization::administrator();
    let bearer = |token: &str| format!("Bearer {token}");
    let call = async |method: Method, path: &str, body: Value| {
        let headers = [("authorization", bearer(&admin))];
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        world.send(method, path, Some(body), &headers).await
    };
    for prefix in ["", "/t/team-a"] {
        call(
            Method::POST,
            &format!("{prefix}/v1/models"),
            json!({"name": "iris"}),
        )
        .await
        .expect(201);
    }
    let token = async |prefix: &str, body: Value| {
        let made = call(Method::POST, &format!("{prefix}/v1/tokens"), body)
            .await
            .expect(201);
        made["token"].as_str().unwrap().to_owned()
    };
    let reader = token(
        "",
        json!({"name": "r", "actions": ["read"], "models": ["ir*"]}),
    )
    .await;
    let other = token(
        "",
        json!({"name": "o", "actions": ["read"], "models": ["lily"]}),
    )
    .await;
    let writer = token("", json!({"name": "w", "actions": ["write"]})).await;
    let team = token("/t/team-a", json!({"name": "t", "actions": ["read"]})).await;

    let refused = pull(&world, "/v2/").await;
    let realm = format!("{}/v2/token", world.stack.url());
    assert_eq!(
        refused.headers["www-authenticate"],
        format!("Bearer realm=\"{realm}\",service=\"slipway\"")
    );
    refused.expect_error(401, "UNAUTHORIZED");
    let refused = pull(&world, "/v2/token").await;
    assert_eq!(
        refused.headers["www-authenticate"],
        "Basic realm=\"slipway\""
    );
    refused.expect_error(401, "UNAUTHORIZED");
    send(&world, Method::POST, "/v2/iris/blobs/uploads/", &[])
        .await
        .expect_error(401, "UNAUTHORIZED");

    for (token, path, expected) in [
        (&reader, "/v2/", 200),
        (&team, "/v2/", 200),
        (&admin, "/v2/", 200),
        (&writer, "/v2/", 403),
        (&reader, "/v2/iris/tags/list", 200),
        (&reader, "/v2/default/iris/tags/list", 200),
        (&reader, "/v2/team-a/iris/tags/list", 403),
        (&team, "/v2/team-a/iris/tags/list", 200),
        (&team, "/t/team-a/v2/iris/tags/list", 200),
        (&team, "/v2/iris/tags/list", 403),
        (&other, "/v2/iris/tags/list", 403),
        (&other, "/v2/unknown/tags/list", 403),
        (&other, "/v2/iris/manifests/1", 403),
        (&admin, "/v2/team-a/iris/tags/list", 200),
    ] {
        let basic = {
            use base64::Engine as _;
            let pair = format!("any:{token}");
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(pair)
            )
        };
        for authorization in [&basic, &bearer(token)] {
            let headers = [("authorization", authorization.as_str())];
            let answer = send(&world, Method::GET, path, &headers).await;
            assert_eq!(answer.status, expected, "{path}");
            if expected == 403 {
                answer.expect_error(403, "DENIED");
            }
            if expected == 200 {
                let given = send(&world, Method::GET, "/v2/token", &headers)
                    .await
                    .expect(200);
                assert_eq!(given.json()["token"], **token);
                assert_eq!(given.headers["cache-control"], "no-store");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_keep_their_budget() {
    let world = World::start().await;
    world.create_model("iris").await;
    for fill in 1..=3 {
        let content = files(&[
            ("a.safetensors", &safetensors(8, 1)),
            ("b.safetensors", &safetensors(8, fill)),
        ]);
        world.publish("iris", &content).await;
    }
    world
        .set_alias("iris", "champion", 2, json!(null))
        .await
        .expect(200);
    let name = pull(&world, "/v2/iris/manifests/2")
        .await
        .expect(200)
        .digest();
    let shared = digest(&safetensors(8, 1));
    for (path, operations, units) in [
        ("/v2/".to_owned(), vec![], 0.0),
        ("/v2/iris/manifests/2".to_owned(), vec!["BatchGetItem"], 1.0),
        (
            "/v2/iris/manifests/champion".to_owned(),
            vec!["GetItem", "BatchGetItem"],
            1.5,
        ),
        (
            "/v2/iris/manifests/latest".to_owned(),
            vec!["Query", "BatchGetItem"],
            2.0,
        ),
        (
            format!("/v2/iris/manifests/{name}"),
            vec!["Query", "BatchGetItem"],
            1.5,
        ),
        (
            format!("/v2/iris/referrers/{name}"),
            vec!["Query", "BatchGetItem"],
            1.5,
        ),
        (
            format!("/v2/iris/blobs/{shared}"),
            vec!["Query", "GetItem"],
            1.0,
        ),
        (
            "/v2/iris/tags/list".to_owned(),
            vec!["GetItem", "Query", "BatchGetItem"],
            6.0,
        ),
    ] {
        // The redirect is not followed: its bytes come from S3 without the registry.
        let (answer, spent) = cost(&world, send(&world, Method::HEAD, &path, &[])).await;
        answer.expect(200);
        assert_eq!(spent.operations, operations, "{path}");
        assert!(spent.units <= units, "{path}: {spent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packaging_survives_every_cut_for_those_who_pull() {
    cut_everywhere(
        async |world| {
            world.create_model("iris").await;
            world.register("iris", &content()).await;
            world.upload("iris", 1, &content()).await;
            for waiting in world.stack.deliveries().await.unwrap() {
                if !waiting.what.contains("reports/") {
                    world.stack.deliver(&waiting.id).await.unwrap();
                }
            }
        },
        async |world, _| {
            crate::crashes::drain_until_cut(world).await;
            true
        },
        async |world| {
            let manifest = pull(world, "/v2/iris/manifests/1").await.expect(200);
            let found = layers_of(world, "iris", &manifest.json()).await;
            assert_eq!(found, content());
            let path = format!("/v2/iris/referrers/{}", manifest.digest());
            let list = pull(world, &path).await.expect(200).json();
            assert_eq!(list["manifests"].as_array().unwrap().len(), 4);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_many_files_is_an_object() {
    let world = World::start().await;
    world.create_model("many").await;
    let content: Files = (0..700)
        .map(|number| {
            (
                format!("notes/{number:04}.txt"),
                format!("note {number}").into_bytes(),
            )
        })
        .collect();
    world.publish("many", &content).await;
    let manifest = pull(&world, "/v2/many/manifests/1").await.expect(200);
    assert_eq!(manifest.json()["layers"].as_array().unwrap().len(), 700);
    let objects = world
        .stack
        .app()
        .bucket
        .list("packages/", 100)
        .await
        .unwrap();
    assert!(
        objects
            .iter()
            .any(|object| object.key.ends_with("/oci-manifest.json"))
    );
    let path = format!("/v2/many/manifests/{}", manifest.digest());
    assert_eq!(pull(&world, &path).await.expect(200).bytes, manifest.bytes);
}
