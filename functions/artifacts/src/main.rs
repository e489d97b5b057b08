//! The Lambda function `artifacts`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), shared::lambda::HostError> {
    shared::lambda::run_http(artifacts::router).await
}
