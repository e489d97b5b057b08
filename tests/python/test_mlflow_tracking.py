"""Stock clients of MLflow, an old and a new one, track runs: every operation, happy and failing, and a model end to end."""

import json
from pathlib import Path

import mlflow_recording
import mlflow_tracking_differential
import pytest
from conftest import Host, Registry, mlflow_client
from mlflow_tracking_differential import Server

# What every client can; it prints what came of it as JSON.
TRACKING = """
import json, math
import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

client, said = MlflowClient(), {}

def refused(act, *words, **more):
    try:
        act(*words, **more)
    except MlflowException as error:
        return error.error_code
    return None

experiment = mlflow.set_experiment("first")
said["again"] = mlflow.set_experiment("first").experiment_id == experiment.experiment_id
said["default"] = [client.get_experiment("0").name, client.get_experiment_by_name("Default").experiment_id]
said["none"] = client.get_experiment_by_name("nothing")
with mlflow.start_run(run_name="parent") as run:
    mlflow.log_param("lr", 0.1)
    mlflow.log_params({f"p{at}": at for at in range(150)})
    mlflow.log_metric("loss", 0.5, step=1)
    mlflow.log_metrics({"nan": math.nan, "inf": math.inf}, step=2)
    mlflow.set_tags({"team": "a", "empty": ""})
    with mlflow.start_run(nested=True) as child:
        mlflow.log_metric("loss", 0.1)
id = run.info.run_id
client.log_batch(id, [Metric(f"m{at % 10}", at, 1_000 + at, at) for at in range(1_000)])
client.log_batch(id, params=[Param("lr", "0.1")], tags=[RunTag("team", "b")])
shown = client.get_run(id)
said["run"] = [shown.info.status, shown.info.run_name, len(shown.data.params), shown.data.tags["team"]]
said["metrics"] = [shown.data.metrics["m9"], str(shown.data.metrics["nan"]), shown.data.metrics["inf"] > 1e308]
said["history"] = [len(client.get_metric_history(id, "m3")), client.get_metric_history(id, "none")]
said["refused"] = [
    refused(client.log_param, id, "lr", "0.2"),
    refused(client.log_metric, id, "../x", 1),
    refused(client.set_tag, id, "t" * 251, "x"),
    refused(client.get_run, "nothing"),
    refused(client.get_experiment, "99"),
    refused(client.create_experiment, "first"),
    refused(client.search_runs, ["0"], "nonsense"),
    refused(client.search_runs, ["0"], "metrics.loss > 'x'"),
    refused(client.delete_tag, id, "nothing"),
]
here = [experiment.experiment_id]
client.set_tag(id, "long", "ü" * 8_001)
client.log_param(id, "long", "ü" * 6_001)
data = client.get_run(id).data
said["shortened"] = [len(data.tags["long"]), len(data.params["long"])]
names = lambda *words, **more: [run.info.run_name for run in client.search_runs(here, *words, **more)]
child_name = client.get_run(child.info.run_id).info.run_name
said["found"] = [
    names("metrics.loss > 0.4 and params.lr = '0.1' and tags.team LIKE 'b%'"),
    names(order_by=["metrics.loss ASC"]) == [child_name, "parent"],
    names(f"tags.mlflow.parentRunId = '{id}'") == [child_name],
    names("attributes.status = 'FAILED'"),
    names(f"run_id IN ('{id}')"),
]
pages, token = [], None
while True:
    page = client.search_runs(here, max_results=1, page_token=token)
    pages += [run.info.run_id for run in page]
    token = page.token
    if not token:
        break
said["pages"] = sorted(pages) == sorted([id, child.info.run_id])
client.update_run(id, status="KILLED", name="renamed")
client.delete_tag(id, "empty")
said["updated"] = [client.get_run(id).info.status, client.get_run(id).info.run_name]
client.delete_run(id)
said["deleted"] = [client.get_run(id).info.lifecycle_stage, names() == [child_name], names(run_view_type=ViewType.DELETED_ONLY)]
said["refused"].append(refused(client.set_tag, id, "a", "b"))
client.restore_run(id)
client.set_experiment_tag(here[0], "owner", "ada")
client.rename_experiment(here[0], "second")
client.delete_experiment(here[0])
said["experiment"] = [client.get_experiment(here[0]).lifecycle_stage, client.get_run(id).info.lifecycle_stage]
client.restore_experiment(here[0])
found = client.search_experiments(filter_string="tags.owner = 'ada' AND name LIKE 'sec%'")
said["experiment"] += [found[0].name, client.get_run(id).info.lifecycle_stage]

import pandas
data = mlflow.data.from_pandas(pandas.DataFrame({"a": [1.5]}), name="train-set")
with mlflow.start_run(run_id=id):
    mlflow.log_input(data, context="train")
used = client.get_run(id).inputs.dataset_inputs
said["input"] = [used[0].dataset.name, used[0].tags[0].value, names("dataset.context = 'train'")]
print(json.dumps(said))
"""

