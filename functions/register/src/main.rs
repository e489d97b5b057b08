//! The Lambda function `register`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), shared::lambda::HostError> {
    shared::lambda::run(register::router, register::handle).await
}
