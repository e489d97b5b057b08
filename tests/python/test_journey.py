"""A model travels the whole way over real HTTP: registered, uploaded, judged, packaged, promoted, loaded."""

import hashlib
import json
import pickle
import random
from pathlib import Path

import pytest
from sklearn.datasets import load_iris

from conftest import ROOT, Registry, send

FIXTURES = ROOT / "tests" / "fixtures"
BLOCK_BYTES = 1 << 20
LARGE_BYTES = 200 << 20


def files_of(source: Path) -> dict[str, Path]:
    """Artifact paths and the files that they name."""
    if source.is_file():
        return {source.name: source}
    return {path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*")) if path.is_file()}


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def register(registry: Registry, model: str, files: dict[str, Path], number: int = 1, **metadata) -> None:
    """Registers a version, and the model with the first one; uploads every artifact and finalizes."""
    if number == 1:
        registry.call("POST", "/v1/models", {"name": model, "description": "Made by the tests"}).expect(201)
    artifacts = [
        {"path": path, "size_bytes": file.stat().st_size, "digest": digest_of(file)} for path, file in files.items()
    ]
    registered = registry.call("POST", f"/v1/models/{model}/versions", {"artifacts": artifacts, **metadata}).expect(201)
    assert (registered["version"], registered["status"]) == (number, "PENDING_REGISTRATION")
    version = f"/v1/models/{model}/versions/{number}"
    uploads = registry.call("POST", f"{version}/uploads", {}).expect(200)["uploads"]
    assert {upload["path"] for upload in uploads} == set(files)
    multipart = []
    for upload in uploads:
        with files[upload["path"]].open("rb") as file:
            if "upload_id" not in upload:
                put(upload, file.read())
                continue
            assert len(upload["parts"]) == upload["part_count"]
            for part in upload["parts"]:
                file.seek((part["number"] - 1) * upload["part_size_bytes"])
                put(part, file.read(part["size_bytes"]))
            multipart.append({"path": upload["path"], "upload_id": upload["upload_id"]})
    registry.call("POST", f"{version}/finalize", {"multipart": multipart} if multipart else {}).expect(200)


def put(request: dict, body: bytes) -> None:
    answer = send(request["method"], request["url"], request["headers"], body)
    assert answer.status == 200, f"S3 answered {answer.status}: {answer.body[:1000]!r}"


def download(registry: Registry, model: str, path: str, version: int = 1) -> bytes:
    downloads = registry.call("GET", f"/v1/models/{model}/versions/{version}/downloads?path={path}").expect(200)
    (request,) = downloads["downloads"]
    answer = send(request["method"], request["url"], request["headers"])
    assert answer.status == 200, f"S3 answered {answer.status}: {answer.body[:1000]!r}"
    assert len(answer.body) == request["size_bytes"]
    assert f"sha256:{hashlib.sha256(answer.body).hexdigest()}" == request["digest"]
    return answer.body


def download_all(registry: Registry, model: str, to: Path) -> None:
    """Downloads every artifact of version 1 into a folder."""
    answer = registry.call("GET", f"/v1/models/{model}/versions/1/downloads").expect(200)
    for request in answer["downloads"]:
        file = to / request["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(send(request["method"], request["url"], request["headers"]).body)


def assert_bytes_are_equal(source: dict[str, Path], folder: Path) -> None:
    assert set(files_of(folder)) == set(source)
    for path, file in source.items():
        assert (folder / path).read_bytes() == file.read_bytes(), path


def assert_it_predicts(folder: Path) -> None:
    # Loading a pickle runs it; this one is ours, and was just compared with the fixture.
    model = pickle.loads((folder / "model.pkl").read_bytes())
    iris = load_iris()
    assert (model.predict(iris.data) == iris.target).mean() > 0.9


@pytest.mark.parametrize("fixture", ["iris.safetensors", "iris.onnx"])
def test_a_model_of_one_file_travels_the_whole_way(registry: Registry, fixture: str) -> None:
    model = f"one-{fixture.rpartition('.')[2]}"
    files = files_of(FIXTURES / fixture)
    register(registry, model, files)
    view = registry.settled(model)
    assert view["status"] == "READY", registry.call("GET", f"/v1/models/{model}/versions/1/report").body
    assert download(registry, model, fixture) == files[fixture].read_bytes()


def test_a_scikit_learn_model_is_promoted_downloaded_and_predicts(registry: Registry, tmp_path: Path) -> None:
    files = files_of(FIXTURES / "iris-sklearn")
    register(
        registry,
        "iris",
        files,
        run={"id": "run-1", "name": "first", "experiment": "iris"},
        framework={"name": "scikit-learn", "version": "1.9.1"},
        hyper_parameters={"max_iter": 200},
        metrics={"accuracy": 0.97},
        datasets=[{"name": "iris", "version": "1", "uri": "s3://datasets/iris.csv", "digest": "md5:0"}],
        code={"commit": "0123456789abcdef0123456789abcdef01234567"},
        environment_files=["requirements.txt", "conda.yaml", "python_env.yaml"],
        author="a data scientist",
        tags={"team": "flowers"},
    )
    view = registry.settled("iris")
    assert view["status"] == "READY", registry.call("GET", "/v1/models/iris/versions/1/report").body
    assert view["metadata"]["framework"] == {"name": "scikit-learn", "version": "1.9.1"}

    manifest = registry.call("GET", "/v1/models/iris/versions/1/manifest").expect(200)
    assert digest_of(files["model.pkl"]) in json.dumps(manifest)

    champion = "/v1/models/iris/aliases/champion"
    promotion = {"version": 1, "expected_version": None, "reason": "the first one"}
    registry.call("PUT", champion, promotion).expect(200)
    # Whoever expected that there is no champion comes too late, and is told who won.
    late = registry.call("PUT", champion, promotion).expect(409)["error"]
    assert (late["code"], late["details"]["current"]["version"]) == ("conflict", 1)
    assert registry.call("GET", champion).expect(200)["version"] == 1

    download_all(registry, "iris", tmp_path)
    assert_bytes_are_equal(files, tmp_path)
    assert_it_predicts(tmp_path)


def test_an_alias_moves_is_rolled_back_and_holds_its_version(registry: Registry) -> None:
    files = files_of(FIXTURES / "iris.safetensors")
    for version in (1, 2):
        register(registry, "moving", files, version)
        assert registry.settled("moving", version)["status"] == "READY"
    alias = "/v1/models/moving/aliases/champion"
    registry.call("PUT", alias, {"version": 1, "expected_version": None}).expect(200)
    registry.call("PUT", alias, {"version": 2, "expected_version": 1, "reason": "better"}).expect(200)
    back = registry.call("POST", f"{alias}/rollback", {"expected_version": 2, "reason": "slower"}).expect(200)
    assert (back["version"], back["previous_version"], back["sequence"]) == (1, 2, 3)
    history = registry.call("GET", f"{alias}/history").expect(200)["events"]
    assert [(entry["type"], entry["data"]["to"], entry.get("reason")) for entry in history] == [
        ("alias.rolled_back", 1, "slower"),
        ("alias.set", 2, "better"),
        ("alias.set", 1, None),
    ]
    assert {entry["actor"] for entry in history} == {"python-tests"}

    held = registry.call("DELETE", "/v1/models/moving/versions/1").expect(409)["error"]
    assert (held["code"], held["details"]["aliases"]) == ("version_in_use", ["champion"])
    registry.call("POST", "/v1/models/moving/versions/1/stage", {"stage": "Production"}).expect(200)
    registry.call("DELETE", "/v1/models/moving/versions/2").expect(200)
    refused = registry.call("PUT", alias, {"version": 2, "expected_version": 1}).expect(409)["error"]
    assert refused["code"] == "deleted"
    registry.call("POST", "/v1/models/moving/versions/2/restore", {}).expect(200)
    registry.call("PUT", alias, {"version": 2, "expected_version": 1}).expect(200)


def test_a_large_file_goes_up_in_parts(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "large.safetensors"
    write_large_safetensors(file)
    register(registry, "large", {file.name: file})
    view = registry.settled("large")
    assert view["status"] == "READY", registry.call("GET", "/v1/models/large/versions/1/report").body
    body = download(registry, "large", file.name)
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == digest_of(file)


def write_large_safetensors(path: Path) -> None:
    """A safetensors file of one large tensor: length of the header, header, bytes; no two blocks are equal."""
    tensor = {"dtype": "U8", "shape": [LARGE_BYTES], "data_offsets": [0, LARGE_BYTES]}
    header = json.dumps({"weights": tensor}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    source = random.Random(2)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(LARGE_BYTES // BLOCK_BYTES):
            file.write(source.randbytes(BLOCK_BYTES))


def test_a_folder_dropped_with_the_stock_client_registers_itself(registry: Registry, tmp_path: Path) -> None:
    source = FIXTURES / "iris-sklearn"
    target = f"s3://{registry.bucket}/dropzone/default/dropped-folder/"
    registry.aws("s3", "cp", "--recursive", source, target)
    # No marker: the folder counts as whole when it has been quiet for a while.
    view = registry.settled("dropped-folder")
    assert view["status"] == "READY", registry.call("GET", "/v1/models/dropped-folder/versions/1/report").body
    download_all(registry, "dropped-folder", tmp_path)
    assert_bytes_are_equal(files_of(source), tmp_path)
    assert_it_predicts(tmp_path)


@pytest.mark.parametrize("options", [[], ["--recursive", "--exclude", "*", "--include", "iris.onnx"]], ids=["alone", "recursive"])
def test_a_dropped_file_registers_itself(registry: Registry, options: list[str]) -> None:
    file = FIXTURES / "iris.onnx"
    model = "dropped-recursively" if options else "dropped-file"
    source = FIXTURES if options else file
    registry.aws("s3", "cp", *options, source, f"s3://{registry.bucket}/dropzone/default/{model}/")
    view = registry.settled(model)
    assert (view["status"], view["artifact_count"]) == ("READY", 1)
    assert download(registry, model, file.name) == file.read_bytes()


def test_a_marker_says_that_a_drop_is_whole(registry: Registry, tmp_path: Path) -> None:
    prefix = f"s3://{registry.bucket}/dropzone/default/dropped-whole"
    registry.aws("s3", "cp", FIXTURES / "iris.safetensors", f"{prefix}/iris.safetensors")
    marker = tmp_path / "_COMPLETE"
    marker.touch()
    registry.aws("s3", "cp", marker, f"{prefix}/_COMPLETE")
    view = registry.settled("dropped-whole")
    assert (view["status"], view["artifact_count"]) == ("READY", 1)


def test_a_tenant_sees_nothing_of_another(registry: Registry) -> None:
    registry.call("POST", "/t/team-a/v1/models", {"name": "theirs"}).expect(201)
    assert registry.call("GET", "/t/team-a/v1/models/theirs").status == 200
    assert registry.call("GET", "/v1/models/theirs").status == 404
    assert registry.call("GET", "/t/team-b/v1/models/theirs").status == 404
