//! The AWS clients, built without a call and without parsing what is not needed.
//!
//! They share one HTTP client, so that root certificates are parsed once and connections are pooled together.
//! A client that not every call of a function needs is built at its first use: start-up is paid for by every cold start.
//!
//! Credentials and region come from the function's environment, so no profile file, metadata service or
//! credential chain is loaded.

use crate::config::Config;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::retry::RetryPartition;
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_async::rt::sleep::SharedAsyncSleep;
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// How requests travel, and how time passes between two attempts.
#[derive(Debug, Clone)]
pub struct Transport {
    /// Sends requests.
    pub http: SharedHttpClient,
    /// Waits.
    pub sleep: SharedAsyncSleep,
    /// Whom an attempt that failed is counted against; by default the process.
    pub retries: Option<RetryPartition>,
    /// What ids are drawn from; by default the system's random source.
    pub seed: Option<u64>,
}

impl Transport {
    /// By the network and the system's clock.
    pub fn real(config: &Config) -> Self {
        Self {
            http: http_client(config),
            sleep: SharedAsyncSleep::new(aws_smithy_async::rt::sleep::TokioSleep::new()),
            retries: None,
            seed: None,
        }
    }
}

/// What all clients share.
fn base(config: &Config, transport: &Transport) -> SdkConfig {
    let credentials = Credentials::new(
        &config.credentials.access_key_id,
        &config.credentials.secret_access_key,
        config.credentials.session_token.clone(),
        None,
        "environment",
    );
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(config.region.clone()))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(transport.http.clone())
        .retry_config(RetryConfig::standard().with_max_attempts(4))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(3))
                .read_timeout(Duration::from_secs(20))
                .build(),
        )
        .sleep_impl(transport.sleep.clone())
        .time_source(aws_smithy_async::time::SystemTimeSource::new())
        .build()
}

/// An HTTP client that trusts Amazon's root certificates only, or plain HTTP where both endpoints are replaced.
fn http_client(config: &Config) -> SharedHttpClient {
    if config.dynamodb_endpoint.is_some() && config.s3_endpoint.is_some() {
        return Builder::new().build_http();
    }
    let roots = tls::TrustStore::empty().with_pem_certificate(AMAZON_ROOTS);
    let context = tls::TlsContext::builder()
        .with_trust_store(roots)
        .build()
        .expect("the bundled root certificates are well-formed");
    Builder::new()
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::Ring,
        ))
        .tls_context(context)
        .build_https()
}

/// Amazon Trust Services' root certificates, from <https://www.amazontrust.com/repository/>.
const AMAZON_ROOTS: &[u8] = include_bytes!("amazon-roots.pem");

/// Builds the clients of one process.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    base: SdkConfig,
    transport: Transport,
    dynamodb_endpoint: Option<String>,
    s3_endpoint: Option<String>,
    eventbridge_endpoint: Option<String>,
    sns_endpoint: Option<String>,
    sqs_endpoint: Option<String>,
    kms_endpoint: Option<String>,
    interceptors: Vec<SharedInterceptor>,
}

impl Clients {
    /// Prepares what all clients share.
    pub(crate) fn new(
        config: &Config,
        interceptors: &[SharedInterceptor],
        transport: Transport,
    ) -> Self {
        Self {
            base: base(config, &transport),
            transport,
            dynamodb_endpoint: config.dynamodb_endpoint.clone(),
            s3_endpoint: config.s3_endpoint.clone(),
            eventbridge_endpoint: config.eventbridge_endpoint.clone(),
            sns_endpoint: config.sns_endpoint.clone(),
            sqs_endpoint: config.sqs_endpoint.clone(),
            kms_endpoint: config.kms_endpoint.clone(),
            interceptors: interceptors.to_vec(),
        }
    }

