"""A subscriber hears of every change, by a request that the standard's own library verifies."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from standardwebhooks import Webhook, WebhookVerificationError

from conftest import Registry
from test_journey import FIXTURES, files_of, register


@dataclass
class Receiver:
    """A subscriber on this machine; answers each request with the next of its statuses, and 204 after them."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def events(self) -> list[dict]:
        return [json.loads(body) for _, body in self.received]

    def of_type(self, kind: str) -> dict | None:
        return next((event for event in self.events() if event["type"] == kind), None)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = receiver.statuses.pop(0) if receiver.statuses else 204
            receiver.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_subscriber_hears_of_every_change_and_can_verify_it(registry: Registry, receiver: Receiver) -> None:
    body = {"url": receiver.url, "model": "heard", "description": "of the tests"}
    created = registry.call("POST", "/v1/subscriptions", body).expect(201)
    subscription = f"/v1/subscriptions/{created['id']}"
    assert "secret" not in registry.call("GET", subscription).expect(200)

    tested = registry.call("POST", f"{subscription}/test").expect(200)
    assert (tested["is_delivered"], tested["status"]) == (True, 204)

    register(registry, "heard", files_of(FIXTURES / "iris.onnx"))
    registry.settled("heard")
    registry.call("PUT", "/v1/models/heard/aliases/champion", {"version": 1, "expected_version": None}).expect(200)
    registry.call("POST", "/v1/models", {"name": "not-heard"}).expect(201)
    registry.eventually(lambda: receiver.of_type("alias.set"), "the webhook of the alias")

    webhook = Webhook(created["secret"])
    for headers, content in receiver.received:
        event = webhook.verify(content, headers)
        assert event["id"] == headers["webhook-id"]
        with pytest.raises(WebhookVerificationError):
            webhook.verify(content + b" ", headers)
    wanted = {
        "subscription.tested", "model.created", "version.registered", "version.ready", "version.packaged", "alias.set",
    }
    registry.eventually(lambda: {event["type"] for event in receiver.events()} >= wanted or None, "every event")
    # A version that is judged before its client finalizes it is not finalized any more.
    assert {event["type"] for event in receiver.events()} - {"version.finalized"} == wanted
    assert {event.get("model") for event in receiver.events()} == {"heard", None}

    deliveries = registry.eventually(lambda: delivered(registry, subscription, len(wanted)), "the deliveries' log")
    assert all(delivery["attempts"][-1]["status"] == 204 for delivery in deliveries)

    registry.call("DELETE", subscription).expect(200)
    assert registry.call("GET", subscription).status == 404
    before = len(receiver.received)
    registry.call("DELETE", "/v1/models/heard/aliases/champion?expected_version=1")
    registry.call("PATCH", "/v1/models/heard", {"description": "nobody hears this"}).expect(200)
    assert len(receiver.received) == before


def test_what_is_sent_is_a_cloud_event_to_the_public_library(registry: Registry, receiver: Receiver) -> None:
    body = {"url": receiver.url, "model": "cloudy"}
    subscription = registry.call("POST", "/v1/subscriptions", body).expect(201)
    registry.call("POST", "/v1/models", {"name": "cloudy"}).expect(201)
    registry.call("PATCH", "/v1/models/cloudy", {"description": "a"}).expect(200)
    registry.eventually(lambda: receiver.of_type("model.updated"), "the webhook of the change")
    for headers, content in receiver.received:
        event = from_http_event(HTTPMessage(headers, content))
        assert event.get_type() in ("model.created", "model.updated")
        assert event.get_source() == "/t/default"
        assert event.get_extension("model") == event.get_extension("modelid") == "cloudy"
        assert isinstance(event.get_data(), dict)
    places = [json.loads(content)["chainsequence"] for _, content in receiver.received]
    assert places == sorted(places)
    registry.call("DELETE", f"/v1/subscriptions/{subscription['id']}").expect(200)


def delivered(registry: Registry, subscription: str, count: int) -> list[dict] | None:
    deliveries = registry.call("GET", f"{subscription}/deliveries").expect(200)["deliveries"]
    done = [delivery for delivery in deliveries if delivery["status"] == "delivered"]
    return done if len(done) >= count - 1 else None


def test_a_failed_delivery_stays_due_and_says_why(registry: Registry, receiver: Receiver) -> None:
    receiver.statuses = [500]
    body = {"url": receiver.url, "model": "failing", "event_types": ["model.created"]}
    created = registry.call("POST", "/v1/subscriptions", body).expect(201)
    registry.call("POST", "/v1/models", {"name": "failing"}).expect(201)

    def attempted() -> dict | None:
        answer = registry.call("GET", f"/v1/subscriptions/{created['id']}/deliveries").expect(200)
        return next((one for one in answer["deliveries"] if one["attempts"]), None)

    delivery = registry.eventually(attempted, "the first attempt")
    assert (delivery["status"], delivery["event_type"]) == ("pending", "model.created")
    (attempt,) = delivery["attempts"]
    assert (attempt["status"], attempt["error"]) == (500, "not_2xx")
    assert delivery["next_attempt_at"] > attempt["at"]
    registry.call("DELETE", f"/v1/subscriptions/{created['id']}").expect(200)


@pytest.mark.parametrize(
    "url", ["", "ftp://example.com/", "http://example.com/", "https://10.0.0.1/", "https://user:word@example.com/"]
)
def test_a_bad_address_is_refused(registry: Registry, url: str) -> None:
    error = registry.call("POST", "/v1/subscriptions", {"url": url}).expect(400)["error"]
    assert (error["code"], error["details"]["field"]) == ("invalid_argument", "url")


def verified_by_mlflow(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """The verification that MLflow's documentation gives to receivers."""
    signature = headers["x-mlflow-signature"]
    if not signature.startswith("v1,"):
        return False
    signed = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.{body.decode()}"
    expected = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(signature.removeprefix("v1,"), base64.b64encode(expected).decode())


def test_one_delivery_satisfies_the_libraries_of_both_conventions(registry: Registry, receiver: Receiver) -> None:
    created = registry.call("POST", "/v1/subscriptions", {"url": receiver.url, "model": "twice"}).expect(201)
    own = {
        "name": "own-secret",
        "url": receiver.url,
        "secret": "my own secret",
        "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}],
    }
    registry.call("POST", "/api/2.0/mlflow/webhooks", own).expect(200)
    registry.call("POST", "/v1/models", {"name": "twice", "description": "told twice"}).expect(201)
    registry.eventually(lambda: len(receiver.received) >= 2 or None, "both deliveries")
    for headers, body in receiver.received:
        is_mlflow = "entity" in json.loads(body)
        secret = own["secret"] if is_mlflow else created["secret"]
        assert verified_by_mlflow(secret, headers, body)
        assert not verified_by_mlflow(secret, headers, body + b" ")
        encoded = f"whsec_{base64.b64encode(secret.encode()).decode()}" if is_mlflow else secret
        Webhook(encoded).verify(body, headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(encoded).verify(body + b" ", headers)
    told = next(json.loads(body) for _, body in receiver.received if "entity" in json.loads(body))
    assert (told["entity"], told["action"]) == ("registered_model", "created")
    assert told["data"] == {"name": "twice", "tags": {}, "description": "told twice"}
