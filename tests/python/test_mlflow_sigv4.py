"""MLflow's stock client signs properly with `clients/python`, as a gateway finds that computes signatures by itself."""

import datetime
import hashlib
import hmac
import json
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote_plus, urlsplit

import pytest

from conftest import Host, mlflow_client

ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "a/session+token=="
REGION, SERVICE = "eu-central-1", "execute-api"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_SESSION_TOKEN": SESSION_TOKEN,
    "AWS_REGION": REGION,
}


def encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def expected_signature(method: str, target: str, headers: dict[str, str], body: bytes) -> str:
    """The value of `Authorization`, computed from the request as it arrived and from nothing else.

    After https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, without botocore.
    """
    given = dict(part.split("=", 1) for part in headers["authorization"].split(" ", 1)[1].split(", "))
    path, _, query = target.partition("?")
    pairs = [pair.partition("=")[::2] for pair in query.split("&")] if query else []
    canonical_query = "&".join(sorted(f"{encoded(unquote_plus(name))}={encoded(unquote_plus(value))}" for name, value in pairs))
    canonical_headers = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in given["SignedHeaders"].split(";"))
    canonical = "\n".join(
        # The path is encoded once more than on the wire, for every service but S3.
        [method, "/".join(encoded(part) for part in path.split("/")), canonical_query, canonical_headers,
         given["SignedHeaders"], hashlib.sha256(body).hexdigest()]
    )
    stamp = headers["x-amz-date"]
    scope = f"{stamp[:8]}/{REGION}/{SERVICE}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={given['SignedHeaders']}, Signature={signature}"


class Gateway(BaseHTTPRequestHandler):
    """Lets through to the registry what is signed as it arrived, and refuses the rest as an HTTP API does."""

    protocol_version = "HTTP/1.1"
    registry = ""
    seen: list[tuple[str, str, bool]] = []

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        stamp = headers.get("x-amz-date", "")
        is_signed = (
            "authorization" in headers
            and headers.get("x-amz-security-token") == SESSION_TOKEN
            and {"host", "x-amz-date", "x-amz-security-token"} <= set(headers["authorization"].split("SignedHeaders=")[-1].split(",")[0].split(";"))
            and abs(datetime.datetime.now(datetime.UTC) - datetime.datetime.strptime(stamp + "+0000", "%Y%m%dT%H%M%SZ%z")) < datetime.timedelta(minutes=5)
            and hmac.compare_digest(headers["authorization"], expected_signature(self.command, self.path, headers, body))
        )
        self.seen.append((self.command, self.path, is_signed))
        if not is_signed:
            return self.answer(403, {"content-type": "application/json"}, b'{"message":"Forbidden"}')
        parts = urlsplit(self.registry)
        connection = HTTPConnection(parts.hostname, parts.port, timeout=60)
        passed = {name: headers[name] for name in ("content-type",) if name in headers}
        connection.request(self.command, self.path, body=body, headers={**passed, "x-slipway-actor": "signed"})
        answer = connection.getresponse()
        kept = {name: value for name, value in answer.getheaders() if name.lower() in ("content-type", "location")}
        self.answer(answer.status, kept, answer.read())
        connection.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory):
    host = Host(tmp_path_factory.mktemp("sigv4"), "--in-memory")
    host.start()
    Gateway.registry = host.registry.base_url
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    host.stop()


