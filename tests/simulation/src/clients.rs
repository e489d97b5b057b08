//! Clients: they ask for what was drawn, as one process of the functions.

use crate::direct;
use crate::play::Answer;
use crate::wishes::Wish;
use axum::Router;
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::Value;
use shared::App;
use tower::ServiceExt as _;

const PEOPLE: [&str; 4] = ["ada", "ben", "cid", "dan"];

/// Who asks for a wish; few people, so that one of them may approve twice, or what they asked for themselves.
fn person(id: usize) -> &'static str {
    PEOPLE[id % PEOPLE.len()]
}

/// Asks the registry, as one process of the functions.
pub(crate) async fn ask(
    app: App,
    router: Router,
    wish: Wish,
    model: &'static str,
    id: usize,
    key: Option<String>,
) -> Answer {
    if let Some(answer) = direct::ask(&app, &wish, model, id).await {
        return answer;
    }
    let (mut method, mut path, body) = wish.request(model, id);
    let body = match &wish {
        Wish::AnswerCheck {
            id: request,
            passed,
        } => {
            path = format!("/v1/models/{model}/promotion-requests/{request}/checks");
            method = "POST";
            let token = direct::check_token(&app, model, request);
            serde_json::json!({"check": direct::CHECK, "token": token, "passed": passed})
        }
        _ => body,
    };
    if wish == Wish::RevokeWaiver {
        let listed = send(
            &router,
            id,
            None,
            ("GET", &waivers_path(model), Value::Null),
        )
        .await;
        let Some(waiver) = listed.body["waivers"][0]["id"].as_str() else {
            return listed;
        };
        (method, path) = ("DELETE", format!("{}/{waiver}", waivers_path(model)));
    }
    send(&router, id, key, (method, &path, body)).await
}

fn waivers_path(model: &str) -> String {
    format!("/v1/models/{model}/waivers")
}

async fn send(
    router: &Router,
    id: usize,
    key: Option<String>,
    (method, path, body): (&str, &str, Value),
) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-request-id", format!("wish-{id}"))
        .header("x-slipway-groups", "risk")
        .header("x-slipway-actor", person(id));
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let body = if body.is_null() {
        Body::empty()
    } else {
        request = request.header("content-type", "application/json");
        Body::from(body.to_string())
    };
    let request = request.body(body).expect("the request is well-formed");
    let Ok(response) = router.clone().oneshot(request).await;
    let status = response.status().as_u16();
    let bytes = response
        .into_body()
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    Answer {
        status,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    }
}
