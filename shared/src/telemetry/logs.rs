//! The log: one JSON object per line, with a message that reads alone and fields of fixed names.
//!
//! Tokens, bodies, presigned URLs and e-mail addresses are never logged.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Begins logging as JSON lines, as CloudWatch Logs Insights reads them.
pub fn start_json() {
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_span_events(FmtSpan::NONE)
        // CloudWatch stamps every line itself.
        .without_time()
        .with_env_filter(EnvFilter::new("info"))
        .finish();
    // A second call, as in tests, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