# What broke the client's own signer: spaces and repeated keys in queries, and files as bodies; then redirects.
SESSION = """
import io, json, os, sys
import mlflow, requests
from mlflow import MlflowClient
client = MlflowClient()
experiment = client.create_experiment("a b+c%/ä", tags={"k": "v w"})
run = client.create_run(experiment)
client.log_metric(run.info.run_id, "loss", 0.5)
client.set_tag(run.info.run_id, "note", "a & b = c")
runs = client.search_runs([experiment], "metrics.loss < 1 AND tags.note LIKE '%b = c'", order_by=["metrics.loss DESC", "start_time ASC"])
found = client.get_experiment_by_name("a b+c%/ä")
os.makedirs("out/dir with space", exist_ok=True)
with open("out/dir with space/file +1.txt", "w") as file:
    file.write("hello")
client.log_artifacts(run.info.run_id, "out", "files")
listed = [item.path for item in client.list_artifacts(run.info.run_id, "files/dir with space")]
path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="files/dir with space/file +1.txt", dst_path=".")

from slipway_mlflow import SigV4
base = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow-artifacts/artifacts"
root = f"{experiment}/{run.info.run_id}/artifacts"
def once():
    yield b"by "
    yield b"chunks"
answers = {}
with open("big.bin", "wb+") as file:
    file.write(os.urandom(3_000_000))
    file.seek(0)
    answers["file"] = requests.put(f"{base}/{root}/plain/big.bin", data=file, auth=SigV4())
answers["stream"] = requests.put(f"{base}/{root}/plain/stream", data=once(), auth=SigV4())
answers["empty"] = requests.put(f"{base}/{root}/plain/empty", data=b"", auth=SigV4())
answers["redirect"] = requests.get(f"{base}/{root}/plain/stream", auth=SigV4())
answers["repeated"] = requests.get(f"{base}?path={root}&path=x&a=%2B&b&a=~", auth=SigV4())
print(json.dumps({
    "runs": len(runs), "found": found.experiment_id == experiment, "listed": listed, "text": open(path).read(),
    "statuses": {name: answer.status_code for name, answer in answers.items()},
    "text of the redirect": answers["redirect"].text, "leaked": "X-Amz-Security-Token" in answers["redirect"].request.headers,
}))
"""


def test_what_the_stock_signer_breaks_on_is_signed_properly(gateway: str, tmp_path: Path) -> None:
    settings = {"MLFLOW_TRACKING_URI": gateway, "MLFLOW_TRACKING_AUTH": "slipway-sigv4", **CREDENTIALS}
    Gateway.seen.clear()
    said = json.loads(mlflow_client("new", SESSION, cwd=tmp_path, **settings))
    assert said == {
        "runs": 1, "found": True, "listed": ["files/dir with space/file +1.txt"], "text": "hello",
        "statuses": {"file": 200, "stream": 200, "empty": 200, "redirect": 200, "repeated": 200},
        "text of the redirect": "by chunks", "leaked": False,
    }
    assert [what for what in Gateway.seen if not what[2] and "server-info" not in what[1]] == []
    assert any("%20" in path for _, path, _ in Gateway.seen), "a query or path with a space was signed"
    assert not any("+" in path for _, path, _ in Gateway.seen), "in SigV4's spelling"


def test_the_verifier_and_botocores_own_signer_agree() -> None:
    botocore = pytest.importorskip("botocore.auth")
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = "http://127.0.0.1:1234/a%20b/c%2Bd?x=a%20b&x=c&y="
    request = AWSRequest(method="POST", url=url, data=b"body", headers={"Content-Type": "text/plain"})
    botocore.SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY, SESSION_TOKEN), SERVICE, REGION).add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()} | {"host": "127.0.0.1:1234"}
    assert expected_signature("POST", "/a%20b/c%2Bd?x=a%20b&x=c&y=", headers, b"body") == headers["authorization"]


def test_what_is_not_signed_is_refused_and_the_client_says_so(gateway: str, tmp_path: Path) -> None:
    settings = {"MLFLOW_TRACKING_URI": gateway, "MLFLOW_TRACKING_AUTH": "slipway-sigv4", **CREDENTIALS}
    settings["AWS_SECRET_ACCESS_KEY"] = "another"
    create = "import mlflow; mlflow.create_experiment('x')"
    # The gateway's own words; the client knows no code for them.
    refused = mlflow_client("new", create, cwd=tmp_path, fails=True, **settings)
    assert "403" in refused or "Forbidden" in refused
    without = {name: value for name, value in settings.items() if not name.startswith("AWS_")}
    refused = mlflow_client("new", create, cwd=tmp_path, fails=True, **without)
    assert "there are no AWS credentials" in refused
