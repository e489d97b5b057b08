"""The whole Model Registry API through the stock client of whatever MLflow runs this; prints one JSON line at its end.

It is a program and no test, because each MLflow lives in an environment of its own: `test_mlflow_registry.py` runs it.
"""

import json
import sys
import time

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

URL, MODEL = sys.argv[1], sys.argv[2]
SOURCE = "s3://elsewhere/models/a b"
mlflow.set_tracking_uri(URL)
mlflow.set_registry_uri(URL)
client = MlflowClient(tracking_uri=URL, registry_uri=URL)


def refused(call, *codes: str) -> str:
    """The words of a refusal, which must have one of these codes."""
    try:
        call()
    except MlflowException as error:
        assert error.error_code in codes, f"{error.error_code} is none of {codes}: {error}"
        return str(error)
    raise AssertionError("nothing was refused")


def names(found) -> list[str]:
    return [model.name for model in found]


# Models.
model = client.create_registered_model(MODEL, tags={"team": "vision"}, description="first")
assert (model.name, model.description, model.tags) == (MODEL, "first", {"team": "vision"}), model
assert abs(model.creation_timestamp / 1000 - time.time()) < 600
assert "already exists" in refused(lambda: client.create_registered_model(MODEL), "RESOURCE_ALREADY_EXISTS")
refused(lambda: client.create_registered_model("a/b"), "INVALID_PARAMETER_VALUE")
refused(lambda: client.create_registered_model(""), "INVALID_PARAMETER_VALUE")
assert "not found" in refused(lambda: client.get_registered_model(f"{MODEL}-none"), "RESOURCE_DOES_NOT_EXIST")
assert client.update_registered_model(MODEL, "second").description == "second"
client.set_registered_model_tag(MODEL, "kind", "cls")
client.set_registered_model_tag(MODEL, "gone", "x")
client.delete_registered_model_tag(MODEL, "gone")
client.delete_registered_model_tag(MODEL, "never")
assert client.get_registered_model(MODEL).tags == {"team": "vision", "kind": "cls"}
refused(lambda: client.set_registered_model_tag(f"{MODEL}-none", "a", "b"), "RESOURCE_DOES_NOT_EXIST")

# Versions.
for number in range(1, 6):
    version = client.create_model_version(MODEL, SOURCE, run_id=f"run{number % 2}", tags={"n": str(number)}, description="d")
    assert (version.version, version.status, version.current_stage) == (str(number), "READY", "None"), version
    assert (version.source, version.run_id, version.tags) == (SOURCE, f"run{number % 2}", {"n": str(number)}), version
refused(lambda: client.create_model_version(f"{MODEL}-none", SOURCE), "RESOURCE_DOES_NOT_EXIST")
for bad in ("/etc/passwd", "file:///etc/passwd", "s3://bucket/../x", "s3://bucket/%2e%2e/x"):
    refused(lambda bad=bad: client.create_model_version(MODEL, bad), "INVALID_PARAMETER_VALUE")
assert client.get_model_version(MODEL, "3").tags == {"n": "3"}
assert client.get_model_version_download_uri(MODEL, "3") == SOURCE
refused(lambda: client.get_model_version(MODEL, "99"), "RESOURCE_DOES_NOT_EXIST")
refused(lambda: client.get_model_version(MODEL, "x"), "INVALID_PARAMETER_VALUE")
assert client.update_model_version(MODEL, "3", "third").description == "third"
client.set_model_version_tag(MODEL, "3", "a b", "ü")
client.set_model_version_tag(MODEL, "3", "gone", "")
client.delete_model_version_tag(MODEL, "3", "gone")
assert client.get_model_version(MODEL, "3").tags == {"n": "3", "a b": "ü"}

# Aliases.
client.set_registered_model_alias(MODEL, "champion", "2")
client.set_registered_model_alias(MODEL, "challenger", "3")
client.set_registered_model_alias(MODEL, "champion", "3")
assert client.get_model_version_by_alias(MODEL, "champion").version == "3"
assert sorted(client.get_model_version(MODEL, "3").aliases) == ["challenger", "champion"]
shown = client.get_registered_model(MODEL).aliases
assert {alias: str(version) for alias, version in shown.items()} == {"challenger": "3", "champion": "3"}, shown
client.delete_registered_model_alias(MODEL, "challenger")
client.delete_registered_model_alias(MODEL, "challenger")
assert "not found" in refused(lambda: client.get_model_version_by_alias(MODEL, "challenger"), "INVALID_PARAMETER_VALUE")
for bad in ("latest", "v1", "a b"):
    refused(lambda bad=bad: client.set_registered_model_alias(MODEL, bad, "1"), "INVALID_PARAMETER_VALUE")
refused(lambda: client.set_registered_model_alias(MODEL, "c", "99"), "RESOURCE_DOES_NOT_EXIST")

