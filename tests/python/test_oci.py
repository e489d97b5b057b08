"""Models are pulled by a stock OCI client, by every kind of name, with and without a login."""

import hashlib
import json
from pathlib import Path

import oras.client
import oras.schemas
import pytest

from conftest import ROOT, Host, Registry, send
from test_journey import files_of, register

FIXTURE = ROOT / "tests" / "fixtures" / "iris-sklearn"
MODEL = "Iris-Flowers"
REPOSITORY = "pulled/x--iris---flowers"


@pytest.fixture(scope="module")
def address(registry: Registry) -> str:
    return registry.base_url.removeprefix("http://")


@pytest.fixture(scope="module", autouse=True)
def model(registry: Registry) -> None:
    """A model of another tenant, whose name is no name of OCI."""
    tenant = Registry(f"{registry.base_url}/t/pulled", registry.s3_url)
    register(tenant, MODEL, files_of(FIXTURE))
    assert tenant.settled(MODEL)["package"]["oci_repository"] == REPOSITORY
    tenant.call("PUT", f"/v1/models/{MODEL}/aliases/champion", {"version": 1, "expected_version": None}).expect(200)


def client(address: str, *login: str) -> oras.client.OrasClient:
    made = oras.client.OrasClient(hostname=address, insecure=True)
    if login:
        made.auth.set_basic_auth(*login)
    return made


def digest_of(registry: Registry) -> str:
    return send("HEAD", f"{registry.base_url}/v2/{REPOSITORY}/manifests/champion").headers["docker-content-digest"]


@pytest.mark.parametrize("reference", [":champion", ":1", ":v1", ":latest", "", "@digest"])
def test_oras_pulls_the_files(registry: Registry, address: str, tmp_path: Path, reference: str) -> None:
    if reference == "@digest":
        reference = f"@{digest_of(registry)}"
    pulled = client(address).pull(target=f"{address}/{REPOSITORY}{reference}", outdir=str(tmp_path))
    found = {Path(path).relative_to(tmp_path).as_posix(): Path(path).read_bytes() for path in pulled}
    assert found == {path: file.read_bytes() for path, file in files_of(FIXTURE).items()}


def test_oras_lists_tags_and_accepts_the_manifest(registry: Registry, address: str) -> None:
    target = f"{address}/{REPOSITORY}"
    assert client(address).get_tags(target) == ["1", "champion"]
    assert client(address).get_tags(target, N=1) == ["1"]
    manifest = client(address).get_manifest(f"{target}:champion", validation_schema=oras.schemas.manifest)
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    config = client(address).get_blob(target, manifest["config"]["digest"]).json()
    assert config["descriptor"]["name"] == MODEL
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]


def test_attestations_are_pulled_as_referrers(registry: Registry, address: str, tmp_path: Path) -> None:
    answer = send("GET", f"{registry.base_url}/v2/{REPOSITORY}/referrers/{digest_of(registry)}")
    names = set()
    for entry in answer.expect(200)["manifests"]:
        target = f"{address}/{REPOSITORY}@{entry['digest']}"
        for path in client(address).pull(target=target, outdir=str(tmp_path)):
            names.add(Path(path).name)
            json.loads(Path(path).read_bytes())
    assert names == {"model.sig", "bom.cdx.json", "provenance.sigstore.json", "validation.sigstore.json"}


def test_nothing_is_pushed(registry: Registry, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.bin").write_bytes(b"model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="UNSUPPORTED.*only pulled"):
        client(address).push(files=["model.bin"], target=f"{address}/{REPOSITORY}:2")
    digest = f"sha256:{hashlib.sha256(b'model').hexdigest()}"
    answer = send("HEAD", f"{registry.base_url}/v2/{REPOSITORY}/blobs/{digest}")
    assert answer.status == 404


def test_a_token_is_the_password(tmp_path: Path) -> None:
    host = Host(tmp_path, "--data-dir", str(tmp_path / "data"), "--auth", "token")
    try:
        host.start()
        token = (tmp_path / "data" / "administrator-token").read_text().strip()
        administrator = {"authorization": f"Bearer {token}"}
        host.registry.call("POST", "/v1/models", {"name": "iris"}, **administrator).expect(201)
        scope = {"name": "puller", "actions": ["read"], "models": ["iris"]}
        token = host.registry.call("POST", "/v1/tokens", scope, **administrator).expect(201)["token"]
        address = host.registry.base_url.removeprefix("http://")
        assert client(address, "anyone", token).get_tags(f"{address}/iris") == []
        refused = host.registry.call("GET", "/v2/iris/tags/list")
        assert refused.status == 401
        realm = f'Bearer realm="{host.registry.base_url}/v2/token",service="slipway"'
        assert refused.headers["www-authenticate"] == realm
    finally:
        host.stop()
