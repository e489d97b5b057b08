//! MLflow's REST API, as its clients see it on the wire.

use crate::world::World;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_in_the_words_of_mlflow() {
    let world = World::start().await;
    for path in [
        "/api/2.0/mlflow/traces",
        "/ajax-api/2.0/mlflow/gateway/x",
        "/t/team-a/api/2.0/mlflow/none",
    ] {
        let message = world
            .get(path)
            .await
            .expect_mlflow(404, "ENDPOINT_NOT_FOUND");
        assert!(message.contains("does not exist"), "{message}");
    }
    world
        .post("/t/Team A/api/2.0/mlflow/none", json!({}))
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
}
