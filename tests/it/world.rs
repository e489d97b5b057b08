//! A whole registry for one test, and callers with verbs.

use local::stack::{PumpMode, Stack, StackOptions};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared::app::Clock;
use shared::test_util::Probe;
use std::collections::BTreeMap;
use std::path::Path;

/// A registry of its own, with a probe on every AWS call and a clock that stands still.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) probe: Probe,
    pub(crate) clock: Clock,
    http: reqwest::Client,
}

/// An answer of the API.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Answer {
    /// The body, if the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body
    }

    /// The error's code, after checking the envelope.
    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, code: &str) -> Value {
        let error = self.body["error"].clone();
        assert_eq!(
            (self.status, error["code"].as_str()),
            (status, Some(code)),
            "{:#}",
            self.body
        );
        let message = error["message"].as_str().unwrap_or_default();
        assert!(
            !message.is_empty() && !message.ends_with('.'),
            "message: {message:?}"
        );
        assert!(
            error["request_id"]
                .as_str()
                .is_some_and(|id| !id.is_empty())
        );
        error
    }

    /// The message of an error in the shape of MLflow.
    #[track_caller]
    pub(crate) fn expect_mlflow(self, status: u16, code: &str) -> String {
        assert_eq!(
            (self.status, self.body["error_code"].as_str()),
            (status, Some(code)),
            "{:#}",
            self.body
        );
        self.body["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// A file to upload.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Files of a test.
pub(crate) fn files(pairs: &[(&str, &[u8])]) -> Files {
    pairs
        .iter()
        .map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()))
        .collect()
}

/// A small valid safetensors file whose only tensor holds `count` bytes of `fill`.
pub(crate) fn safetensors(count: usize, fill: u8) -> Vec<u8> {
    let mut header =
        json!({"weight": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}})
            .to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + count, fill);
    bytes
}

