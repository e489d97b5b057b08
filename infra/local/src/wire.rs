//! The way from the functions' AWS clients to the embedded services of this process.
//!
//! A client writes, signs and sends a request as it does on AWS, and what it hands to its HTTP connector is handed to
//! the service that listens on that address, without the way through a socket and back. Whatever goes elsewhere, and
//! what has no place in memory, such as the bytes of objects in S3, takes the network.

use std::sync::{Arc, PoisonError, RwLock};

use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use axum::{Router, body::Body};
use tower::ServiceExt as _;

use crate::dynamodb::Engine;

/// The largest answer that a service of the process gives.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// An embedded service.
#[derive(Clone, Debug)]
pub(crate) enum Service {
    /// The table.
    DynamoDb(Engine),
    /// One of the small ones.
    Routes(Router),
}

/// An HTTP client that knows the services of this process; clones share what they know.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    services: Arc<RwLock<Vec<(String, Service)>>>,
    network: SharedHttpClient,
}

impl Wire {
    /// Knows these services by their addresses, such as `http://127.0.0.1:40000`.
    pub(crate) fn new(services: Vec<(String, Service)>, network: SharedHttpClient) -> Self {
        Self {
            services: Arc::new(RwLock::new(services)),
            network,
        }
    }

    /// Forgets all services: what is sent from now on finds nobody.
    pub(crate) fn cut(&self) {
        self.services
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn service_at(&self, uri: &str) -> Option<Service> {
        self.services
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find(|(address, _)| {
                uri.strip_prefix(address.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .map(|(_, service)| service.clone())
    }
}

impl HttpClient for Wire {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            wire: self.clone(),
            network: self.network.http_connector(settings, components),
        })
    }
}

#[derive(Debug)]
struct Connector {
    wire: Wire,
    network: SharedHttpConnector,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let service = self.wire.service_at(request.uri());
        let network = self.network.clone();
        match (service, request.body().bytes().is_some()) {
            (Some(Service::DynamoDb(engine)), true) => HttpConnectorFuture::new(async move {
                match ask_table(&engine, &request).await? {
                    Some(response) => Ok(response),
                    None => network.call(request).await,
                }
            }),
            (Some(Service::Routes(router)), true) => {
                HttpConnectorFuture::new(ask_routes(router, request))
            }
            _ => network.call(request),
        }
    }
}

async fn ask_table(
    engine: &Engine,
    request: &HttpRequest,
) -> Result<Option<HttpResponse>, ConnectorError> {
    let target = request.headers().get("x-amz-target").unwrap_or_default();
    let body = request.body().bytes().unwrap_or_default();
    let Some(answer) = engine.answer(target, body).await else {
        return Ok(None);
    };
    let status = StatusCode::try_from(answer.status)
        .map_err(|error| ConnectorError::other(error.into(), None))?;
    let mut response = HttpResponse::new(status, SdkBody::from(answer.body));
    response
        .headers_mut()
        .insert("content-type", "application/x-amz-json-1.0");
    Ok(Some(response))
}

async fn ask_routes(router: Router, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let request = request
        .try_into_http1x()
        .map_err(|error| ConnectorError::user(error.into()))?
        .map(|body| Body::from(body.bytes().unwrap_or_default().to_vec()));
    let (parts, body) = match router.oneshot(request).await {
        Ok(response) => response.into_parts(),
        Err(never) => match never {},
    };
    let body = axum::body::to_bytes(body, MAX_ANSWER_BYTES)
        .await
        .map_err(|error| ConnectorError::io(error.into()))?;
    let response = http::Response::from_parts(parts, SdkBody::from(body));
    HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
}
