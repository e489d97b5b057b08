//! The Lambda function `packaging`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), shared::lambda::HostError> {
    shared::lambda::run(packaging::router, packaging::handle).await
}
