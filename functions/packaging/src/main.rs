//! The Lambda function `packaging`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), shared::lambda::HostError> {
    shared::lambda::run_events(packaging::handle).await
}
