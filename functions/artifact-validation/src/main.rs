//! The Lambda function `artifact-validation`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), shared::lambda::HostError> {
    shared::lambda::run(artifact_validation::router, artifact_validation::handle).await
}
