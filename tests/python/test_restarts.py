"""A registry that is killed goes on where it was: nothing is lost, and nothing comes twice."""

from pathlib import Path

from conftest import Host, binary
from test_journey import FIXTURES, assert_bytes_are_equal, digest_of, download_all, files_of, put, register
import subprocess


def test_a_registry_that_is_killed_goes_on_where_it_was(host: Host, tmp_path: Path) -> None:
    files = files_of(FIXTURES / "iris-sklearn")
    host.start()
    registry = host.registry
    register(registry, "kept", files)
    assert registry.settled("kept")["status"] == "READY"
    registry.call("PUT", "/v1/models/kept/aliases/champion", {"version": 1, "expected_version": None}).expect(200)

    # Half of the next version is uploaded when the power fails, and the rest after it is back.
    artifacts = [
        {"path": path, "size_bytes": file.stat().st_size, "digest": digest_of(file)} for path, file in files.items()
    ]
    registry.call("POST", "/v1/models/kept/versions", {"artifacts": artifacts}).expect(201)
    uploads = registry.call("POST", "/v1/models/kept/versions/2/uploads", {}).expect(200)["uploads"]
    half = len(uploads) // 2
    for upload in uploads[:half]:
        put(upload, files[upload["path"]].read_bytes())
    host.kill()
    host.start()
    for upload in uploads[half:]:
        put(upload, files[upload["path"]].read_bytes())
    # The last upload is answered, so it is kept; nobody has looked at it yet.
    host.kill()
    host.start()

    assert registry.settled("kept", 2)["status"] == "READY"
    assert registry.call("GET", "/v1/models/kept/aliases/champion").expect(200)["version"] == 1
    download_all(registry, "kept", tmp_path / "download")
    assert_bytes_are_equal(files, tmp_path / "download")
    registered = registry.call("POST", "/v1/models/kept/versions", {"artifacts": artifacts}).expect(201)
    assert registered["version"] == 3
    events = registry.call("GET", "/v1/models/kept/events?limit=100").expect(200)["events"]
    once = [(event["type"], event["version"]) for event in events if event["type"] in ("version.ready", "version.packaged")]
    assert sorted(once) == [(kind, number) for kind in ("version.packaged", "version.ready") for number in (1, 2)]
    letters = registry.call("GET", "/_local/dead-letters").expect(200)
    assert letters["dead_letters"] == []


def test_a_drop_survives_a_kill(host: Host) -> None:
    host.start()
    registry = host.registry
    registry.aws("s3", "cp", FIXTURES / "iris.onnx", f"s3://{registry.bucket}/dropzone/default/dropped/")
    host.kill()
    host.start()
    view = registry.settled("dropped")
    assert (view["status"], view["artifact_count"]) == ("READY", 1)
    assert [one["version"] for one in registry.call("GET", "/v1/models/dropped/versions").expect(200)["versions"]] == [1]


def test_a_second_registry_in_the_same_place_says_what_is_wrong(host: Host, tmp_path: Path) -> None:
    host.start()
    port = host.registry.base_url.rpartition(":")[2]
    for options in (["--in-memory", "--port", port, "--s3-port", "0"], ["--data-dir", str(tmp_path / "data"), "--port", "0", "--s3-port", "0"]):
        done = subprocess.run([binary(), *options], cwd=tmp_path, text=True, capture_output=True, timeout=60)
        assert done.returncode == 1
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("error: "), line
