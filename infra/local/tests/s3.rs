//! The embedded S3 server, through the real SDK.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test are tests, which clippy cannot see"
)]

use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, ChecksumMode, ChecksumType,
    CompletedMultipartUpload, CompletedPart, Delete, MetadataDirective, ObjectAttributes,
    ObjectIdentifier, Tag, Tagging, VersioningConfiguration,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use local::s3::{EventName, S3Options, S3Server, Storage, to_event_record};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const BUCKET: &str = "models";
const MIB: usize = 1 << 20;

struct Running {
    client: aws_sdk_s3::Client,
    server: S3Server,
    endpoint: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    async fn start(storage: Storage) -> Self {
        let server = S3Server::open(storage, S3Options::new("key", "secret")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn({
            let server = server.clone();
            async move { server.serve(listener, async { drop(stopped.await) }).await }
        });
        Self {
            client: client(&endpoint, "secret"),
            server,
            endpoint,
            stop,
            task,
        }
    }

    /// A running server with a versioned bucket.
    async fn with_bucket() -> Self {
        let running = Self::start(Storage::Memory).await;
        running.make_bucket().await;
        running
    }

    async fn make_bucket(&self) {
        self.client
            .create_bucket()
            .bucket(BUCKET)
            .send()
            .await
            .unwrap();
        let enabled = VersioningConfiguration::builder()
            .status(BucketVersioningStatus::Enabled)
            .build();
        self.client
            .put_bucket_versioning()
            .bucket(BUCKET)
            .versioning_configuration(enabled)
            .send()
            .await
            .unwrap();
    }

    async fn put(
        &self,
        key: &str,
        body: &[u8],
    ) -> aws_sdk_s3::operation::put_object::PutObjectOutput {
        self.client
            .put_object()
            .bucket(BUCKET)
            .key(key)
            .body(ByteStream::from(body.to_vec()))
            .send()
            .await
            .unwrap()
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let answer = self
            .client
            .get_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .unwrap();
        answer.body.collect().await.unwrap().to_vec()
    }

    async fn exists(&self, key: &str) -> bool {
        self.client
            .head_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .is_ok()
    }

    async fn part(&self, key: &str, upload: &str, number: i32, body: Vec<u8>) -> CompletedPart {
        let part = self
            .client
            .upload_part()
            .bucket(BUCKET)
            .key(key)
            .upload_id(upload)
            .part_number(number)
            .body(ByteStream::from(body))
            .send()
            .await
            .unwrap();
        CompletedPart::builder()
            .part_number(number)
            .e_tag(part.e_tag.unwrap())
            .build()
    }

    async fn events(&self) -> Vec<(EventName, String)> {
        let waiting = self.server.notifications().peek(10_000).await.unwrap();
        waiting
            .into_iter()
            .map(|event| (event.event_name, event.key))
            .collect()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        drop(self.client);
        self.task.await.unwrap().unwrap();
    }
}

fn client(endpoint: &str, secret: &str) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::new("key", secret, None, None, "test"))
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

fn code<T, E: ProvideErrorMetadata, R>(result: Result<T, SdkError<E, R>>) -> String {
    match result {
        Ok(_) => "success".to_owned(),
        Err(error) => error.code().map_or_else(
            || {
                error
                    .raw_response()
                    .map_or("no answer".to_owned(), |_| "no code".to_owned())
            },
            ToOwned::to_owned,
        ),
    }
}

fn sha256(bytes: &[u8]) -> String {
    BASE64.encode(Sha256::digest(bytes))
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|index| u8::try_from(index % 251).unwrap().wrapping_add(seed))
        .collect()
}

/// A client for plain HTTP; it still wants to know which cryptography it would use.
fn http_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

