"""What is wrong is refused by name, with the one envelope, and leaves nothing half-written."""

import hashlib

import pytest

from conftest import Registry, send
from test_journey import FIXTURES, files_of, put

DIGEST = "sha256:" + hashlib.sha256(b"").hexdigest()


def refusal(answer, status: int) -> dict:
    """The error of an answer; fails unless it is our envelope with this status."""
    error = answer.expect(status)["error"]
    assert error["message"] and error["request_id"] and isinstance(error["retryable"], bool)
    assert answer.headers["x-request-id"] == error["request_id"]
    return error


@pytest.fixture(scope="module")
def model(registry: Registry) -> str:
    registry.call("POST", "/v1/models", {"name": "refusing"}).expect(201)
    return "/v1/models/refusing"


def test_a_body_that_is_no_json_is_malformed(registry: Registry) -> None:
    headers = {"content-type": "application/json"}
    for body in (b"", b"{", b'{"name": "two"} {}', b"\xff\xfe"):
        answer = send("POST", f"{registry.base_url}/v1/models", headers, body)
        assert refusal(answer, 400)["code"] == "malformed_body", body
    answer = send("POST", f"{registry.base_url}/v1/models", {"content-type": "text/plain"}, b"{}")
    assert refusal(answer, 415)["code"] == "unsupported_media_type"
    answer = send("POST", f"{registry.base_url}/v1/models", headers, b" " * 6_000_000)
    assert refusal(answer, 413)["code"] == "body_too_large"


@pytest.mark.parametrize(
    "body",
    [{}, {"name": 7}, {"name": ""}, {"name": "a/b"}, {"name": ".."}, {"name": "x" * 300}, {"name": "x", "colour": 1}],
    ids=str,
)
def test_a_bad_model_is_refused(registry: Registry, body: dict) -> None:
    assert refusal(registry.call("POST", "/v1/models", body), 400)["code"] == "invalid_argument"


@pytest.mark.parametrize(
    "path",
    ["", "..", "../up", "a/../b", "/absolute", "a\\b", "a\0b", "a//b", "./a", "C:/a", "x" * 2000, "a/", "line\nbreak"],
    ids=ascii,
)
def test_a_path_trick_is_refused(registry: Registry, model: str, path: str) -> None:
    artifacts = [{"path": path, "size_bytes": 1, "digest": DIGEST}]
    answer = registry.call("POST", f"{model}/versions", {"artifacts": artifacts})
    assert refusal(answer, 400)["code"] == "invalid_argument"


@pytest.mark.parametrize(
    "artifacts",
    [
        [],
        [{"path": "a", "size_bytes": -1, "digest": DIGEST}],
        [{"path": "a", "size_bytes": 5 << 40, "digest": DIGEST}],
        [{"path": "a", "size_bytes": 1 << 70, "digest": DIGEST}],
        [{"path": "a", "size_bytes": 1, "digest": "sha256:short"}],
        [{"path": "a", "size_bytes": 1, "digest": DIGEST}] * 2,
        [{"path": f"{number}", "size_bytes": 1, "digest": DIGEST} for number in range(10_001)],
    ],
    ids=["none", "negative", "5 TiB", "absurd", "digest", "twice", "too many"],
)
def test_bad_artifacts_are_refused(registry: Registry, model: str, artifacts: list[dict]) -> None:
    answer = registry.call("POST", f"{model}/versions", {"artifacts": artifacts})
    assert refusal(answer, 400)["code"] in ("invalid_argument", "malformed_body")