    /// The table's client; almost every call needs it.
    pub(crate) fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let mut builder = aws_sdk_dynamodb::config::Builder::from(&self.base);
        if let Some(endpoint) = &self.dynamodb_endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        if let Some(retries) = &self.transport.retries {
            builder = builder.retry_partition(retries.clone());
        }
        for interceptor in &self.interceptors {
            builder = builder.interceptor(interceptor.clone());
        }
        aws_sdk_dynamodb::Client::from_conf(builder.build())
    }

    /// How to wait.
    pub(crate) fn sleep(&self) -> SharedAsyncSleep {
        self.transport.sleep.clone()
    }

    /// The stream's client, which only the sweep of one function needs.
    pub(crate) fn streams(&self) -> Lazy<aws_sdk_dynamodbstreams::Client> {
        let clients = self.clone();
        Lazy::new(move || {
            let mut builder = aws_sdk_dynamodbstreams::config::Builder::from(&clients.base);
            if let Some(endpoint) = &clients.dynamodb_endpoint {
                builder = builder.endpoint_url(endpoint);
            }
            for interceptor in &clients.interceptors {
                builder = builder.interceptor(interceptor.clone());
            }
            aws_sdk_dynamodbstreams::Client::from_conf(builder.build())
        })
    }

    /// The client of the key management, which only who signs needs.
    pub(crate) fn kms(&self) -> Lazy<aws_sdk_kms::Client> {
        let clients = self.clone();
        Lazy::new(move || {
            let mut builder = aws_sdk_kms::config::Builder::from(&clients.base);
            if let Some(endpoint) = &clients.kms_endpoint {
                builder = builder.endpoint_url(endpoint);
            }
            for interceptor in &clients.interceptors {
                builder = builder.interceptor(interceptor.clone());
            }
            aws_sdk_kms::Client::from_conf(builder.build())
        })
    }

    /// The bucket's client, which most calls of the API do without.
    pub(crate) fn s3(&self) -> Lazy<aws_sdk_s3::Client> {
        let clients = self.clone();
        Lazy::new(move || {
            let mut builder = aws_sdk_s3::config::Builder::from(&clients.base);
            if let Some(endpoint) = &clients.s3_endpoint {
                builder = builder.endpoint_url(endpoint).force_path_style(true);
            }
            for interceptor in &clients.interceptors {
                builder = builder.interceptor(interceptor.clone());
            }
            aws_sdk_s3::Client::from_conf(builder.build())
        })
    }
}

impl Clients {
    /// The event bus's client, which only notifications needs.
    pub(crate) fn eventbridge(&self) -> Lazy<aws_sdk_eventbridge::Client> {
        let clients = self.clone();
        Lazy::new(move || {
            let mut builder = aws_sdk_eventbridge::config::Builder::from(&clients.base);
            if let Some(endpoint) = &clients.eventbridge_endpoint {
                builder = builder.endpoint_url(endpoint);
            }
            for interceptor in &clients.interceptors {
                builder = builder.interceptor(interceptor.clone());
            }
            aws_sdk_eventbridge::Client::from_conf(builder.build())
        })
    }

    /// The client of topics, which only notifications needs.
    pub(crate) fn sns(&self) -> Lazy<aws_sdk_sns::Client> {
        let clients = self.clone();
        Lazy::new(move || {
            let mut builder = aws_sdk_sns::config::Builder::from(&clients.base);
            if let Some(endpoint) = &clients.sns_endpoint {
                builder = builder.endpoint_url(endpoint);
            }
            for interceptor in &clients.interceptors {
                builder = builder.interceptor(interceptor.clone());
            }
            aws_sdk_sns::Client::from_conf(builder.build())
        })
    }

    /// The client of the queue of deliveries, which only notifications needs.
    pub(crate) fn sqs(&self) -> Lazy<aws_sdk_sqs::Client> {
        let clients = self.clone();
        Lazy::new(move || {
            let mut builder = aws_sdk_sqs::config::Builder::from(&clients.base);
            if let Some(endpoint) = &clients.sqs_endpoint {
                builder = builder.endpoint_url(endpoint);
            }
            for interceptor in &clients.interceptors {
                builder = builder.interceptor(interceptor.clone());
            }
            aws_sdk_sqs::Client::from_conf(builder.build())
        })
    }
}

/// A client that is built when it is first used; its clones share it.
#[derive(Clone)]
pub(crate) struct Lazy<C>(Arc<LazyLock<C, Build<C>>>);

/// What builds a client.
type Build<C> = Box<dyn FnOnce() -> C + Send>;

impl<C> Lazy<C> {
    fn new(build: impl FnOnce() -> C + Send + 'static) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(build))))
    }
}

impl<C> Deref for Lazy<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0
    }
}

impl<C> fmt::Debug for Lazy<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Lazy(client)")
    }
}
