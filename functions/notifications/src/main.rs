//! The Lambda function `notifications`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), shared::lambda::HostError> {
    shared::lambda::run(notifications::router, notifications::handle).await
}
