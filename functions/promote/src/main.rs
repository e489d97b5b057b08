//! The Lambda function `promote`.

#[tokio::main(flavor = "current_thread")]
async fn main() {}
