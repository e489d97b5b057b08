//! An embedded S3 server: objects as files, everything else in SQLite.
//!
//! It speaks the protocol to whatever client comes, refuses what S3 refuses with S3's codes, and keeps what it
//! acknowledged: an object becomes visible only after its checksums held and its bytes are on disk, in the one
//! transaction that also stores its event notification.
//!
//! The module knows nothing of the registry.

mod access;
mod blobs;
mod bodies;
mod buckets;
mod checksums;
mod counters;
mod listing;
mod multipart;
mod notifications;
mod objects;
mod store;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::SecretKey;
use s3s::dto;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse, S3, S3Request, S3Response, S3Result};
use time::OffsetDateTime;
use tokio::net::TcpListener;

use counters::{Direction, Meter, Metered};
use store::{Refusal, Store};

pub use counters::{Counters, OperationCount};
pub use notifications::{EventName, Notification, Notifications, to_event_record};
pub use store::Clock;

/// Where the objects are.
#[derive(Debug, Clone)]
pub enum Storage {
    /// In this folder, which one process may use at a time; it is made if it is missing.
    Folder(PathBuf),
    /// In a temporary folder that goes with the server.
    Memory,
}

/// How the server presents itself.
#[derive(Clone)]
pub struct S3Options {
    /// The one access key that is let in.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The region it answers as.
    pub region: String,
    /// Tells the time of objects and events; signatures are always held against the machine's clock.
    pub clock: Clock,
}

impl S3Options {
    /// Options with the machine's clock, in `us-east-1`.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            region: "us-east-1".to_owned(),
            clock: Arc::new(OffsetDateTime::now_utc),
        }
    }
}

impl std::fmt::Debug for S3Options {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("S3Options")
            .field("access_key", &self.access_key)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// The server's own storage failed.
#[derive(Debug, thiserror::Error)]
#[error("the embedded S3 storage failed")]
pub struct S3Failure(#[source] Refusal);

impl From<Refusal> for S3Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// An open store that can be served.
#[derive(Debug, Clone)]
pub struct S3Server {
    store: Arc<Store>,
    service: S3Service,
    counters: Counters,
    region: Arc<str>,
    /// Removed with the last clone.
    _temporary: Option<Arc<tempfile::TempDir>>,
}

impl S3Server {
    /// Opens the storage and removes what interrupted writes left behind.
    ///
    /// Blocks while it does so, and fails if another process has the folder open.
    pub fn open(storage: Storage, options: S3Options) -> Result<Self, S3Failure> {
        let (folder, temporary) = match storage {
            Storage::Folder(folder) => (folder, None),
            Storage::Memory => {
                let temporary = tempfile::tempdir().map_err(Refusal::from)?;
                (temporary.path().to_owned(), Some(Arc::new(temporary)))
            }
        };
        let store = Arc::new(Store::open(&folder, temporary.is_none(), options.clock)?);
        let counters = Counters::default();
        let region: Arc<str> = options.region.into();
        let mut builder = S3ServiceBuilder::new(Backend {
            store: Arc::clone(&store),
            region: Arc::clone(&region),
        });
        builder.set_auth(access::Key {
            access_key: options.access_key,
            secret_key: SecretKey::from(options.secret_key),
        });
        builder.set_access(access::Gate {
            counters: counters.clone(),
        });
        Ok(Self {
            store,
            service: builder.build(),
            counters,
            region,
            _temporary: temporary,
        })
    }

    /// Serves path-style requests until the shutdown, and lets requests under way finish.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let graceful = GracefulShutdown::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // A client that is gone already, or too many open files: neither ends the server.
                        tracing::warn!(%error, "Could not accept a connection");
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            // Answers are small writes one after the other, which Nagle's algorithm would hold back by 40 ms.
            stream.set_nodelay(true)?;
            let server = self.clone();
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { server.answer(request).await }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "A connection ended early");
                }
            });
        }
        drop(listener);
        graceful.shutdown().await;
        Ok(())
    }

    async fn answer(
        &self,
        request: http::Request<Incoming>,
    ) -> Result<HttpResponse<Metered<Body>>, HttpError> {
        let meter = Meter::default();
        let (mut parts, body) = request.into_parts();
        let never_continued = body.is_end_stream() && parts.headers.contains_key("expect");
        parts.extensions.insert(meter.clone());
        let body = Body::http_body(Metered {
            body,
            meter: meter.clone(),
            direction: Direction::In,
        });
        let mut response = self
            .service
            .call(http::Request::from_parts(parts, body))
            .await?;
        // An empty body is never asked for, so no `100 Continue` was sent. botocore takes the final answer in its place
        // and would then send nothing more on this connection, as if the next request hung.
        if never_continued {
            response
                .headers_mut()
                .insert("connection", http::HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Metered {
            body,
            meter,
            direction: Direction::Out,
        }))
    }

    /// Makes a bucket that keeps versions, unless there is one of that name already.
    pub async fn ensure_bucket(&self, bucket: &str) -> Result<(), S3Failure> {
        Ok(buckets::ensure_versioned(&self.store, bucket.to_owned()).await?)
    }

    /// Ends uploads that began before a time and were not completed, as a bucket's lifecycle rule does.
    pub async fn abort_uploads_begun_before(
        &self,
        time: OffsetDateTime,
    ) -> Result<usize, S3Failure> {
        Ok(multipart::abort_begun_before(&self.store, store::to_ms(time)).await?)
    }

    /// The committed events that wait for delivery.
    pub fn notifications(&self) -> Notifications {
        Notifications {
            store: Arc::clone(&self.store),
            region: Arc::clone(&self.region),
        }
    }

    /// How often each operation was called.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// The operations, each in the module of its kind.