# What only clients from 3.0 on can.
LOGGED_MODELS = """
import json
import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

client, said = MlflowClient(), {}
with mlflow.start_run() as run:
    pass
model = client.create_logged_model("0", name="lm", source_run_id=run.info.run_id, params={"a": "1"}, tags={"t": "1"})
said["created"] = [str(model.status), model.artifact_location == f"mlflow-artifacts:/0/models/{model.model_id}/artifacts"]
said["ready"] = str(client.finalize_logged_model(model.model_id, "READY").status)
client.log_metric(run.info.run_id, "acc", 0.9, step=1, model_id=model.model_id)
client.set_logged_model_tags(model.model_id, {"u": "2"})
client.delete_logged_model_tag(model.model_id, "t")
client.log_model_params(model.model_id, {"b": "2"})
shown = client.get_logged_model(model.model_id)
said["shown"] = [shown.params, shown.tags, [metric.value for metric in shown.metrics]]
search = lambda filter: [one.name for one in client.search_logged_models(["0"], filter)]
said["found"] = [search("metrics.acc > 0.5"), search("metrics.acc > 0.95"), search("params.a = '1' AND tags.u = '2'")]
client.delete_logged_model(model.model_id)
try:
    client.get_logged_model(model.model_id)
except MlflowException as error:
    said["deleted"] = error.error_code
print(json.dumps(said))
"""

# A model from its training to its prediction, with the run that made it.
END_TO_END = """
import json
import mlflow, numpy
from sklearn.linear_model import LogisticRegression

mlflow.set_experiment("end to end")
x, y = numpy.array([[0.0], [1.0], [2.0], [3.0]]), numpy.array([0, 0, 1, 1])
fitted = LogisticRegression().fit(x, y)
where = {"name": "model"} if int(mlflow.__version__.split(".")[0]) >= 3 else {"artifact_path": "model"}
with mlflow.start_run() as run:
    mlflow.log_metric("accuracy", 1.0)
    # Without looking for them: a client takes half a minute to find its own requirements.
    where |= {"pip_requirements": ["scikit-learn"], "serialization_format": "cloudpickle"}
    mlflow.sklearn.log_model(fitted, registered_model_name="classifier", **where)
client = mlflow.MlflowClient()
version = client.get_model_version("classifier", "1")
client.set_registered_model_alias("classifier", "champion", "1")
loaded = mlflow.pyfunc.load_model("models:/classifier@champion")
print(json.dumps([version.status, version.run_id == run.info.run_id, loaded.predict(x).tolist(), run.info.run_id]))
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory):
    host = Host(tmp_path_factory.mktemp("mlflow-tracking"), "--in-memory")
    host.start()
    yield host
    host.stop()


def run(which: str, host: Host, folder: Path, code: str):
    uri = f"{host.registry.base_url}/t/track-{which}"
    # Before its last line a client may greet.
    return json.loads(mlflow_client(which, code, cwd=folder, MLFLOW_TRACKING_URI=uri).splitlines()[-1])


@pytest.mark.parametrize("which", ["new", "old"])
def test_a_client_tracks_runs(which: str, host: Host, tmp_path: Path) -> None:
    assert run(which, host, tmp_path, TRACKING) == {
        "again": True,
        "default": ["Default", "0"],
        "none": None,
        "run": ["FINISHED", "parent", 151, "b"],
        "metrics": [999.0, "nan", True],
        "history": [100, []],
        "refused": [
            *["INVALID_PARAMETER_VALUE"] * 3,
            *["RESOURCE_DOES_NOT_EXIST"] * 2,
            "RESOURCE_ALREADY_EXISTS",
            *["INVALID_PARAMETER_VALUE"] * 2,
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
        ],
        "shortened": [8_000, 6_000],
        "found": [["parent"], True, True, [], ["parent"]],
        "pages": True,
        "updated": ["KILLED", "renamed"],
        "deleted": ["deleted", True, ["renamed"]],
        "experiment": ["deleted", "deleted", "second", "active"],
        "input": ["train-set", "train", ["renamed"]],
    }


def test_a_new_client_keeps_logged_models(host: Host, tmp_path: Path) -> None:
    assert run("new", host, tmp_path, LOGGED_MODELS) == {
        "created": ["PENDING", True],
        "ready": "READY",
        "shown": [{"a": "1", "b": "2"}, {"u": "2"}, [0.9]],
        "found": [["lm"], [], ["lm"]],
        "deleted": "RESOURCE_DOES_NOT_EXIST",
    }


@pytest.mark.parametrize("which", ["new", "old"])
def test_a_model_goes_from_its_run_to_its_prediction(which: str, host: Host, tmp_path: Path) -> None:
    status, is_of_run, predicted, run_id = run(which, host, tmp_path, END_TO_END)
    assert (status, is_of_run, predicted) == ("READY", True, [0, 0, 1, 1])
    shown = host.registry.call("GET", f"/t/track-{which}/v1/runs/{run_id}").expect(200)
    assert shown["versions"] == [{"model": "classifier", "version": 1}]
    assert shown["metrics"]["accuracy"]["value"] == 1.0


def test_random_calls_are_answered_as_a_stock_server_answered_them(registry: Registry) -> None:
    recording = mlflow_recording.load("tracking.json.gz")
    stock = mlflow_recording.play_back(Server(registry.base_url), recording["calls"])
    ours = Server(f"{registry.base_url}/t/recorded")
    found = mlflow_tracking_differential.differences(ours, stock, recording["seed"], recording["steps"])
    assert not found, "\n".join(found)
