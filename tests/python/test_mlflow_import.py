"""The import command copies an MLflow server, may be run again, and keeps version numbers.

The source is a tenant that stock clients filled: to the command it is an MLflow server like any other.
"""

import json
from pathlib import Path

from conftest import Registry, mlflow_client

FILL = """
import math
import mlflow
from mlflow import MlflowClient

client = MlflowClient()
mlflow.set_experiment("prices")
for name in ["one", "two", "three"]:
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_param("name", name)
        for step in range(5):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_text("hello " + name, "model/notes/a b.txt")
    if name == "one":
        client.create_registered_model("price", tags={"team": "a"}, description="what a price is")
    client.create_model_version("price", f"runs:/{run.info.run_id}/model", run.info.run_id, tags={"k": name})
client.delete_run(run.info.run_id)
client.delete_model_version("price", "2")
client.create_registered_model("elsewhere")
client.create_model_version("elsewhere", "s3://elsewhere/model")
client.set_registered_model_alias("elsewhere", "prod", "1")
"""

SHOW = """
import json
import mlflow
from mlflow import MlflowClient
from mlflow.entities import ViewType

client = MlflowClient()
model = client.get_registered_model("price")
versions = client.search_model_versions("name = 'price'")
runs = {}
experiment = client.get_experiment_by_name("prices").experiment_id
for run in client.search_runs([experiment], run_view_type=ViewType.ALL):
    history = [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")]
    files = [file.path for file in client.list_artifacts(run.info.run_id, "model/notes")]
    runs[run.info.run_name] = [run.info.lifecycle_stage, run.data.params, len(history), files]
print(json.dumps({
    "model": [model.description, model.tags],
    "versions": sorted([version.version, version.tags["k"], version.run_id != ""] for version in versions),
    "runs": runs,
    "prod": client.get_model_version_by_alias("elsewhere", "prod").version,
}))
"""

IMPORT = """
import sys
from slipway_mlflow.importing import main

sys.exit(main(sys.argv[1:]))
"""


def test_an_import_copies_everything_once(registry: Registry, tmp_path: Path) -> None:
    source, target = f"{registry.base_url}/t/import-source", f"{registry.base_url}/t/import-target"
    mlflow_client("new", FILL, cwd=tmp_path, MLFLOW_TRACKING_URI=source)
    first = mlflow_client("new", IMPORT, source, target, cwd=tmp_path)
    assert "3 runs (0 there already)" in first, first
    assert "3 versions (0 there already)" in first, first
    shown = json.loads(mlflow_client("new", SHOW, cwd=tmp_path, MLFLOW_TRACKING_URI=target))
    assert shown["model"] == ["what a price is", {"team": "a"}]
    assert shown["versions"] == [["1", "one", True], ["3", "three", True]]
    assert shown["runs"] == {
        name: [stage, {"name": name}, 5, ["model/notes/a b.txt"]]
        for name, stage in [("one", "active"), ("two", "active"), ("three", "deleted")]
    }
    assert shown["prod"] == "1"

    again = mlflow_client("new", IMPORT, source, target, cwd=tmp_path)
    for counted in ["0 runs (3 there already)", "0 versions (3 there already)", "0 aliases (1 there already)"]:
        assert counted in again, again
    assert json.loads(mlflow_client("new", SHOW, cwd=tmp_path, MLFLOW_TRACKING_URI=target)) == shown


def test_an_import_from_nowhere_says_so(registry: Registry, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    code = "import slipway_mlflow.importing as it; it.time.sleep = lambda _: None; print(it.main(['%s', '%s']))"
    said = mlflow_client("new", code % (nowhere, registry.base_url), cwd=tmp_path)
    assert said.strip() == "2"
