"""Packages load with the tools that serve models, and verify with the tools that check them."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from sklearn.datasets import load_iris

from conftest import ROOT, Registry, send
from test_journey import files_of, register

FIXTURE = ROOT / "tests" / "fixtures" / "iris-sklearn"
SIGN = [sys.executable, "-m", "model_signing"]


@pytest.fixture(scope="module")
def registry(registry: Registry) -> Registry:
    """A tenant of these tests' own: files that a tenant has already are not stored again, nor signed again."""
    return replace(registry, base_url=f"{registry.base_url}/t/packages")


@pytest.fixture(scope="module")
def package(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of a packaged version as `kserve-storage` brings it, without the signature beside the files."""
    register(
        registry,
        "signed",
        files_of(FIXTURE),
        framework={"name": "scikit-learn", "version": "1.9.1"},
        metrics={"accuracy": 0.97},
        hyper_parameters={"max_iter": 200, "solver": "lbfgs"},
        datasets=[{"name": "iris", "version": "1", "digest": "md5:0", "uri": "https://example.com/iris.csv"}],
        code={"repository": "https://example.com/iris.git", "commit": "0123456789abcdef0123456789abcdef01234567"},
    )
    view = registry.settled("signed")
    folder = tmp_path_factory.mktemp("kserve") / "model"
    folder.mkdir()
    fetch(registry, view["package"]["files_uri"], folder)
    return folder


def fetch(registry: Registry, uri: str, folder: Path) -> None:
    """Runs the storage initializer of KServe, as its container does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_ACCESS_KEY_ID": "slipway",
        "AWS_SECRET_ACCESS_KEY": "slipway-local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": registry.s3_url,
        "S3_USER_VIRTUAL_BUCKET": "0",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    code = "import sys; from kserve_storage import Storage; Storage.download(sys.argv[1], sys.argv[2])"
    done = subprocess.run([sys.executable, "-c", code, uri, folder], env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def document(registry: Registry, model: str, name: str) -> bytes:
    answer = registry.call("GET", f"/v1/models/{model}/versions/1/attestations/{name}")
    assert answer.status == 200, answer.body
    return answer.body


def test_the_prefix_has_the_files_and_nothing_else_and_loads(package: Path) -> None:
    found = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert found == set(files_of(FIXTURE)) | {"model.sig"}
    for path, file in files_of(FIXTURE).items():
        assert (package / path).read_bytes() == file.read_bytes()
    with next(package.rglob("*.pkl")).open("rb") as file:
        model = pickle.load(file)
    data = load_iris()
    assert model.score(data.data, data.target) > 0.9


def verify(folder: Path, signature: Path, key: Path) -> subprocess.CompletedProcess:
    command = [*SIGN, "verify", "key", folder, "--signature", signature, "--public_key", key]
    return subprocess.run([str(word) for word in command], text=True, capture_output=True)


def test_the_stock_verifier_accepts_the_signature_and_refuses_any_change(
    registry: Registry, package: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(document(registry, "signed", "public-key.pem"))
    assert key.read_bytes() == registry.call("GET", "/v1/signing-key").body
    apart = tmp_path / "apart.sig"
    apart.write_bytes(document(registry, "signed", "model.sig"))
    assert apart.read_bytes() == (package / "model.sig").read_bytes()

    def copy(name: str) -> Path:
        return Path(shutil.copytree(package, tmp_path / name))

    done = verify(package, package / "model.sig", key)
    assert done.returncode == 0, done.stdout + done.stderr
    changed = copy("changed")
    victim = next(changed.rglob("*.pkl"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    more = copy("more")
    (more / "one-more").write_text("")
    less = copy("less")
    next(less.rglob("*.txt")).unlink()
    for folder in (changed, more, less):
        assert verify(folder, folder / "model.sig", key).returncode != 0, folder.name
    other = tmp_path / "other.pem"
    other.write_bytes(public_half(ec.generate_private_key(ec.SECP256R1())))
    assert verify(package, package / "model.sig", other).returncode != 0


def public_half(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_the_bill_of_materials_is_valid_and_tells_of_the_model(registry: Registry, package: Path) -> None:
    text = document(registry, "signed", "bom.cdx.json").decode()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    bill = json.loads(text)
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "signed", "1")
    assert {"type": "accuracy", "value": "0.97"} in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    files = {part["name"]: part["hashes"][0]["content"] for part in bill["components"] if part["type"] == "file"}
    for path, file in files_of(FIXTURE).items():
        assert files[path] == hashlib.sha256(file.read_bytes()).hexdigest()
    libraries = {part["name"] for part in bill["components"] if part["type"] == "library"}
    assert "scikit-learn" in libraries
    assert any(part["type"] == "data" and part["name"] == "iris" for part in bill["components"])


def test_provenance_and_validation_are_statements_about_the_files(registry: Registry, package: Path) -> None:
    expected = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files_of(FIXTURE).items()}
    for name, kind in [("provenance", "https://slsa.dev/provenance/v1"), ("validation", None)]:
        statement = json.loads(document(registry, "signed", f"{name}.json"))
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert kind in (None, statement["predicateType"])
        assert {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]} == expected
    provenance = json.loads(document(registry, "signed", "provenance.json"))["predicate"]
    dependencies = provenance["buildDefinition"]["resolvedDependencies"]
    assert all("versionId=" in one["uri"] for one in dependencies if one["name"] in expected)
    assert provenance["runDetails"]["builder"]["id"]
    validation = json.loads(document(registry, "signed", "validation.json"))["predicate"]
    assert validation["verdict"] and validation["rules_digest"] and validation["artifacts"]


def test_a_signature_of_the_client_is_held_against_the_trusted_keys(registry: Registry, tmp_path: Path) -> None:
    trusted, unknown = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    body = {"public_key": public_half(trusted).decode()}
    registry.call("PUT", "/v1/trusted-keys/release", body).expect(201)
    registry.call("PUT", "/v1/trusted-keys/release", body).expect(409)
    registry.call("PUT", "/v1/trusted-keys/bad", {"public_key": "no key"}).expect(400)
    assert [key["name"] for key in registry.call("GET", "/v1/trusted-keys").expect(200)["trusted_keys"]] == ["release"]
    verdicts = {}
    for name, key, tampered in [("of-release", trusted, False), ("of-nobody", unknown, False), ("other", trusted, True)]:
        folder = Path(shutil.copytree(FIXTURE, tmp_path / name))
        private = tmp_path / f"{name}.pem"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        signature = folder / "model.sig"
        command = [*SIGN, "sign", "key", folder, "--signature", signature, "--private_key", private]
        done = subprocess.run([str(word) for word in command], text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        if tampered:
            (folder / "notes.md").write_text("added after the signature")
        register(registry, name, files_of(folder))
        view = registry.settled(name)["package"]
        verdicts[name] = view["signature"]
    assert verdicts == {
        "of-release": {"verdict": "verified", "key": "release"},
        "of-nobody": {"verdict": "untrusted"},
        "other": {"verdict": "invalid"},
    }
    registry.call("DELETE", "/v1/trusted-keys/release").expect(200)
    registry.call("DELETE", "/v1/trusted-keys/release").expect(404)


def test_the_checksum_file_is_that_of_sha256sum(registry: Registry, package: Path, tmp_path: Path) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_bytes(registry.call("GET", "/v1/models/signed/versions/1/checksums").body)
    done = subprocess.run(["sha256sum", "--strict", "-c", sums], cwd=package, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(sums.read_text().splitlines()) == len(files_of(FIXTURE))
    downloads = registry.call("GET", "/v1/models/signed/versions/1/downloads?limit=1000").expect(200)
    assert {one["path"] for one in downloads["downloads"]} == set(files_of(FIXTURE))
    one = downloads["downloads"][0]
    answer = send(one["method"], one["url"], one["headers"])
    assert hashlib.sha256(answer.body).hexdigest() == one["digest"].removeprefix("sha256:")


@pytest.mark.parametrize("format", ["tar", "tar.gz"])
def test_an_archive_unpacks_to_the_files(registry: Registry, package: Path, tmp_path: Path, format: str) -> None:
    path = "/v1/models/signed/versions/1/archives"
    registry.call("POST", path, {"format": format}).expect(202)

    def ready() -> dict | None:
        archives = registry.call("GET", path).expect(200)["archives"]
        return next((one for one in archives if one["format"] == format and one["status"] == "ready"), None)

    archive = registry.eventually(ready, "the archive")
    file = tmp_path / f"model.{format}"
    file.write_bytes(send("GET", archive["url"], archive["headers"]).body)
    done = subprocess.run(["tar", "-tvf", file], text=True, capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    with tarfile.open(file) as opened:
        assert all(member.mtime == 0 and member.uid == 0 for member in opened.getmembers())
        # Python before 3.11.4 has no filters; the archive is our own.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        opened.extractall(tmp_path / "out", **safely)
    found = {path: (tmp_path / "out" / path).read_bytes() for path in files_of(tmp_path / "out")}
    assert found == {path: file.read_bytes() for path, file in files_of(FIXTURE).items()}
