//! The Lambda function `promote`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), shared::lambda::HostError> {
    shared::lambda::run(promote::router, promote::handle).await
}