async fn get(url: impl reqwest::IntoUrl) -> reqwest::Result<reqwest::Response> {
    http_client().get(url).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_made_listed_and_deleted_only_when_empty() {
    let s3 = Running::with_bucket().await;
    let client = &s3.client;
    assert_eq!(
        code(client.create_bucket().bucket(BUCKET).send().await),
        "BucketAlreadyOwnedByYou"
    );
    let buckets = client.list_buckets().send().await.unwrap();
    assert_eq!(buckets.buckets()[0].name(), Some(BUCKET));
    client.head_bucket().bucket(BUCKET).send().await.unwrap();
    client
        .get_bucket_location()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    let versioning = client
        .get_bucket_versioning()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(versioning.status, Some(BucketVersioningStatus::Enabled));
    let put = s3.put("a", b"x").await;
    assert_eq!(
        code(client.delete_bucket().bucket(BUCKET).send().await),
        "BucketNotEmpty"
    );
    client
        .delete_object()
        .bucket(BUCKET)
        .key("a")
        .version_id(put.version_id.unwrap())
        .send()
        .await
        .unwrap();
    client.delete_bucket().bucket(BUCKET).send().await.unwrap();
    assert_eq!(
        code(client.list_objects_v2().bucket(BUCKET).send().await),
        "NoSuchBucket"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_comes_back_with_everything_that_was_stored_with_it() {
    let s3 = Running::with_bucket().await;
    s3.client
        .put_object()
        .bucket(BUCKET)
        .key("a/ü +&?%/#")
        .content_type("application/x-model")
        .metadata("framework", "xgboost")
        .tagging("team=fraud&note=a+b")
        .body(ByteStream::from_static(b"hello world"))
        .send()
        .await
        .unwrap();
    let got = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("a/ü +&?%/#")
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_type(), Some("application/x-model"));
    assert_eq!(got.metadata().unwrap()["framework"], "xgboost");
    assert_eq!(got.e_tag(), Some("\"5eb63bbbe01eeed093cb22bb8f5acdc3\""));
    assert_eq!(got.tag_count(), Some(2));
    assert!(got.checksum_crc32().is_some());
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"hello world");
    let range = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("a/ü +&?%/#")
        .range("bytes=6-8")
        .send()
        .await
        .unwrap();
    assert_eq!(range.content_range(), Some("bytes 6-8/11"));
    assert_eq!(range.body.collect().await.unwrap().to_vec(), b"wor");
    let beyond = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("a/ü +&?%/#")
        .range("bytes=99-")
        .send()
        .await;
    assert_eq!(code(beyond), "InvalidRange");
    let stale = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("a/ü +&?%/#")
        .if_match("\"no\"")
        .send()
        .await;
    assert_eq!(code(stale), "PreconditionFailed");
    let known = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("a/ü +&?%/#")
        .if_none_match("\"5eb63bbbe01eeed093cb22bb8f5acdc3\"")
        .send()
        .await
        .unwrap_err();
    assert_eq!(known.raw_response().unwrap().status().as_u16(), 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_a_key_below_it_live_together_and_long_keys_are_held() {
    let s3 = Running::with_bucket().await;
    let long = "k".repeat(1024);
    for key in ["a", "a/b", "a//b", "../../etc/passwd", long.as_str()] {
        s3.put(key, key.as_bytes()).await;
    }
    for key in ["a", "a/b", "a//b", "../../etc/passwd", long.as_str()] {
        assert_eq!(s3.get(key).await, key.as_bytes());
    }
    let too_long = s3
        .client
        .put_object()
        .bucket(BUCKET)
        .key("k".repeat(1025))
        .send()
        .await;
    assert_eq!(code(too_long), "KeyTooLongError");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_digest_leaves_nothing_visible() {
    let s3 = Running::with_bucket().await;
    let put = || {
        s3.client
            .put_object()
            .bucket(BUCKET)
            .key("bad")
            .body(ByteStream::from_static(b"body"))
    };
    let wrong_sha = put().checksum_sha256(sha256(b"other")).send().await;
    assert_eq!(code(wrong_sha), "BadDigest");
    assert_eq!(
        code(put().checksum_sha1(BASE64.encode([0; 20])).send().await),
        "BadDigest"
    );
    assert_eq!(
        code(
            put()
                .checksum_crc64_nvme(BASE64.encode([0; 8]))
                .send()
                .await
        ),
        "BadDigest"
    );
    assert_eq!(
        code(put().content_md5(BASE64.encode([0; 16])).send().await),
        "BadDigest"
    );
    assert_eq!(
        code(put().content_md5("nonsense").send().await),
        "InvalidDigest"
    );
    assert_eq!(
        code(put().checksum_sha256("nonsense").send().await),
        "InvalidRequest"
    );
    assert!(!s3.exists("bad").await);
    assert!(s3.events().await.is_empty());
    put().checksum_sha256(sha256(b"body")).send().await.unwrap();
    assert!(s3.exists("bad").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_forty_concurrent_writers_wins() {
    let s3 = Running::with_bucket().await;
    let attempts = (0..40).map(|index: u8| {
        let put = s3
            .client
            .put_object()
            .bucket(BUCKET)
            .key("once")
            .if_none_match("*")
            .body(ByteStream::from(vec![index; 1000]));
        tokio::spawn(async move { code(put.send().await) })
    });
    let outcomes = futures::future::join_all(attempts).await;
    let outcomes: Vec<String> = outcomes.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| *outcome == "success")
            .count(),
        1
    );
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| *outcome == "PreconditionFailed")
            .count(),
        39
    );
    assert_eq!(s3.events().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn if_match_replaces_only_what_it_names() {
    let s3 = Running::with_bucket().await;
    let put = |etag: String| {
        s3.client
            .put_object()
            .bucket(BUCKET)
            .key("swap")
            .if_match(etag)
            .body(ByteStream::from_static(b"two"))
            .send()
    };
    assert_eq!(code(put("\"x\"".to_owned()).await), "NoSuchKey");
    let first = s3.put("swap", b"one").await.e_tag.unwrap();
    assert_eq!(code(put("\"x\"".to_owned()).await), "PreconditionFailed");
    assert_eq!(code(put(first).await), "success");
    assert_eq!(s3.get("swap").await, b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_markers_behave_as_in_s3() {
    let s3 = Running::with_bucket().await;
    let client = &s3.client;
    let one = s3.put("v", b"one").await.version_id.unwrap();
    let two = s3.put("v", b"two").await.version_id.unwrap();
    assert_ne!(one, two);
    let old = client
        .get_object()
        .bucket(BUCKET)
        .key("v")
        .version_id(&one)
        .send()
        .await
        .unwrap();
    assert_eq!(old.body.collect().await.unwrap().to_vec(), b"one");
    let marker = client
        .delete_object()
        .bucket(BUCKET)
        .key("v")
        .send()
        .await
        .unwrap();
    assert_eq!(marker.delete_marker, Some(true));
    let marker = marker.version_id.unwrap();
    assert_eq!(
        code(client.get_object().bucket(BUCKET).key("v").send().await),
        "NoSuchKey"
    );
    let of_marker = client
        .get_object()
        .bucket(BUCKET)
        .key("v")
        .version_id(&marker)
        .send()
        .await;
    assert_eq!(code(of_marker), "MethodNotAllowed");
    let unknown = client
        .get_object()
        .bucket(BUCKET)
        .key("v")
        .version_id("nope")
        .send()
        .await;
    assert_eq!(code(unknown), "NoSuchVersion");
    let listed = client
        .list_object_versions()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    let ids: Vec<_> = listed
        .versions()
        .iter()
        .map(|version| version.version_id().unwrap())
        .collect();
    assert_eq!(ids, [two.as_str(), one.as_str()]);
    assert_eq!(listed.delete_markers()[0].is_latest(), Some(true));
    let page = client
        .list_object_versions()
        .bucket(BUCKET)
        .max_keys(2)
        .send()
        .await
        .unwrap();
    assert_eq!(page.is_truncated(), Some(true));
    let rest = client
        .list_object_versions()
        .bucket(BUCKET)
        .key_marker(page.next_key_marker().unwrap())
        .version_id_marker(page.next_version_id_marker().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(rest.versions()[0].version_id(), Some(one.as_str()));
    client
        .delete_object()
        .bucket(BUCKET)
        .key("v")
        .version_id(&marker)
        .send()
        .await
        .unwrap();
    assert_eq!(s3.get("v").await, b"two");
    client
        .delete_object()
        .bucket(BUCKET)
        .key("v")
        .version_id(&two)
        .send()
        .await
        .unwrap();
    assert_eq!(s3.get("v").await, b"one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_versions_keeps_only_the_last() {
    let s3 = Running::start(Storage::Memory).await;
    s3.client
        .create_bucket()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(s3.put("v", b"one").await.version_id, None);
    s3.put("v", b"two").await;
    assert_eq!(s3.get("v").await, b"two");
    let listed = s3
        .client
        .list_object_versions()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(listed.versions().len(), 1);
    s3.client
        .delete_object()
        .bucket(BUCKET)
        .key("v")
        .send()
        .await
        .unwrap();
    assert_eq!(
        code(s3.client.get_object().bucket(BUCKET).key("v").send().await),
        "NoSuchKey"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_page_through_eleven_hundred_keys() {
    let s3 = Running::with_bucket().await;
    let keys: Vec<String> = (0..1100)
        .map(|index| format!("p/{:02}/{index:04}", index / 100))
        .collect();
    for chunk in keys.chunks(50) {
        futures::future::join_all(chunk.iter().map(|key| s3.put(key, b"x"))).await;
    }
    let mut seen = Vec::new();
    let mut pages = s3
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .prefix("p/")
        .into_paginator()
        .send();
    let mut count = 0;
    while let Some(page) = pages.next().await {
        count += 1;
        seen.extend(
            page.unwrap()
                .contents()
                .iter()
                .map(|object| object.key().unwrap().to_owned()),
        );
    }
    assert_eq!((count, seen), (2, keys.clone()));
    let rolled = s3
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .prefix("p/")
        .delimiter("/")
        .max_keys(4)
        .send()
        .await
        .unwrap();
    let prefixes = |prefixes: &[aws_sdk_s3::types::CommonPrefix]| -> Vec<String> {
        prefixes
            .iter()
            .map(|prefix| prefix.prefix().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        prefixes(rolled.common_prefixes()),
        ["p/00/", "p/01/", "p/02/", "p/03/"]
    );
    let next = s3
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .prefix("p/")
        .delimiter("/")
        .continuation_token(rolled.next_continuation_token().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(next.common_prefixes().len(), 7);
    let after = s3
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .start_after("p/10/1097")
        .send()
        .await
        .unwrap();
    assert_eq!(after.contents().len(), 2);
    let old = s3
        .client
        .list_objects()
        .bucket(BUCKET)
        .marker("p/10/1097")
        .send()
        .await
        .unwrap();
    assert_eq!(old.contents().len(), 2);
    let delete = keys[..1000]
        .iter()
        .map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder()
        .set_objects(Some(delete.collect()))
        .build()
        .unwrap();
    let deleted = s3
        .client
        .delete_objects()
        .bucket(BUCKET)
        .delete(delete)
        .send()
        .await
        .unwrap();
    assert_eq!((deleted.deleted().len(), deleted.errors().len()), (1000, 0));
    let left = s3
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(left.contents().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multipart_upload_of_64_mib_has_a_whole_object_crc() {
    let s3 = Running::with_bucket().await;
    let upload = s3
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("big")
        .send()
        .await
        .unwrap();
    let id = upload.upload_id.unwrap();
    let mut parts = Vec::new();
    let mut whole = Vec::new();
    for number in 1..=8 {
        let body = pattern(8 * MIB, u8::try_from(number).unwrap());
        whole.extend_from_slice(&body);
        parts.push(s3.part("big", &id, number, body).await);
    }
    let listed = s3
        .client
        .list_parts()
        .bucket(BUCKET)
        .key("big")
        .upload_id(&id)
        .send()
        .await
        .unwrap();
    assert_eq!(listed.parts().len(), 8);
    assert!(!s3.exists("big").await);
    let complete = || {
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.clone()))
            .build();
        s3.client
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("big")
            .upload_id(&id)
            .if_none_match("*")
            .multipart_upload(parts)
            .send()
    };
    let done = complete().await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-8\""));
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &whole);
    assert_eq!(
        done.checksum_crc64_nvme(),
        Some(BASE64.encode(crc.to_be_bytes()).as_str())
    );
    assert_eq!(done.checksum_type(), Some(&ChecksumType::FullObject));
    // The same request again is the same answer, although the key exists by now.
    assert_eq!(complete().await.unwrap().version_id(), done.version_id());
    assert!(s3.get("big").await == whole);
    let across = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("big")
        .range(format!("bytes={}-{}", 8 * MIB - 2, 8 * MIB + 1))
        .send()
        .await
        .unwrap();
    assert_eq!(
        across.body.collect().await.unwrap().to_vec(),
        whole[8 * MIB - 2..8 * MIB + 2]
    );
    let names: Vec<_> = s3
        .events()
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, [EventName::CompleteMultipartUpload]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sha256_of_a_multipart_object_is_a_checksum_of_checksums() {
    let s3 = Running::with_bucket().await;
    let upload = s3
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("composite")
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .send()
        .await
        .unwrap();
    let id = upload.upload_id.unwrap();
    let bodies = [pattern(5 * MIB, 1), b"tail".to_vec()];
    let mut parts = Vec::new();
    for (number, body) in (1..).zip(&bodies) {
        let part = s3
            .client
            .upload_part()
            .bucket(BUCKET)
            .key("composite")
            .upload_id(&id)
            .part_number(number)
            .checksum_sha256(sha256(body))
            .body(ByteStream::from(body.clone()))
            .send()
            .await
            .unwrap();
        parts.push(
            CompletedPart::builder()
                .part_number(number)
                .e_tag(part.e_tag.unwrap())
                .checksum_sha256(sha256(body))
                .build(),
        );
    }
    let bad_part = s3
        .client
        .upload_part()
        .bucket(BUCKET)
        .key("composite")
        .upload_id(&id)
        .part_number(3)
        .checksum_sha256(sha256(b"other"))
        .body(ByteStream::from_static(b"x"))
        .send()
        .await;
    assert_eq!(code(bad_part), "BadDigest");
    let complete = |parts: Vec<CompletedPart>| {
        s3.client
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("composite")
            .upload_id(&id)
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(parts))
                    .build(),
            )
            .send()
    };
    let reversed = parts.iter().rev().cloned().collect();
    assert_eq!(code(complete(reversed).await), "InvalidPartOrder");
    let mut wrong = parts.clone();
    wrong[1].e_tag = Some("\"00000000000000000000000000000000\"".to_owned());
    assert_eq!(code(complete(wrong).await), "InvalidPart");
    let done = complete(parts).await.unwrap();
    let digests: Vec<u8> = bodies
        .iter()
        .flat_map(|body| Sha256::digest(body).to_vec())
        .collect();
    let expected = format!("{}-2", sha256(&digests));
    assert_eq!(done.checksum_sha256(), Some(expected.as_str()));
    let attributes = s3
        .client
        .get_object_attributes()
        .bucket(BUCKET)
        .key("composite")
        .object_attributes(ObjectAttributes::Checksum)
        .object_attributes(ObjectAttributes::ObjectParts)
        .object_attributes(ObjectAttributes::ObjectSize)
        .object_attributes(ObjectAttributes::Etag)
        .send()
        .await
        .unwrap();
    assert_eq!(
        attributes.checksum().unwrap().checksum_type(),
        Some(&ChecksumType::Composite)
    );
    assert_eq!(
        attributes.object_parts().unwrap().total_parts_count(),
        Some(2)
    );
    assert_eq!(
        attributes.object_parts().unwrap().parts()[1].size(),
        Some(4)
    );
    assert_eq!(attributes.object_size(), Some(5 * 1024 * 1024 + 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_too_small_are_refused_and_an_aborted_upload_is_gone() {
    let s3 = Running::with_bucket().await;
    let upload = s3
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("small")
        .send()
        .await
        .unwrap();
    let id = upload.upload_id.unwrap();
    let parts = vec![
        s3.part("small", &id, 1, vec![1; 100]).await,
        s3.part("small", &id, 2, vec![2; 100]).await,
    ];
    let uploads = s3
        .client
        .list_multipart_uploads()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(uploads.uploads()[0].upload_id(), Some(id.as_str()));
    let complete = s3
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("small")
        .upload_id(&id)
        .multipart_upload(
            CompletedMultipartUpload::builder()
                .set_parts(Some(parts))
                .build(),
        )
        .send()
        .await;
    assert_eq!(code(complete), "EntityTooSmall");
    let abort = || {
        s3.client
            .abort_multipart_upload()
            .bucket(BUCKET)
            .key("small")
            .upload_id(&id)
            .send()
    };
    // A rule of the bucket ends what began before a time.
    let began = time::OffsetDateTime::now_utc();
    let ended = |time| s3.server.abort_uploads_begun_before(time);
    assert_eq!(ended(began - Duration::from_hours(1)).await.unwrap(), 0);
    let other = s3
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("other")
        .send()
        .await
        .unwrap();
    assert!(other.upload_id.is_some());
    abort().await.unwrap();
    assert_eq!(code(abort().await), "NoSuchUpload");
    assert_eq!(ended(began + Duration::from_hours(1)).await.unwrap(), 1);
    assert!(!s3.exists("small").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_share_bytes_but_not_fate() {
    let s3 = Running::with_bucket().await;
    let body = pattern(6 * MIB, 3);
    let first = s3.put("from here", &body).await;
    let source = format!(
        "{BUCKET}/from%20here?versionId={}",
        first.version_id().unwrap()
    );
    s3.put("from here", b"newer").await;
    let copy = s3
        .client
        .copy_object()
        .bucket(BUCKET)
        .key("to")
        .copy_source(&source)
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .metadata_directive(MetadataDirective::Replace)
        .content_type("text/plain")
        .send()
        .await
        .unwrap();
    assert_eq!(
        copy.copy_object_result().unwrap().checksum_sha256(),
        Some(sha256(&body).as_str())
    );
    assert_eq!(copy.copy_source_version_id(), first.version_id());
    let refused = s3
        .client
        .copy_object()
        .bucket(BUCKET)
        .key("to")
        .copy_source(&source)
        .copy_source_if_match("\"x\"")
        .send()
        .await;
    assert_eq!(code(refused), "PreconditionFailed");
    let upload = s3
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("joined")
        .send()
        .await
        .unwrap();
    let id = upload.upload_id.unwrap();
    let mut parts = Vec::new();
    for (number, range) in (1..).zip(["bytes=1048576-6291455", "bytes=0-9"]) {
        let part = s3
            .client
            .upload_part_copy()
            .bucket(BUCKET)
            .key("joined")
            .upload_id(&id)
            .part_number(number)
            .copy_source(&source)
            .copy_source_range(range)
            .send()
            .await
            .unwrap();
        let etag = part.copy_part_result.unwrap().e_tag.unwrap();
        parts.push(
            CompletedPart::builder()
                .part_number(number)
                .e_tag(etag)
                .build(),
        );
    }
    s3.client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("joined")
        .upload_id(&id)
        .multipart_upload(
            CompletedMultipartUpload::builder()
                .set_parts(Some(parts))
                .build(),
        )
        .send()
        .await
        .unwrap();
    s3.client
        .delete_object()
        .bucket(BUCKET)
        .key("from here")
        .version_id(first.version_id().unwrap())
        .send()
        .await
        .unwrap();
    assert!(s3.get("to").await == body);
    assert!(s3.get("joined").await == [&body[MIB..], &body[..10]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_set_read_and_removed() {
    let s3 = Running::with_bucket().await;
    s3.put("t", b"x").await;
    let tag = Tag::builder()
        .key("stage")
        .value("Production")
        .build()
        .unwrap();
    let tagging = Tagging::builder().tag_set(tag).build().unwrap();
    s3.client
        .put_object_tagging()
        .bucket(BUCKET)
        .key("t")
        .tagging(tagging)
        .send()
        .await
        .unwrap();
    let tags = || {
        s3.client
            .get_object_tagging()
            .bucket(BUCKET)
            .key("t")
            .send()
    };
    assert_eq!(tags().await.unwrap().tag_set()[0].value(), "Production");
    s3.client
        .delete_object_tagging()
        .bucket(BUCKET)
        .key("t")
        .send()
        .await
        .unwrap();
    assert!(tags().await.unwrap().tag_set().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::Folder(folder.path().to_owned());
    let s3 = Running::start(storage.clone()).await;
    s3.make_bucket().await;
    let version = s3.put("kept", b"kept").await.version_id;
    let second = S3Server::open(storage.clone(), S3Options::new("key", "secret"));
    assert!(
        second.is_err(),
        "a second process must not sweep the first one's uploads"
    );
    s3.stop().await;
    let rubbish = folder.path().join("blobs/00/LEFTOVER");
    std::fs::write(&rubbish, b"half of an upload").unwrap();
    let s3 = Running::start(storage).await;
    assert!(!rubbish.exists());
    assert_eq!(s3.get("kept").await, b"kept");
    let head = s3
        .client
        .head_object()
        .bucket(BUCKET)
        .key("kept")
        .send()
        .await
        .unwrap();
    assert_eq!(head.version_id, version);
    assert_eq!(s3.events().await, [(EventName::Put, "kept".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_are_waited_for_rendered_and_acknowledged() {
    let s3 = Running::with_bucket().await;
    let notifications = s3.server.notifications();
    let waiting = tokio::spawn({
        let notifications = notifications.clone();
        async move { notifications.raised().await }
    });
    let put = s3.put("models/my model+v1", b"hello").await;
    tokio::time::timeout(Duration::from_secs(5), waiting)
        .await
        .unwrap()
        .unwrap();
    s3.client
        .delete_object()
        .bucket(BUCKET)
        .key("models/my model+v1")
        .send()
        .await
        .unwrap();
    let events = notifications.peek(10).await.unwrap();
    let record = to_event_record(&events[0]);
    assert_eq!(record["eventVersion"], "2.1");
    assert_eq!(record["eventSource"], "aws:s3");
    assert_eq!(record["eventName"], "ObjectCreated:Put");
    assert_eq!(record["s3"]["bucket"]["arn"], "arn:aws:s3:::models");
    assert_eq!(record["s3"]["object"]["key"], "models/my+model%2Bv1");
    assert_eq!(record["s3"]["object"]["size"], 5);
    assert_eq!(
        record["s3"]["object"]["eTag"],
        "5d41402abc4b2a76b9719d911017c592"
    );
    assert_eq!(record["s3"]["object"]["versionId"], put.version_id.unwrap());
    assert_eq!(
        to_event_record(&events[1])["eventName"],
        "ObjectRemoved:DeleteMarkerCreated"
    );
    assert!(events[0].sequencer < events[1].sequencer);
    notifications.acknowledge(vec![events[0].id]).await.unwrap();
    assert_eq!(notifications.peek(10).await.unwrap(), events[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presigned_upload_binds_length_checksum_and_condition() {
    let s3 = Running::with_bucket().await;
    let config = s3
        .client
        .config()
        .to_builder()
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .build();
    let presigned = aws_sdk_s3::Client::from_conf(config)
        .put_object()
        .bucket(BUCKET)
        .key("incoming")
        .content_length(4)
        .checksum_sha256(sha256(b"good"))
        .if_none_match("*")
        .presigned(PresigningConfig::expires_in(Duration::from_mins(1)).unwrap())
        .await
        .unwrap();
    let http = http_client();
    let send = async |body: &'static str, without: &str, uri: &str| {
        let mut request = http.put(uri).body(body);
        for (name, value) in presigned.headers() {
            if name != without && name != "content-length" {
                request = request.header(name, value);
            }
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(send("evil", "", presigned.uri()).await, 400);
    assert_eq!(send("good and more", "", presigned.uri()).await, 403);
    assert_eq!(send("good", "if-none-match", presigned.uri()).await, 403);
    assert_eq!(
        send("good", "x-amz-checksum-sha256", presigned.uri()).await,
        403
    );
    assert_eq!(
        send(
            "good",
            "",
            &presigned.uri().replace("incoming", "elsewhere")
        )
        .await,
        403
    );
    assert!(!s3.exists("incoming").await);
    assert_eq!(send("good", "", presigned.uri()).await, 200);
    assert_eq!(send("good", "", presigned.uri()).await, 412);
    let extra = http
        .put(presigned.uri())
        .header("x-amz-meta-smuggled", "yes")
        .body("good");
    let extra = presigned
        .headers()
        .filter(|(name, _)| *name != "content-length")
        .fold(extra, |request, (name, value)| request.header(name, value));
    assert_eq!(extra.send().await.unwrap().status().as_u16(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presigned_download_overrides_headers_and_expires() {
    let s3 = Running::with_bucket().await;
    s3.put("d", b"download").await;
    let presign = async |config: PresigningConfig| {
        s3.client
            .get_object()
            .bucket(BUCKET)
            .key("d")
            .response_content_disposition("attachment; filename=\"model.bin\"")
            .response_content_type("application/x-model")
            .presigned(config)
            .await
            .unwrap()
            .uri()
            .to_owned()
    };
    let uri = presign(PresigningConfig::expires_in(Duration::from_mins(1)).unwrap()).await;
    let answer = get(&uri).await.unwrap();
    assert_eq!(
        answer.headers()["content-disposition"],
        "attachment; filename=\"model.bin\""
    );
    assert_eq!(answer.headers()["content-type"], "application/x-model");
    assert_eq!(answer.text().await.unwrap(), "download");
    let tampered = uri.replace("model.bin", "other.bin");
    assert_eq!(get(&tampered).await.unwrap().status().as_u16(), 403);
    let past = time::OffsetDateTime::now_utc() - Duration::from_mins(2);
    let expired = PresigningConfig::builder()
        .start_time(past.into())
        .expires_in(Duration::from_mins(1))
        .build()
        .unwrap();
    let answer = get(presign(expired).await).await.unwrap();
    assert_eq!(answer.status().as_u16(), 403);
    assert!(answer.text().await.unwrap().contains("Request has expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_the_key_is_let_in() {
    let s3 = Running::with_bucket().await;
    s3.put("a", b"x").await;
    let anonymous = get(format!("{}/{BUCKET}/a", s3.endpoint)).await.unwrap();
    assert_eq!(anonymous.status().as_u16(), 403);
    let wrong = client(&s3.endpoint, "guess")
        .get_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await;
    assert_eq!(code(wrong), "SignatureDoesNotMatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_and_their_bytes_are_counted() {
    let s3 = Running::with_bucket().await;
    s3.put("a", &[7; 1000]).await;
    s3.get("a").await;
    s3.get("a").await;
    let counts = s3.server.counters().snapshot();
    assert_eq!(
        (counts["GetObject"].calls, counts["GetObject"].bytes_out),
        (2, 2000)
    );
    assert_eq!(counts["PutObject"].calls, 1);
    assert!(counts["PutObject"].bytes_in >= 1000);
}
