"""What a stock `mlflow server` answered to the calls of a seed, so that Slipway is compared with it where none is.

A recording holds every call with its answer, as JSON in gzip. It is played back to the very code that compares live
servers; a call that is not the recorded one means that the code plays other calls now, and must record again.
"""

import gzip
import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "mlflow"


def record(server) -> list:
    """Makes a server keep its answers in the list that this gives back."""
    told, call = [], server.call

    def kept(method: str, path: str, fields: dict):
        status, body = call(method, path, fields)
        told.append(json.loads(json.dumps([method, path, fields, status, body])))
        return status, body

    server.call = kept
    return told


def play_back(server, told: list):
    """Makes a server answer from a recording."""
    rest = iter(told)

    def recorded(method: str, path: str, fields: dict):
        step = next(rest, None)
        asked = json.loads(json.dumps([method, path, fields]))
        assert step is not None and step[:3] == asked, f"not what was recorded, record again: {asked} instead of {step}"
        return step[3], step[4]

    server.call = recorded
    return server


def save(path: Path, version: str, seed: int, steps: int, told: list) -> None:
    text = json.dumps({"mlflow": version, "seed": seed, "steps": steps, "calls": told}, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{path}: {len(told)} calls of MLflow {version} in {path.stat().st_size} bytes")


def load(name: str) -> dict:
    return json.loads(gzip.decompress((FOLDER / name).read_bytes()))