struct Backend {
    store: Arc<Store>,
    region: Arc<str>,
}

/// Writes the methods that only hand over to a function.
macro_rules! backend {
    ($($name:ident($input:ident) -> $output:ident = $module:ident::$function:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Backend {
            $(
                async fn $name(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                    Ok($module::$function(&self.store, request).await?)
                }
            )*

            async fn list_buckets(
                &self,
                request: S3Request<dto::ListBucketsInput>,
            ) -> S3Result<S3Response<dto::ListBucketsOutput>> {
                Ok(buckets::list(&self.store, self.region.to_string(), request).await?)
            }

            async fn head_bucket(
                &self,
                request: S3Request<dto::HeadBucketInput>,
            ) -> S3Result<S3Response<dto::HeadBucketOutput>> {
                buckets::exists(&self.store, request.input.bucket).await?;
                Ok(S3Response::new(dto::HeadBucketOutput {
                    bucket_region: Some(self.region.to_string()),
                    ..Default::default()
                }))
            }

            async fn get_bucket_location(
                &self,
                request: S3Request<dto::GetBucketLocationInput>,
            ) -> S3Result<S3Response<dto::GetBucketLocationOutput>> {
                buckets::exists(&self.store, request.input.bucket).await?;
                // The oldest region is the one that S3 does not name.
                let region = Some(self.region.to_string()).filter(|region| region != "us-east-1");
                Ok(S3Response::new(dto::GetBucketLocationOutput {
                    location_constraint: region.map(dto::BucketLocationConstraint::from),
                }))
            }
        }
    };
}

backend! {
    create_bucket(CreateBucketInput) -> CreateBucketOutput = buckets::create;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = buckets::delete;
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput = buckets::get_versioning;
    put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput = buckets::put_versioning;
    put_object(PutObjectInput) -> PutObjectOutput = objects::put;
    get_object(GetObjectInput) -> GetObjectOutput = objects::get;
    head_object(HeadObjectInput) -> HeadObjectOutput = objects::head;
    copy_object(CopyObjectInput) -> CopyObjectOutput = objects::copy;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = objects::delete;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = objects::delete_many;
    get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput = objects::attributes;
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = objects::get_tags;
    put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput = objects::put_tags;
    delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput = objects::delete_tags;
    list_objects(ListObjectsInput) -> ListObjectsOutput = listing::objects_v1;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = listing::objects_v2;
    list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput = listing::versions;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput = listing::uploads;
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput = multipart::create;
    upload_part(UploadPartInput) -> UploadPartOutput = multipart::put_part;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = multipart::copy_part;
    list_parts(ListPartsInput) -> ListPartsOutput = multipart::list_parts;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput = multipart::complete;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput = multipart::abort;
}