# Stages.
assert client.transition_model_version_stage(MODEL, "1", "staging").current_stage == "Staging"
client.transition_model_version_stage(MODEL, "2", "Production")
client.transition_model_version_stage(MODEL, "4", "Production", archive_existing_versions=True)
refused(lambda: client.transition_model_version_stage(MODEL, "4", "Nowhere"), "INVALID_PARAMETER_VALUE")
refused(lambda: client.transition_model_version_stage(MODEL, "4", "None", True), "INVALID_PARAMETER_VALUE")
latest = {version.current_stage: version.version for version in client.get_latest_versions(MODEL)}
assert latest == {"None": "5", "Staging": "1", "Production": "4", "Archived": "2"}, latest
assert [version.version for version in client.get_latest_versions(MODEL, ["Production"])] == ["4"]
assert len(client.get_registered_model(MODEL).latest_versions) == 4

# Searches.
assert names(client.search_registered_models(f"name = '{MODEL}'")) == [MODEL]
assert names(client.search_registered_models(f"name ILIKE '{MODEL.upper()}%' AND tags.team = 'vision'")) == [MODEL]
assert names(client.search_registered_models(f"name = '{MODEL}' AND tags.team != 'vision'")) == []
found = client.search_model_versions(f"name = '{MODEL}'", order_by=["version_number ASC"])
assert [str(version.version) for version in found] == ["1", "2", "3", "4", "5"]
found = client.search_model_versions(f"name = '{MODEL}' AND run_id = 'run1'", order_by=["version_number DESC"], max_results=2)
assert [str(version.version) for version in found] == ["5", "3"] and found.token
found = client.search_model_versions(
    f"name = '{MODEL}' AND run_id = 'run1'", order_by=["version_number DESC"], max_results=2, page_token=found.token
)
assert [str(version.version) for version in found] == ["1"] and not found.token
assert [v.version for v in client.search_model_versions("tags.`a b` = 'ü'") if v.name == MODEL][0] in ("3", 3)
refused(lambda: client.search_registered_models("nonsense"), "INVALID_PARAMETER_VALUE")
refused(lambda: client.search_registered_models(page_token="nonsense"), "INVALID_PARAMETER_VALUE")

# Copies keep what they hold.
if hasattr(client, "copy_model_version"):
    copy = client.copy_model_version(f"models:/{MODEL}/3", f"{MODEL}-copy")
    assert (copy.version, copy.source) == ("1", f"models:/{MODEL}/3") or copy.source.endswith("/3"), copy
    assert client.get_model_version_download_uri(f"{MODEL}-copy", "1") == SOURCE

# Renaming takes everything along.
client.rename_registered_model(MODEL, f"{MODEL}-new")
assert client.get_registered_model(f"{MODEL}-new").name == f"{MODEL}-new"
refused(lambda: client.get_registered_model(MODEL), "RESOURCE_DOES_NOT_EXIST")
assert client.get_model_version_by_alias(f"{MODEL}-new", "champion").name == f"{MODEL}-new"
assert client.get_model_version(f"{MODEL}-new", "3").tags == {"n": "3", "a b": "ü"}
latest = {version.current_stage: version.version for version in client.get_latest_versions(f"{MODEL}-new")}
assert latest == {"None": "5", "Staging": "1", "Production": "4", "Archived": "2"}, latest
client.rename_registered_model(f"{MODEL}-new", MODEL)

# Deleting.
client.delete_model_version(MODEL, "3")
refused(lambda: client.get_model_version(MODEL, "3"), "RESOURCE_DOES_NOT_EXIST")
refused(lambda: client.get_model_version_by_alias(MODEL, "champion"), "INVALID_PARAMETER_VALUE")
assert client.create_model_version(MODEL, SOURCE).version == "6"
client.set_registered_model_alias(MODEL, "champion", "6")
client.delete_registered_model(MODEL)
refused(lambda: client.get_registered_model(MODEL), "RESOURCE_DOES_NOT_EXIST")
refused(lambda: client.get_model_version(MODEL, "6"), "RESOURCE_DOES_NOT_EXIST")
refused(lambda: client.delete_registered_model(MODEL), "RESOURCE_DOES_NOT_EXIST")
assert client.search_model_versions(f"name = '{MODEL}'") == []
again = client.create_registered_model(MODEL)
assert again.tags == {} and not again.latest_versions
assert client.create_model_version(MODEL, SOURCE).version == "1"
refused(lambda: client.get_model_version_by_alias(MODEL, "champion"), "INVALID_PARAMETER_VALUE")

# Prompts, where this client has them.
if hasattr(mlflow, "genai") and hasattr(mlflow.genai, "register_prompt"):
    prompt = mlflow.genai.register_prompt(name=f"{MODEL}-prompt", template="Hello {{ name }}" * 500, tags={"a": "b"})
    assert prompt.version == 1
    assert mlflow.genai.load_prompt(f"prompts:/{MODEL}-prompt/1").template == "Hello {{ name }}" * 500
    assert f"{MODEL}-prompt" not in names(client.search_registered_models(f"name LIKE '{MODEL}%'"))

print(json.dumps({"mlflow": mlflow.__version__, "is_done": True}))