/// The digest of bytes, as the API writes it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Every file below a folder, by its path there.
pub(crate) fn read_folder(folder: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(folder)
                    .unwrap()
                    .to_string_lossy()
                    .replace('\\', "/");
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Every object below a prefix, by its path there.
pub(crate) async fn read_objects(world: &World, prefix: &str) -> Files {
    let bucket = &world.stack.app().bucket;
    let mut found = Files::new();
    for object in bucket.list(prefix, usize::MAX).await.unwrap() {
        let bytes = bucket.read_whole(&object.key, None).await.unwrap().unwrap();
        let path = object.key.strip_prefix(prefix).unwrap().to_owned();
        found.insert(path, bytes.to_vec());
    }
    found
}

/// The repository's folder.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A client for plain HTTP; it still wants to know which cryptography it would use.
pub(crate) fn http_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A registry with variables of its configuration set.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let probe = Probe::default();
        // Signatures are checked by the system's clock, so the fixed one begins there.
        let clock = Clock::fixed(Clock::system().now());
        let options = StackOptions {
            clock: clock.clone(),
            interceptors: vec![probe.interceptor(), crate::conditions::watch()],
            pump: PumpMode::Manual,
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..StackOptions::default()
        };
        let stack = Stack::start(options).await.expect("the stack starts");
        Self {
            stack,
            probe,
            clock,
            http: http_client(),
        }
    }

    /// The address of a route.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.stack.url())
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let asked = method.to_string();
        let mut request = self.http.request(method, self.url(path));
        if let Some(body) = body {
            request = request.json(&body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("the registry answers");
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    value.to_str().unwrap_or_default().to_owned(),
                )
            })
            .collect();
        let bytes = response.bytes().await.expect("the answer arrives");
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let answer = Answer {
            status,
            headers,
            body,
        };
        crate::openapi::check(&asked, path, &answer);
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, &[]).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(
            Method::POST,
            path,
            Some(body),
            &[("x-slipway-actor", "ada")],
        )
        .await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body), &[("x-slipway-actor", "ada")])
            .await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, Some(body), &[]).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, &[]).await
    }

    /// Every object version in the bucket but the seals of past days, which stay whatever is purged.
    pub(crate) async fn object_versions(&self) -> Vec<shared::s3::ObjectVersion> {
        let all = self.stack.app().bucket.list_versions("").await.unwrap();
        all.into_iter()
            .filter(|object| !object.key.starts_with("seals/"))
            .collect()
    }

    pub(crate) async fn create_model(&self, name: &str) -> Value {
        self.post("/v1/models", json!({"name": name}))
            .await
            .expect(201)
    }

    /// Declares files as the API wants them.
    pub(crate) fn declaration(files: &Files) -> Value {
        files
            .iter()
            .map(|(path, bytes)| json!({"path": path, "size_bytes": bytes.len(), "digest": digest(bytes)}))
            .collect()
    }

    pub(crate) async fn register(&self, model: &str, files: &Files) -> u64 {
        let body = json!({"artifacts": Self::declaration(files)});
        self.post(&format!("/v1/models/{model}/versions"), body)
            .await
            .expect(201)["version"]
            .as_u64()
            .unwrap()
    }

    /// Uploads every file through its presigned requests; answers what `finalize` wants to know.
    pub(crate) async fn upload(&self, model: &str, version: u64, files: &Files) -> Value {
        let answer = self
            .post(
                &format!("/v1/models/{model}/versions/{version}/uploads"),
                json!({}),
            )
            .await
            .expect(200);
        let mut multipart = Vec::new();
        for upload in answer["uploads"].as_array().unwrap() {
            let path = upload["path"].as_str().unwrap();
            let bytes = &files[path];
            if let Some(upload_id) = upload["upload_id"].as_str() {
                let mut rest = bytes.as_slice();
                for part in upload["parts"].as_array().unwrap() {
                    let size = usize::try_from(part["size_bytes"].as_u64().unwrap()).unwrap();
                    let (chunk, after) = rest.split_at(size);
                    assert_eq!(self.put_bytes(part, chunk.to_vec()).await, 200);
                    rest = after;
                }
                assert!(rest.is_empty());
                multipart.push(json!({"path": path, "upload_id": upload_id}));
            } else {
                assert_eq!(self.put_bytes(upload, bytes.clone()).await, 200, "{path}");
            }
        }
        json!({ "multipart": multipart })
    }

    /// Sends bytes with a presigned request; answers the status.
    pub(crate) async fn put_bytes(&self, request: &Value, bytes: Vec<u8>) -> u16 {
        let mut put = self.http.put(request["url"].as_str().unwrap());
        for (name, value) in request["headers"].as_object().unwrap() {
            put = put.header(name, value.as_str().unwrap());
        }
        put.body(bytes)
            .send()
            .await
            .expect("S3 answers")
            .status()
            .as_u16()
    }

    pub(crate) async fn download(&self, request: &Value) -> Vec<u8> {
        let mut get = self.http.get(request["url"].as_str().unwrap());
        for (name, value) in request["headers"].as_object().unwrap() {
            get = get.header(name, value.as_str().unwrap());
        }
        let response = get.send().await.expect("S3 answers");
        assert_eq!(response.status().as_u16(), 200);
        response.bytes().await.unwrap().to_vec()
    }

    /// Registers, uploads and finalizes a version, and delivers every event that follows.
    pub(crate) async fn publish(&self, model: &str, files: &Files) -> u64 {
        let version = self.register(model, files).await;
        let multipart = self.upload(model, version, files).await;
        self.post(
            &format!("/v1/models/{model}/versions/{version}/finalize"),
            multipart,
        )
        .await
        .expect(200);
        self.drain().await;
        version
    }

    /// Fires every schedule; fails if a function does.
    pub(crate) async fn sweep(&self) {
        for (function, outcome) in self.stack.sweep().await {
            outcome.unwrap_or_else(|reason| panic!("the sweep of {function:?} failed: {reason}"));
        }
    }

    /// Delivers events until none is left; fails if one could not be delivered.
    pub(crate) async fn drain(&self) {
        self.stack.drain().await.expect("every event is delivered");
        let dead = self
            .stack
            .dead_letters()
            .expect("dead letters can be listed");
        assert!(dead.is_empty(), "{dead:#?}");
    }

    /// Lets time pass, and everything be done that is due by then or soon after.
    pub(crate) async fn pass(&self, millis: u64) {
        self.clock.advance_millis(millis);
        for _ in 0..3 {
            self.sweep().await;
            self.drain().await;
            self.clock.advance_millis(2 * 3_600_000);
        }
    }

    pub(crate) async fn version(&self, model: &str, version: u64) -> Value {
        self.get(&format!("/v1/models/{model}/versions/{version}"))
            .await
            .expect(200)
    }

    /// A model with one READY version.
    pub(crate) async fn ready_model(&self, model: &str) -> u64 {
        self.create_model(model).await;
        let version = self
            .publish(model, &files(&[("model.safetensors", &safetensors(64, 1))]))
            .await;
        assert_eq!(self.version(model, version).await["status"], "READY");
        version
    }

    pub(crate) async fn set_alias(
        &self,
        model: &str,
        alias: &str,
        version: u64,
        expected: Value,
    ) -> Answer {
        self.put(
            &format!("/v1/models/{model}/aliases/{alias}"),
            json!({"version": version, "expected_version": expected, "reason": "it is better"}),
        )
        .await
    }
}
