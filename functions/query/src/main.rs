//! The Lambda function `query`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), shared::lambda::HostError> {
    shared::lambda::run_http(query::router).await
}
