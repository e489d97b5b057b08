"""The Model Registry through stock clients of MLflow, an old one and a new one, and compared with a stock server."""

import json
import os
import subprocess
from pathlib import Path

import mlflow_differential
import mlflow_recording
import pytest
from conftest import Registry, mlflow_python
from mlflow_differential import Server

STORY = Path(__file__).parent / "mlflow_registry_story.py"


@pytest.mark.parametrize("tenant", ["", "/t/team-b"])
@pytest.mark.parametrize("which", ["old", "new"])
def test_a_stock_client_does_all_that_a_registry_is_for(registry: Registry, which: str, tenant: str) -> None:
    model = f"story-{which}-{'tenant' if tenant else 'default'}"
    done = subprocess.run(
        [mlflow_python(which), "-W", "ignore", STORY, registry.base_url + tenant, model],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "MLFLOW_DISABLE_TELEMETRY": "true"},
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["is_done"]


@pytest.mark.skipif("SLIPWAY_STOCK_MLFLOW" not in os.environ, reason="SLIPWAY_STOCK_MLFLOW names no stock server to compare with")
def test_a_stock_server_answers_random_calls_alike(registry: Registry) -> None:
    told: list[str] = []
    seed = int.from_bytes(os.urandom(4))
    stock, ours = Server(os.environ["SLIPWAY_STOCK_MLFLOW"]), Server(registry.base_url)
    differences = mlflow_differential.play(stock, ours, seed, 400, told.append)
    assert differences == 0, "\n".join(told)


def test_random_calls_are_answered_as_a_stock_server_answered_them(registry: Registry) -> None:
    recording, told = mlflow_recording.load("registry.json.gz"), []
    ours = Server(f"{registry.base_url}/t/recorded")
    stock = mlflow_recording.play_back(Server(registry.base_url), recording["calls"])
    differences = mlflow_differential.play(stock, ours, recording["seed"], recording["steps"], told.append)
    assert differences == 0, "\n".join(told)
