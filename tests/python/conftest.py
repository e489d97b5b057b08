"""Starts the registry that the tests talk to: the built binary, on free ports, forgetting everything at the end."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
STOP_SECONDS = 20
# Generous, because a busy machine is no failure; nothing waits longer than it must.
SETTLE_SECONDS = 120


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)

    def expect(self, status: int):
        """The body as JSON; fails if the status is another."""
        assert self.status == status, f"{self.status} instead of {status}: {self.body[:2000].decode(errors='replace')}"
        return self.json() if self.body else None


def send(method: str, url: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Answer:
    """One request with exactly these headers, since presigned requests bind them."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname, parts.port, timeout=120)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, body=body, headers=headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    base_url: str
    s3_url: str

    bucket = "slipway"

    def call(self, method: str, path: str, body: dict | None = None, **headers: str) -> Answer:
        headers = {"x-slipway-actor": "python-tests", **headers}
        if body is None:
            return send(method, self.base_url + path, headers)
        headers["content-type"] = "application/json"
        return send(method, self.base_url + path, headers, json.dumps(body).encode())

    def settled(self, model: str, version: int = 1) -> dict:
        """The version once it is judged, and packaged if it is ready."""
        deadline = time.monotonic() + SETTLE_SECONDS
        answer = None
        while time.monotonic() < deadline:
            answer = self.call("GET", f"/v1/models/{model}/versions/{version}")
            # A drop has no model until it is whole.
            if answer.status == 200:
                view = answer.json()
                is_done = view["status"] == "FAILED_REGISTRATION" or "package" in view
                if is_done:
                    return view
            time.sleep(0.25)
        pytest.fail(f"version {version} of `{model}` did not settle: {answer.status} {answer.body[:2000]!r}")

    def aws(self, *words: str | Path) -> str:
        """Runs the stock AWS CLI against the registry's S3."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= {
            "AWS_ACCESS_KEY_ID": "slipway",
            "AWS_SECRET_ACCESS_KEY": "slipway-local",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # Whoever runs the tests may have settings of their own.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        command = [str(Path(sys.executable).parent / "aws"), "--endpoint-url", self.s3_url, *map(str, words)]
        done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, f"aws {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        return done.stdout


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def binary() -> Path:
    named = os.environ.get("SLIPWAY_BINARY")
    path = Path(named) if named else ROOT / "target" / "debug" / "slipway"
    if not path.is_file():
        pytest.fail(f"there is no {path}; run `cargo build`, or name the binary in SLIPWAY_BINARY")
    return path


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    log = folder / "log"
    port, s3_port = free_ports(2)
    command = [binary(), "--in-memory", "--port", str(port), "--s3-port", str(s3_port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}", log)
        yield Registry(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{s3_port}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Shown by pytest only if a test failed.
        print(f"--- the registry's last words, from {log}")
        print("\n".join(log.read_text(errors="replace").splitlines()[-200:]))


def wait_until_healthy(process: subprocess.Popen, base_url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the registry ended with {process.returncode}:\n{log.read_text(errors='replace')}")
        try:
            with urllib.request.urlopen(f"{base_url}/healthz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.05)
    pytest.fail(f"the registry did not become healthy:\n{log.read_text(errors='replace')}")