def test_nothing_was_registered_meanwhile(registry: Registry, model: str) -> None:
    assert registry.call("GET", f"{model}/versions").expect(200)["versions"] == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/missing", 404, "model_not_found"),
        ("GET", "/v1/models/refusing/versions/7", 404, "version_not_found"),
        ("GET", "/v1/models/refusing/versions/seven", 400, "invalid_argument"),
        ("GET", "/v1/models/refusing/aliases/champion", 404, "alias_not_found"),
        ("GET", "/v1/models?limit=0", 400, "invalid_argument"),
        ("GET", "/v1/models?limit=101", 400, "invalid_argument"),
        ("GET", "/v1/models?cursor=made-up", 400, "invalid_cursor"),
        ("GET", "/v1/models?colour=red", 400, "invalid_argument"),
        ("GET", "/t/Not%20A%20Tenant/v1/models", 400, "invalid_argument"),
        ("GET", "/v1/nothing", 404, "route_not_found"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_a_wrong_question_is_named(
    registry: Registry, model: str, method: str, path: str, status: int, code: str
) -> None:
    assert refusal(registry.call(method, path), status)["code"] == code


def test_a_key_used_for_another_request_is_refused(registry: Registry) -> None:
    key = {"idempotency-key": "once"}
    first = registry.call("POST", "/v1/models", {"name": "once"}, **key)
    again = registry.call("POST", "/v1/models", {"name": "once"}, **key)
    assert (again.status, again.body) == (first.status, first.body)
    answer = registry.call("POST", "/v1/models", {"name": "another"}, **key)
    assert refusal(answer, 422)["code"] == "idempotency_key_reused"


def test_a_version_without_its_files_cannot_be_finalized_or_promoted(registry: Registry) -> None:
    registry.call("POST", "/v1/models", {"name": "unready"}).expect(201)
    artifacts = [{"path": "model.onnx", "size_bytes": 1, "digest": DIGEST}]
    registry.call("POST", "/v1/models/unready/versions", {"artifacts": artifacts}).expect(201)
    finalized = registry.call("POST", "/v1/models/unready/versions/1/finalize", {})
    error = refusal(finalized, 409)
    assert (error["code"], error["details"]["missing"]) == ("upload_incomplete", ["model.onnx"])
    promoted = registry.call("PUT", "/v1/models/unready/aliases/a", {"version": 1, "expected_version": None})
    assert refusal(promoted, 409)["code"] == "version_not_ready"
    missing = registry.call("PUT", "/v1/models/unready/aliases/a", {"version": 2, "expected_version": None})
    assert refusal(missing, 404)["code"] == "version_not_found"
    assert registry.call("GET", "/v1/models/unready/versions/1").expect(200)["status"] == "PENDING_REGISTRATION"


def test_a_wrong_upload_is_refused_and_leaves_the_version_pending(registry: Registry) -> None:
    file = FIXTURES / "iris.onnx"
    content = file.read_bytes()
    registry.call("POST", "/v1/models", {"name": "wrong"}).expect(201)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    artifact = {"path": file.name, "size_bytes": len(content), "digest": digest}
    registry.call("POST", "/v1/models/wrong/versions", {"artifacts": [artifact]}).expect(201)
    (upload,) = registry.call("POST", "/v1/models/wrong/versions/1/uploads", {}).expect(200)["uploads"]
    changed = bytearray(content)
    changed[-1] ^= 1
    answer = send(upload["method"], upload["url"], upload["headers"], bytes(changed))
    assert answer.status == 400, answer.body
    # Neither other headers nor another length pass the signature.
    longer = {**upload["headers"], "content-length": str(len(content) + 1)}
    assert send(upload["method"], upload["url"], longer, content + b"x").status == 403
    assert send(upload["method"], upload["url"], {}, content).status == 403
    assert registry.call("POST", "/v1/models/wrong/versions/1/finalize", {}).status == 409
    view = registry.call("GET", "/v1/models/wrong/versions/1").expect(200)
    assert view["status"] == "PENDING_REGISTRATION"


def test_a_pickle_that_runs_code_fails_with_a_report_that_says_where(registry: Registry) -> None:
    # What `pickle.dumps` makes of an object whose `__reduce__` calls `os.system`.
    content = b"cposix\nsystem\n(S'true'\ntR."
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    registry.call("POST", "/v1/models", {"name": "evil"}).expect(201)
    artifact = {"path": "model.pkl", "size_bytes": len(content), "digest": digest}
    registry.call("POST", "/v1/models/evil/versions", {"artifacts": [artifact]}).expect(201)
    (upload,) = registry.call("POST", "/v1/models/evil/versions/1/uploads", {}).expect(200)["uploads"]
    put(upload, content)
    assert registry.settled("evil")["status"] == "FAILED_REGISTRATION"
    report = registry.call("GET", "/v1/models/evil/versions/1/report").expect(200)
    assert (report["verdict"], "model.pkl" in report["summary"]) == ("unsafe", True)
    assert {finding["path"] for finding in report["findings"]} == {"model.pkl"}
    promoted = registry.call("PUT", "/v1/models/evil/aliases/a", {"version": 1, "unconditional": True})
    assert refusal(promoted, 409)["code"] == "version_not_ready"


def test_a_drop_that_breaks_a_rule_stays_and_is_told(registry: Registry) -> None:
    target = f"s3://{registry.bucket}/dropzone/default/odd/"
    registry.aws("s3", "cp", FIXTURES / "iris.onnx", target + "a//b.onnx")
    listed = registry.aws("s3", "ls", "--recursive", target)
    assert "a//b.onnx" in listed
    event = registry.eventually(lambda: first_refusal(registry), "the refusal of the drop")
    assert event["data"]["code"] == "invalid_argument"
    assert "a//b.onnx" in registry.aws("s3", "ls", "--recursive", target)
    assert registry.call("GET", "/v1/models/odd").status == 404


def first_refusal(registry: Registry) -> dict | None:
    answer = registry.call("GET", "/v1/models/odd/events")
    events = answer.json().get("events", []) if answer.status == 200 else []
    return next((event for event in events if event["type"] == "drop.refused"), None)


def test_the_fixtures_are_whole() -> None:
    assert {"MLmodel", "model.pkl"} <= set(files_of(FIXTURES / "iris-sklearn"))
