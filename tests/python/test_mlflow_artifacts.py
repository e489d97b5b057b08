"""Stock clients of MLflow keep files with runs, and get them back as they were; with tokens, too."""

import json
from pathlib import Path

import pytest

from conftest import Host, mlflow_client

# What a client does with the files of a run; it prints what came of it as JSON.
FILES = """
import hashlib, json, os, sys, tempfile
import mlflow
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()

# `log_image` of clients up to 3.10 makes names in which parts look like escapes.
sizes = {"empty": 0, "small ä.txt": 100, "tree/a b/c.txt": 10, "tree/100%.txt": 5, "tree/dog%step%100%c4.png": 7}
sizes["large.bin"] = int(sys.argv[1])
source = tempfile.mkdtemp()
for name, size in sizes.items():
    path = os.path.join(source, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(os.urandom(size))
said = {"refused": None}
mlflow.set_experiment("files")
with mlflow.start_run() as run:
    root = run.info.artifact_uri
    for name in ("empty", "small ä.txt"):
        mlflow.log_artifact(os.path.join(source, name))
    mlflow.log_artifacts(os.path.join(source, "tree"), "tree")
    try:
        mlflow.log_artifact(os.path.join(source, "large.bin"), "sub/folder")
    except Exception as error:
        said["refused"] = str(error)
client = MlflowClient()
listed = lambda path=None: [[f.path, f.is_dir, f.file_size] for f in client.list_artifacts(run.info.run_id, path)]
said["listed"], said["tree"] = listed(), sorted([path.replace("\\x10", "%10"), *more] for path, *more in listed("tree"))
target = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, dst_path=tempfile.mkdtemp())
where = {name: os.path.join(target, "sub/folder/large.bin" if name == "large.bin" else name) for name in sizes}
# Clients decode the names that a listing shows, the oldest also this control.
for found in os.listdir(os.path.join(target, "tree")):
    if found.startswith("dog"):
        where["tree/dog%step%100%c4.png"] = os.path.join(target, "tree", found)
said["same"] = [name for name in sizes if os.path.exists(where[name]) and digest(where[name]) == digest(os.path.join(source, name))]
# A copy is given an alias and read at once: no client waits for it.
name = f"held-{run.info.run_id}"
client.create_registered_model(name)
client.create_model_version(name, root + "/tree", run.info.run_id)
if hasattr(client, "copy_model_version"):
    client.copy_model_version(f"models:/{name}/1", name + "-copy")
    name += "-copy"
client.set_registered_model_alias(name, "champion", "1")
held = mlflow.artifacts.download_artifacts(f"models:/{name}@champion", dst_path=tempfile.mkdtemp())
said["held"] = sorted(name.replace("\\x10", "%10") for name in os.listdir(held))
get_artifact_repository(root).delete_artifacts("tree")
said["left"] = [path for path, _, _ in listed()]
print(json.dumps(said))
"""
SMALL = ["empty", "small ä.txt", "tree/a b/c.txt", "tree/100%.txt", "tree/dog%step%100%c4.png"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory):
    host = Host(tmp_path_factory.mktemp("mlflow-artifacts"), "--in-memory")
    host.start()
    yield host
    host.stop()


def run(which: str, host: Host, folder: Path, size: int, **settings: str) -> dict:
    settings = {"MLFLOW_TRACKING_URI": f"{host.registry.base_url}/t/team-{which}", **settings}
    # Before its last line a client may greet.
    return json.loads(mlflow_client(which, FILES, str(size), cwd=folder, **settings).splitlines()[-1])


def check(said: dict, same: list[str], has_large: bool) -> None:
    listed = [["empty", False, 0], ["small ä.txt", False, 100], ["tree", True, None]]
    if has_large:
        listed.insert(2, ["sub", True, None])
    assert said["listed"] == listed
    image = "dog%step%100\ufffd.png"
    assert said["tree"] == [["tree/100%.txt", False, 5], ["tree/a b", True, None], [f"tree/{image}", False, 7]]
    assert said["held"] == ["100%.txt", "a b", image]
    assert said["same"] == same
    assert said["left"] == [path for path, _, _ in listed if path != "tree"]


def test_a_new_client_moves_every_byte_by_presigned_requests(host: Host, tmp_path: Path) -> None:
    said = run("new", host, tmp_path, 30_000_000)
    assert said["refused"] is None
    check(said, [*SMALL, "large.bin"], True)


def test_an_old_client_sends_small_files_and_is_told_what_to_do_with_large_ones(host: Host, tmp_path: Path) -> None:
    said = run("old", host, tmp_path, 30_000_000)
    assert "413" in said["refused"] and "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD=true" in said["refused"]
    check(said, SMALL, False)


def test_clients_with_tokens_do_what_their_tokens_allow(tmp_path: Path) -> None:
    host = Host(tmp_path, "--auth", "token", "--data-dir", "data")
    host.start()
    try:
        token = (tmp_path / "data" / "administrator-token").read_text().strip()
        assert token in host.log.read_text(), "it is shown at the first start"
        assert (tmp_path / "data" / "administrator-token").stat().st_mode & 0o077 == 0
        bearer = {"authorization": f"Bearer {token}"}
        path = "/t/team-new/v1/tokens"
        made = {}
        for name, actions in {"writer": ["read", "write", "promote"], "reader": ["read"]}.items():
            answer = host.registry.call("POST", path, {"name": name, "actions": actions}, **bearer)
            made[name] = answer.expect(201)["token"]
        said = run("new", host, tmp_path, 6_000_000, MLFLOW_TRACKING_TOKEN=made["writer"])
        check(said, [*SMALL, "large.bin"], True)
        said = run("new", host, tmp_path, 10, MLFLOW_TRACKING_USERNAME="ada", MLFLOW_TRACKING_PASSWORD=made["writer"])
        assert said["same"] == [*SMALL, "large.bin"]

        settings = {"MLFLOW_TRACKING_URI": f"{host.registry.base_url}/t/team-new"}
        create = "import mlflow; mlflow.create_experiment('another')"
        refused = mlflow_client("new", create, cwd=tmp_path, fails=True, MLFLOW_TRACKING_TOKEN=made["reader"], **settings)
        assert "PERMISSION_DENIED: your token does not allow to `write` here" in refused
        refused = mlflow_client("new", create, cwd=tmp_path, fails=True, MLFLOW_TRACKING_TOKEN="nonsense", **settings)
        assert "UNAUTHENTICATED: the token is not valid" in refused
        refused = mlflow_client("new", create, cwd=tmp_path, fails=True, **settings)
        assert "UNAUTHENTICATED: the request brings no token" in refused and "MLFLOW_TRACKING_TOKEN" in refused

        host.stop()
        host.start()
        assert host.registry.call("GET", path, **bearer).expect(200)["tokens"][0]["name"] == "reader"
        assert host.registry.call("GET", path).status == 401
        log = host.log.read_text()
        assert log.count(token) == 1, "it is shown once"
        assert not any(secret in log for secret in made.values())
        assert "X-Amz-Signature" not in log
    finally:
        host.stop()
