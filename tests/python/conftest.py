"""Starts the registries that the tests talk to: the built binary, on free ports."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
STOP_SECONDS = 20
# Generous, because a busy machine is no failure; nothing waits longer than it must.
SETTLE_SECONDS = 120


T = TypeVar("T")


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

    def eventually(self, look: Callable[[], T | None], what: str) -> T:
        """What a look finds, as soon as it finds something."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            found = look()
            if found is not None:
                return found
            time.sleep(0.25)
        pytest.fail(f"{what} did not come")

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


def mlflow_python(which: str) -> Path:
    """The Python that has a stock client of MLflow, `new` or `old`; `tests/run` makes its environment."""
    python = Path(sys.executable).parent.parent / f"mlflow-{which}" / "bin" / "python"
    if not python.is_file():
        pytest.fail(f"there is no {python}; run `tests/run python`")
    return python


def mlflow_client(which: str, code: str, *words: str, cwd: Path, fails: bool = False, **settings: str) -> str:
    """Runs code with a stock client that has these settings and no others; answers what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    environment |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "HOME": str(cwd),
        **settings,
    }
    command = [mlflow_python(which), "-W", "ignore", "-c", code, *words]
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, timeout=300)
    assert (done.returncode != 0) == fails, f"{done.stdout}{done.stderr}"
    return done.stderr if fails else done.stdout


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


class Host:
    """The built binary as a process, started and ended by the test; the log goes on over restarts."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.log = folder / "log"
        port, s3_port = free_ports(2)
        self.command = [binary(), *options, "--port", str(port), "--s3-port", str(s3_port)]
        self.registry = Registry(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{s3_port}")
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT)
        wait_until_healthy(self.process, self.registry.base_url, self.log)

    def kill(self) -> None:
        """Ends the process as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends the process as a supervisor would; pytest shows its last words if a test failed."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        print(f"--- the registry's last words, from {self.log}")
        print("\n".join(self.log.read_text(errors="replace").splitlines()[-200:]))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that all tests share, and that forgets everything at the end."""
    host = Host(tmp_path_factory.mktemp("registry"), "--in-memory")
    try:
        host.start()
        yield host.registry
    finally:
        host.stop()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A registry of the test's own, not started yet, that keeps its data in a folder."""
    host = Host(tmp_path, "--data-dir", str(tmp_path / "data"))
    try:
        yield host
    finally:
        host.stop()


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
