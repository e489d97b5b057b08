"""A bank promotes a model: policies, people, checks, waivers, stages and rollouts, through both APIs, and the proof of it."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest

from conftest import Registry, binary, send
from test_journey import FIXTURES, files_of, register
from test_webhooks import Receiver, receiver  # noqa: F401 (a fixture)

MODEL = "/v1/models/loan"
REQUESTS = f"{MODEL}/promotion-requests"
NOT_WORSE = (
    "context.metrics has accuracy && (if context has holder && context.holder.metrics has accuracy "
    "then context.metrics.accuracy >= context.holder.metrics.accuracy - 10000 else true)"
)
PROTECTION = {
    "id": "serving",
    "aliases": ["champion"],
    "stages": ["Production"],
    "metrics": {"accuracy": {"digits": 6}},
    "conditions": [{"id": "accuracy", "when": NOT_WORSE, "satisfied_by": "train on"}],
    "waiver_groups": ["board"],
}
APPROVED = {
    "id": "people",
    "aliases": ["champion"],
    "conditions": [],
    "approval": {"needed": 2, "groups": ["risk"]},
    "checks": [{"name": "smoke"}],
}


def as_one_of(who: str, *groups: str) -> dict[str, str]:
    return {"x-slipway-actor": who, "x-slipway-groups": ",".join(groups)}


def protect(registry: Registry, *protections: dict) -> None:
    revision = registry.call("GET", f"{MODEL}/protections").expect(200)["revision"]
    body = {"expected_revision": revision, "protections": list(protections)}
    registry.call("PUT", f"{MODEL}/protections", body).expect(200)


def set_alias(registry: Registry, version: int):
    body = {"version": version, "unconditional": True, "reason": "of the tests"}
    return registry.call("PUT", f"{MODEL}/aliases/champion", body)


def mlflow(registry: Registry, route: str, **body: object):
    return registry.call("POST", f"/api/2.0/mlflow/{route}", body)


@pytest.fixture
def loan(registry: Registry, receiver: Receiver) -> Receiver:  # noqa: F811
    """Three ready versions, the second too weak for the place of the first, and a subscriber."""
    for number, accuracy in enumerate((0.97, 0.955, 0.965), start=1):
        register(registry, "loan", files_of(FIXTURES / "iris.onnx"), number, metrics={"accuracy": accuracy})
    registry.call("POST", "/v1/subscriptions", {"url": receiver.url, "model": "loan"}).expect(201)
    for number in range(1, 4):
        assert registry.settled("loan", number)["status"] == "READY"
    return receiver


def verify(export: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([binary(), "verify", export, *words], text=True, capture_output=True, timeout=60)


def test_a_model_is_promoted_as_a_bank_would(registry: Registry, loan: Receiver, tmp_path: Path) -> None:
    # A gate, through both APIs.
    protect(registry, PROTECTION)
    set_alias(registry, 1).expect(200)
    body = {"version": 2, "alias": "champion"}
    assert registry.call("POST", f"{MODEL}/simulate", body).expect(200)["allowed"] is False
    denied = set_alias(registry, 2).expect(403)["error"]
    assert (denied["code"], denied["details"]["conditions"][0]["id"]) == (
        "promotion_denied",
        "model/serving/accuracy",
    )
    denied = mlflow(registry, "registered-models/alias", name="loan", alias="champion", version="2").expect(403)
    assert denied["error_code"] == "PERMISSION_DENIED"
    assert "train on" in denied["message"]
    stage = {"name": "loan", "stage": "Production", "archive_existing_versions": False}
    mlflow(registry, "model-versions/transition-stage", version="1", **stage).expect(200)
    denied = mlflow(registry, "model-versions/transition-stage", version="2", **stage).expect(403)
    assert denied["error_code"] == "PERMISSION_DENIED"

    # A waiver, by who may.
    waiver = {
        "conditions": ["model/serving/accuracy"],
        "version": 2,
        "reason": "ticket 42",
        "expires_at": (datetime.now(UTC) + timedelta(days=30)).isoformat(),
    }
    registry.call("POST", f"{MODEL}/waivers", waiver, **as_one_of("rita", "risk")).expect(403)
    granted = registry.call("POST", f"{MODEL}/waivers", waiver, **as_one_of("bea", "board")).expect(201)
    set_alias(registry, 2).expect(200)
    registry.call("DELETE", f"{MODEL}/waivers/{granted['id']}", **as_one_of("bea", "board")).expect(200)
    set_alias(registry, 1).expect(200)

    # People and a check.
    protect(registry, PROTECTION, APPROVED)
    asked = registry.call("POST", REQUESTS, {"version": 3, "alias": "champion"}, **as_one_of("ada", "risk"))
    request = f"{REQUESTS}/{asked.expect(201)['id']}"
    registry.call("POST", f"{request}/approve", {}, **as_one_of("ada", "risk")).expect(403)
    registry.call("POST", f"{request}/approve", {}, **as_one_of("ben", "dev")).expect(403)
    registry.call("POST", f"{request}/approve", {}, **as_one_of("rita", "risk")).expect(200)
    registry.call("DELETE", MODEL).expect(409)
    registry.call("DELETE", f"{MODEL}/versions/3").expect(409)
    wanted = registry.eventually(lambda: loan.of_type("check.requested"), "the question to the check")
    answer = {"check": "smoke", "token": wanted["data"]["token"], "passed": True, "details": "42 of 42"}
    registry.call("POST", f"{request}/checks", {**answer, "token": "guessed"}).expect(403)
    assert registry.call("POST", f"{request}/checks", answer).expect(200)["status"] == "open"
    last = registry.call("POST", f"{request}/approve", {}, **as_one_of("rob", "risk")).expect(200)
    assert last["status"] == "promoted"
    assert registry.call("GET", f"{MODEL}/aliases/champion").expect(200)["version"] == 3
    # Going back to what it held needs nobody.
    assert registry.call("POST", f"{MODEL}/aliases/champion/rollback", {}).expect(200)["version"] == 1

    # Stages of its own, through MLflow's API.
    stages = [{"name": "Lab"}, {"name": "Live", "exclusive": True}, {"name": "Retired"}]
    rules = {"expected_revision": 0, "stages": stages, "transitions": {"Lab": ["Live"]}, "archive": "Retired"}
    registry.call("PUT", f"{MODEL}/stages", rules).expect(200)
    for version, to in (("2", "Lab"), ("2", "live"), ("3", "Lab"), ("3", "Live")):
        stage = {"name": "loan", "version": version, "stage": to, "archive_existing_versions": False}
        mlflow(registry, "model-versions/transition-stage", **stage).expect(200)
    path = "/api/2.0/mlflow/registered-models/get-latest-versions?name=loan&stages=Live"
    latest = registry.call("GET", path).expect(200)["model_versions"]
    assert [version["version"] for version in latest] == ["3"]
    assert registry.call("GET", f"{MODEL}/versions/2").expect(200)["stage"] == "Retired"

    # What is served.
    place = "/v1/rollouts/prod/loan"
    served = {
        "model": "loan",
        "strategy": "single",
        "expected_revision": 0,
        "deployments": [{"version": 1, "role": "champion", "weight": 10_000}],
    }
    registry.call("PUT", place, served).expect(200)
    registry.call("PUT", place, served).expect(409)
    assert registry.call("GET", place).expect(200)["revision"] == 1

    is_proven(registry, tmp_path)


def is_proven(registry: Registry, folder: Path) -> None:
    """The export verifies, and every edit of it is named."""
    exported = registry.call("GET", f"{MODEL}/audit")
    assert exported.status == HTTPStatus.OK
    lines = exported.body.decode().splitlines()
    kinds = {json.loads(line).get("type") for line in lines}
    assert {"promotion.denied", "promotion.approved", "check.answered", "rollout.changed", "stages.changed"} <= kinds
    refused = [json.loads(line)["data"].get("action") for line in lines[1:] if "promotion.denied" in line]
    assert {"set_alias", "change_stage", "promote_request", "answer_check", "grant_waiver"} <= set(refused)
    whole = folder / "audit.jsonl"
    edited = folder / "edited.jsonl"
    whole.write_text("\n".join(lines) + "\n")
    proven = verify(whole)
    assert proven.returncode == 0, proven.stderr
    head = f"{len(lines) - 1}={json.loads(lines[-1])['chain']['hash']}"
    at = len(lines) // 2
    forged = lines[at].replace('"actor":"', '"actor":"not-')
    for expected, edit in (
        (f"event {at} was changed", [*lines[:at], forged, *lines[at + 1 :]]),
        (f"event {at} was dropped", [*lines[:at], *lines[at + 1 :]]),
        (f"event {at + 1} was inserted", [*lines[: at + 1], lines[at], *lines[at + 1 :]]),
        (f"event {at} was reordered", [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]),
        (f"event {len(lines) - 1} was dropped", lines[:-1]),
        ("the header", lines[1:]),
        ("the header", []),
    ):
        edited.write_text("\n".join(edit) + "\n")
        done = verify(edited)
        assert done.returncode == 1, done.stdout
        assert expected in done.stderr
    assert verify(whole, "--head", head).returncode == 0
    assert verify(whole, "--head", head[:-1] + "x").returncode == 1
    for form, sign in (("html", "<!doctype html>"), ("md", "# Audit of `loan`")):
        report = send("GET", f"{registry.base_url}{MODEL}/audit?format={form}")
        text = report.body.decode()
        assert report.status == HTTPStatus.OK
        assert text.startswith(sign)
        assert "train on" in text
