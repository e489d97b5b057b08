//! The functions, as the host calls them.

use std::{collections::BTreeMap, fmt, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::Value;
use shared::{App, http::Route};

use crate::definition::Function;

/// An event handler, without its type.
type Handler = Arc<dyn Fn(App, Value) -> BoxFuture<'static, shared::Result<Value>> + Send + Sync>;

/// Routes and event handlers; a test may exchange one for its own.
#[derive(Clone)]
pub struct Functions {
    /// The routes of all functions.
    pub routes: Vec<Route>,
    handlers: BTreeMap<Function, Handler>,
}

impl Functions {
    /// The functions of Slipway.
    pub fn slipway() -> Self {
        let routes = [
            register::routes(),
            promote::routes(),
            query::routes(),
            packaging::routes(),
            notifications::routes(),
            oci::routes(),
            artifact_validation::routes(),
            artifacts::routes(),
            authorizer::routes(),
            tracking::routes(),
        ];
        let none = Self {
            routes: routes.concat(),
            handlers: BTreeMap::new(),
        };
        none.with_handler(Function::Register, register::handle)
            .with_handler(Function::Promote, promote::handle)
            .with_handler(Function::ArtifactValidation, artifact_validation::handle)
            .with_handler(Function::Packaging, packaging::handle)
            .with_handler(Function::Notifications, notifications::handle)
    }

    /// Calls another handler for a function's events.
    #[must_use]
    pub fn with_handler<H, Fut>(mut self, function: Function, handler: H) -> Self
    where
        H: Fn(App, Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = shared::Result<Value>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |app, event| handler(app, event).boxed());
        self.handlers.insert(function, handler);
        self
    }

    /// Calls a function as Lambda does: within its timeout, and a panic fails the call, not the host.
    ///
    /// The error is for the log and for the dead letters.
    pub(crate) async fn call(
        &self,
        function: Function,
        app: App,
        event: Value,
    ) -> Result<Value, String> {
        let Some(handler) = self.handlers.get(&function) else {
            return Err(format!("there is no handler for `{function}`"));
        };
        // The handler itself may panic before it returns its future.
        let call = AssertUnwindSafe(async { handler(app, event).await }).catch_unwind();
        match tokio::time::timeout(function.timeout(), call).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(error.chain()),
            Ok(Err(panic)) => Err(format!("the function panicked: {}", message(&*panic))),
            Err(_) => Err(format!(
                "the function did not answer within {} s",
                function.timeout().as_secs()
            )),
        }
    }
}

impl Default for Functions {
    fn default() -> Self {
        Self::slipway()
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Functions")
            .field("routes", &self.routes)
            .field("handlers", &self.handlers.keys())
            .finish()
    }
}

/// Reads what a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
