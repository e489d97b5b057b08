//! The Lambda function `tracking`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), shared::lambda::HostError> {
    shared::lambda::run_http(tracking::router).await
}
