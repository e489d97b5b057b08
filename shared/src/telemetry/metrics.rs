//! Metrics in CloudWatch's Embedded Metric Format: a JSON line that becomes a metric without a call.
//!
//! One namespace, `Slipway`; one dimension, `service`. Model names are never dimensions.

use serde_json::{Value, json};
use std::io::Write as _;
use std::sync::OnceLock;

/// Where metrics go; nowhere until a host turns them on.
static ENABLED: OnceLock<()> = OnceLock::new();

/// Turns metrics on; the Lambda host does.
pub fn enable() {
    let _ = ENABLED.set(());
}

/// A unit of CloudWatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A duration.
    Milliseconds,
    /// A size.
    Bytes,
}

/// Tells several values of one moment.
pub fn emit(service: &str, values: &[(&str, Unit, u64)]) {
    if ENABLED.get().is_none() {
        return;
    }
    let line = line(service, values, crate::app::Clock::system().now().millis());
    // A metric that cannot be written is not worth failing a request.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn line(service: &str, values: &[(&str, Unit, u64)], millis: u64) -> Value {
    let metrics: Vec<Value> = values
        .iter()
        .map(|(name, unit, _)| json!({"Name": name, "Unit": format!("{unit:?}")}))
        .collect();
    let mut line = json!({
        "_aws": {
            "Timestamp": millis,
            "CloudWatchMetrics": [{"Namespace": "Slipway", "Dimensions": [["service"]], "Metrics": metrics}],
        },
        "service": service,
    });
    for (name, _, value) in values {
        line[*name] = (*value).into();
    }
    line
}

/// Tells of one HTTP request.
pub fn request(service: &str, status: u16, duration_ms: u64) {
    emit(
        service,
        &[
            ("requests", Unit::Count, 1),
            ("request_faults", Unit::Count, u64::from(status >= 500)),
            ("request_duration_ms", Unit::Milliseconds, duration_ms),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_in_the_embedded_metric_format() {
        let line = line("query", &[("requests", Unit::Count, 1)], 7);
        assert_eq!(
            line["_aws"]["CloudWatchMetrics"][0]["Metrics"][0]["Unit"],
            "Count"
        );
        assert_eq!(line["requests"], 1);
    }
}
