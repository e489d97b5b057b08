"""Copies an MLflow server into Slipway: experiments, runs, models, versions, tags, aliases, stages, artifacts.

Both sides speak MLflow's REST API, so that the source may be any MLflow server from 2.9 on.
What was copied is known by a tag on the copy (`slipway.import.…`), so that the command can be stopped at any moment and
run again: it goes on where it was, and a second run changes nothing.
Version numbers are kept, even where the source has gaps.
"""

from __future__ import annotations

import argparse
import base64
import fnmatch
import os
import re
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import requests

RUN_TAG = "slipway.import.run_id"
MODEL_TAG = "slipway.import.model_id"
DONE_TAG = "slipway.import.done"
VERSION_TAG = "slipway.import.version"
PART_BYTES = 64 * 1024 * 1024
BATCH = {"metrics": 1000, "params": 100, "tags": 100}
SETTLE_SECONDS = 900


class Refused(Exception):
    """An answer that says no."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.code = code


class Server:
    """One MLflow server, by its REST API."""

    def __init__(self, url: str, token: str | None, user: str | None, password: str | None):
        self.url = url.rstrip("/")
        self._local = threading.local()
        self._headers = {}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        elif user:
            login = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {login}"

    def session(self) -> requests.Session:
        """A session of this thread; sessions are not shared between threads."""
        session = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.headers.update(self._headers)
            self._local.session = session
        return session

    def call(self, method: str, path: str, body: dict | None = None, params: dict | None = None) -> dict:
        """One call of the API; what may pass is tried again, everything else is `Refused`."""
        for attempt in range(8):
            try:
                answer = self.session().request(
                    method, f"{self.url}{path}", json=body, params=params, timeout=120
                )
            except requests.ConnectionError:
                if attempt == 7:
                    raise
                time.sleep(min(2**attempt / 4, 15))
                continue
            # A source that is busy answers 5xx; repeating is safe, because every write is known by its tag.
            if answer.status_code in (429, 500, 502, 503, 504) and attempt < 7:
                time.sleep(min(2**attempt / 4, 15))
                continue
            if answer.status_code >= 400:
                raise refusal(answer)
            return answer.json() if answer.content else {}
        raise AssertionError("the last attempt returns or raises")

    def pages(self, method: str, path: str, name: str, query: dict):
        """Everything that a search finds, page by page."""
        token = None
        while True:
            asked = dict(query, **({"page_token": token} if token else {}))
            found = (
                self.call(method, path, params=asked)
                if method == "GET"
                else self.call(method, path, body=asked)
            )
            yield from found.get(name, [])
            token = found.get("next_page_token")
            if not token:
                return

    def files(self, root: str, path: str = ""):
        """All files under an artifact root `mlflow-artifacts:/…`: path and size."""
        base = artifact_path(root)
        wanted = "/".join(part for part in (base, path) if part)
        listed = self.call("GET", "/api/2.0/mlflow-artifacts/artifacts", params={"path": wanted})
        for file in listed.get("files", []):
            # Servers answer names that are relative to what was asked for.
            inner = "/".join(part for part in (path, PurePosixPath(file["path"]).name) if part)
            if file.get("is_dir"):
                yield from self.files(root, inner)
            else:
                yield inner, int(file.get("file_size") or 0)

    def fetch(self, root: str, path: str, into: Path) -> None:
        """Downloads one artifact."""
        name = urllib.parse.quote(f"{artifact_path(root)}/{path}")
        with self.session().get(
            f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{name}", stream=True, timeout=300
        ) as answer:
            if answer.status_code >= 400:
                raise refusal(answer)
            with into.open("wb") as file:
                for chunk in answer.iter_content(1024 * 1024):
                    file.write(chunk)

    def send(self, root: str, path: str, source: Path) -> None:
        """Uploads one artifact straight to S3, in presigned parts."""
        folder, _, name = f"{artifact_path(root)}/{path}".rpartition("/")
        at = urllib.parse.quote(folder)
        size = source.stat().st_size
        count = max(1, -(-size // PART_BYTES))
        begun = self.call(
            "POST", f"/api/2.0/mlflow-artifacts/mpu/create/{at}", {"path": name, "num_parts": count}
        )
        parts = []
        try:
            with source.open("rb") as file:
                for part in begun["credentials"]:
                    # S3 signed the request already, so our own login must not go with it.
                    answer = requests.put(
                        part["url"], data=file.read(PART_BYTES), headers=part.get("headers") or {}, timeout=600
                    )
                    if answer.status_code >= 400:
                        raise refusal(answer)
                    number = part["part_number"]
                    parts.append({"part_number": number, "etag": answer.headers["ETag"], "url": part["url"]})
            done = {"path": name, "upload_id": begun["upload_id"], "parts": parts}
            self.call("POST", f"/api/2.0/mlflow-artifacts/mpu/complete/{at}", done)
        except BaseException:
            aborted = {"path": name, "upload_id": begun["upload_id"]}
            self.call("POST", f"/api/2.0/mlflow-artifacts/mpu/abort/{at}", aborted)
            raise


def refusal(answer: requests.Response) -> Refused:
    """What an answer says of itself."""
    try:
        said = answer.json()
    except ValueError:
        said = {}
    error = said.get("error") if isinstance(said.get("error"), dict) else said
    code = error.get("error_code") or error.get("code") or "UNKNOWN"
    return Refused(answer.status_code, code, error.get("message") or answer.text[:200])


def artifact_path(root: str) -> str:
    """The path that `mlflow-artifacts:` roots have on their server."""
    return urllib.parse.unquote(urllib.parse.urlsplit(root).path).strip("/")


def tags_of(entity: dict) -> dict[str, str]:
    """Tags as a dictionary."""
    return {tag["key"]: tag.get("value", "") for tag in entity.get("tags", [])}


def pairs(values: dict[str, str]) -> list[dict[str, str]]:
    """A dictionary as tags."""
    return [{"key": key, "value": value} for key, value in values.items()]


def quoted(text: str) -> str:
    """A value as filters write it."""
    return "'" + text.replace("'", "''") + "'"


@dataclass
class Report:
    """What was copied, what was there already, and what could not be copied."""

    copied: Counter = field(default_factory=Counter)
    present: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    shown: float = 0.0

    def count(self, what: str, was_there: bool = False) -> None:
        """Counts one thing, and tells how far the command is about once a second."""
        with self.lock:
            (self.present if was_there else self.copied)[what] += 1
            if time.monotonic() - self.shown >= 1:
                self.shown = time.monotonic()
                print(self.line(), file=sys.stderr, flush=True)

    def problem(self, text: str) -> None:
        """Keeps something that could not be copied, and tells it at once."""
        with self.lock:
            self.problems.append(text)
            print(f"not copied: {text}", file=sys.stderr, flush=True)

    def line(self) -> str:
        """How far the command is, in one line."""
        names = sorted(set(self.copied) | set(self.present))
        counts = [f"{self.copied[name]} {name} ({self.present[name]} there already)" for name in names]
        return ", ".join(counts) or "nothing yet"


class Import:
    """One import; every step finds out for itself what was done before."""

    def __init__(self, source: Server, target: Server, workers: int, pattern: str):
        self.source = source
        self.target = target
        self.pattern = pattern
        self.report = Report()
        self.workers = workers
        self.experiments: dict[str, str] = {}
        # Source id to (target id, source root, target root).
        self.runs: dict[str, tuple[str, str, str]] = {}
        self.models: dict[str, tuple[str, str, str]] = {}

    def go(self) -> Report:
        """Copies everything, what others refer to first."""
        for experiment in self.source.pages(
            "POST",
            "/api/2.0/mlflow/experiments/search",
            "experiments",
            {"max_results": 1000, "view_type": "ALL"},
        ):
            self.attempt(f"experiment `{experiment['name']}`", self.experiment, experiment)
        for old, new in self.experiments.items():
            self.each("run", self.run, self.search_runs(old), new)
            self.each("logged model", self.logged_model, self.search_logged_models(old), new)
        names = self.source.pages(
            "GET", "/api/2.0/mlflow/registered-models/search", "registered_models", {"max_results": 1000}
        )
        wanted = [model for model in names if fnmatch.fnmatchcase(model["name"], self.pattern)]
        self.each("registered model", self.registered_model, wanted)
        return self.report

    def each(self, what: str, copy, entities, *more) -> None:
        """Copies many, several at a time; one that fails does not stop the others."""
        with ThreadPoolExecutor(self.workers) as pool:
            for entity in entities:
                info = entity.get("info", entity)
                name = info.get("name") or info.get("run_id") or info.get("model_id")
                pool.submit(self.attempt, f"{what} `{name}`", copy, entity, *more)

    def attempt(self, what: str, copy, *arguments) -> None:
        """Copies one; what it is told in the way is kept for the report."""
        try:
            copy(*arguments)
        except (Refused, requests.RequestException, OSError, KeyError) as error:
            self.report.problem(f"{what}: {error}")

    def search_runs(self, experiment: str):
        """All runs of an experiment of the source, deleted ones too."""
        return self.source.pages(
            "POST",
            "/api/2.0/mlflow/runs/search",
            "runs",
            {"experiment_ids": [experiment], "max_results": 1000, "run_view_type": "ALL"},
        )

    def search_logged_models(self, experiment: str):
        """All logged models of an experiment; servers before 3.0 have none."""
        try:
            yield from self.source.pages(
                "POST", "/api/2.0/mlflow/logged-models/search", "models", {"experiment_ids": [experiment]}
            )
        except Refused as refused:
            if refused.status != 404:
                raise

    def experiment(self, experiment: dict) -> None:
        """Copies an experiment, or takes the one of its name."""
        name = experiment["name"]
        try:
            found = self.target.call(
                "GET", "/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": name}
            )["experiment"]
            self.report.count("experiments", was_there=True)
        except Refused as refused:
            if refused.status != 404:
                raise
            created = self.target.call(
                "POST", "/api/2.0/mlflow/experiments/create", {"name": name, "tags": experiment.get("tags", [])}
            )
            found = {"experiment_id": created["experiment_id"], "lifecycle_stage": "active"}
            self.report.count("experiments")
        self.experiments[experiment["experiment_id"]] = found["experiment_id"]
        # A deleted experiment takes no runs, so it is deleted last; its own runs are copied while it is there.
        if experiment.get("lifecycle_stage") == "deleted" and found.get("lifecycle_stage") == "deleted":
            del self.experiments[experiment["experiment_id"]]

    def run(self, run: dict, experiment: str) -> None:
        """Copies a run with its metrics' history and its artifacts."""
        info, data = run["info"], run.get("data", {})
        old = info["run_id"]
        found = self.target.call(
            "POST",
            "/api/2.0/mlflow/runs/search",
            {
                "experiment_ids": [experiment],
                "filter": f"tags.`{RUN_TAG}` = {quoted(old)}",
                "run_view_type": "ALL",
                "max_results": 1,
            },
        ).get("runs", [])
        if found:
            new = found[0]
        else:
            new = self.target.call(
                "POST",
                "/api/2.0/mlflow/runs/create",
                {
                    "experiment_id": experiment,
                    "run_name": info.get("run_name"),
                    "user_id": info.get("user_id"),
                    "start_time": info.get("start_time"),
                    "tags": pairs({**tags_of(data), RUN_TAG: old}),
                },
            )["run"]
        new_id = new["info"]["run_id"]
        self.runs[old] = (new_id, info["artifact_uri"], new["info"]["artifact_uri"])
        if DONE_TAG in tags_of(new.get("data", {})):
            self.report.count("runs", was_there=True)
            return
        self.log(new_id, "params", data.get("params", []))
        for metric in data.get("metrics", []):
            history = self.source.pages(
                "GET",
                "/api/2.0/mlflow/metrics/get-history",
                "metrics",
                {"run_id": old, "metric_key": metric["key"], "max_results": 25000},
            )
            self.log(new_id, "metrics", list(history))
        inputs = run.get("inputs", {}).get("dataset_inputs")
        if inputs:
            self.target.call("POST", "/api/2.0/mlflow/runs/log-inputs", {"run_id": new_id, "datasets": inputs})
        self.artifacts(f"run `{old}`", info["artifact_uri"], new["info"]["artifact_uri"])
        # The tag comes last: what is not whole has none, and is done again.
        self.log(new_id, "tags", pairs({DONE_TAG: "true"}))
        ended = {"run_id": new_id, "status": info.get("status"), "end_time": info.get("end_time")}
        self.target.call(
            "POST", "/api/2.0/mlflow/runs/update", {key: value for key, value in ended.items() if value}
        )
        if info.get("lifecycle_stage") == "deleted":
            self.target.call("POST", "/api/2.0/mlflow/runs/delete", {"run_id": new_id})
        self.report.count("runs")

    def log(self, run: str, what: str, values: list) -> None:
        """Logs values in batches as large as a request may be."""
        for first in range(0, len(values), BATCH[what]):
            batch = {"run_id": run, what: values[first : first + BATCH[what]]}
            self.target.call("POST", "/api/2.0/mlflow/runs/log-batch", batch)

    def artifacts(self, of: str, old: str, new: str) -> None:
        """Copies the files under one root that the other does not have in that size."""
        if not old.startswith("mlflow-artifacts:"):
            if old.startswith(("/", "file:")):
                self.report.problem(f"artifacts of {of}: `{old}` lies on the server's own disk; serve it with --serve-artifacts")
            else:
                self.report.problem(f"artifacts of {of}: they stay at `{old}`, and versions refer to them there")
            return
        present = dict(self.target.files(new))
        for path, size in self.source.files(old):
            if present.get(path) == size:
                self.report.count("artifacts", was_there=True)
                continue
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder) / "artifact"
                self.source.fetch(old, path, local)
                self.target.send(new, path, local)
            self.report.count("artifacts")

    def logged_model(self, model: dict, experiment: str) -> None:
        """Copies a logged model with its files."""
        info, data = model["info"], model.get("data", {})
        old = info["model_id"]
        found = self.target.call(
            "POST",
            "/api/2.0/mlflow/logged-models/search",
            {"experiment_ids": [experiment], "filter": f"tags.`{MODEL_TAG}` = {quoted(old)}", "max_results": 1},
        ).get("models", [])
        if found:
            new = found[0]
        else:
            run = self.runs.get(info.get("source_run_id", ""))
            created = {
                "experiment_id": experiment,
                "name": info.get("name"),
                "model_type": info.get("model_type"),
                "source_run_id": run[0] if run else None,
                "params": data.get("params", []),
                "tags": pairs({**tags_of(info), MODEL_TAG: old}),
            }
            created = {key: value for key, value in created.items() if value is not None}
            new = self.target.call("POST", "/api/2.0/mlflow/logged-models", created)["model"]
        new_id, root = new["info"]["model_id"], new["info"]["artifact_uri"]
        self.models[old] = (new_id, info["artifact_uri"], root)
        if DONE_TAG in tags_of(new["info"]):
            self.report.count("logged models", was_there=True)
            return
        self.artifacts(f"logged model `{old}`", info["artifact_uri"], root)
        # Servers before 3.1 write the status as a number.
        is_ready = info.get("status") in ("LOGGED_MODEL_READY", "READY", 2, "2")
        status = "LOGGED_MODEL_READY" if is_ready else "LOGGED_MODEL_UPLOAD_FAILED"
        path = f"/api/2.0/mlflow/logged-models/{new_id}"
        self.target.call("PATCH", path, {"model_id": new_id, "status": status})
        self.target.call("PATCH", f"{path}/tags", {"tags": pairs({DONE_TAG: "true"})})
        self.report.count("logged models")

    def registered_model(self, model: dict) -> None:
        """Copies a registered model, its versions in their order, then what refers to them."""
        name = model["name"]
        created = {"name": name, "tags": model.get("tags", []), "description": model.get("description", "")}
        try:
            self.target.call("POST", "/api/2.0/mlflow/registered-models/create", created)
            self.report.count("registered models")
        except Refused as refused:
            if refused.code != "RESOURCE_ALREADY_EXISTS":
                raise
            self.report.count("registered models", was_there=True)
        versions = self.versions(self.source, name)
        present = self.versions(self.target, name)
        last = max(present, default=0)
        for number in range(1, max(versions, default=0) + 1):
            version = versions.get(number)
            if number in present:
                if version is not None and tags_of(present[number]).get(VERSION_TAG) != str(number):
                    self.report.problem(f"version {number} of `{name}`: the target has another version of this number")
                elif version is not None:
                    self.report.count("versions", was_there=True)
                elif VERSION_TAG in tags_of(present[number]):
                    self.remove(name, number)
            elif number > last:
                self.version(name, number, version)
        self.refer(name, model, versions)

    def versions(self, server: Server, name: str) -> dict[int, dict]:
        """All versions of a model, by number."""
        found = server.pages(
            "GET",
            "/api/2.0/mlflow/model-versions/search",
            "model_versions",
            {"filter": f"name = {quoted(name)}", "max_results": 10000},
        )
        return {int(version["version"]): version for version in found}

    def version(self, name: str, number: int, version: dict | None) -> None:
        """Copies a version; a gap is a version that is deleted at once, so that numbers stay as they are."""
        tags = {VERSION_TAG: str(number)}
        if version is None:
            body = {"name": name, "source": "s3://slipway-import/gap", "tags": pairs(tags)}
        else:
            body = {
                "name": name,
                "source": self.source_of(version),
                "description": version.get("description", ""),
                "run_link": version.get("run_link") or None,
                "tags": pairs({**tags_of(version), **tags}),
            }
            run = self.runs.get(version.get("run_id") or "")
            if run:
                body["run_id"] = run[0]
            model = self.models.get(version.get("model_id") or "")
            if model:
                body["model_id"] = model[0]
        body = {key: value for key, value in body.items() if value is not None}
        made = self.target.call("POST", "/api/2.0/mlflow/model-versions/create", body)["model_version"]
        if int(made["version"]) != number:
            raise Refused(409, "CONFLICT", f"version {number} became {made['version']}: somebody else writes to `{name}`")
        if version is None:
            self.remove(name, number)
        else:
            self.report.count("versions")

    def remove(self, name: str, number: int) -> None:
        """Deletes the version that stands for a gap."""
        body = {"name": name, "version": str(number)}
        self.target.call("DELETE", "/api/2.0/mlflow/model-versions/delete", body)

    def source_of(self, version: dict) -> str:
        """Where a version's files are now."""
        source = version.get("source") or ""
        logged = re.fullmatch(r"models:/+(m-[^/]+)(/.*)?", source)
        if logged and logged[1] in self.models:
            return f"models:/{self.models[logged[1]][0]}"
        of_run = re.fullmatch(r"runs:/+([^/]+)/(.*)", source)
        if of_run and of_run[1] in self.runs:
            return f"runs:/{self.runs[of_run[1]][0]}/{of_run[2]}"
        for _, old, new in list(self.models.values()) + list(self.runs.values()):
            # A root that was not copied keeps its files where they are.
            if old.startswith("mlflow-artifacts:") and (source == old or source.startswith(old + "/")):
                return new + source[len(old) :]
        return source

    def refer(self, name: str, model: dict, versions: dict[int, dict]) -> None:
        """Copies stages and aliases, when the versions that they refer to are ready."""
        aliases = {alias["alias"]: str(alias["version"]) for alias in model.get("aliases", [])}
        staged = {
            str(number): version["current_stage"]
            for number, version in versions.items()
            if version.get("current_stage") not in (None, "", "None")
        }
        target = self.target.call("GET", "/api/2.0/mlflow/registered-models/get", params={"name": name})
        held = {alias["alias"]: str(alias["version"]) for alias in target["registered_model"].get("aliases", [])}
        for number in sorted(set(aliases.values()) | set(staged), key=int):
            if not self.settle(name, number):
                continue
            if number in staged:
                body = {"name": name, "version": number, "stage": staged[number], "archive_existing_versions": False}
                self.attempt(f"stage of version {number} of `{name}`", self.target.call, "POST",
                             "/api/2.0/mlflow/model-versions/transition-stage", body)
            for alias in (alias for alias, version in aliases.items() if version == number):
                if held.get(alias) == number:
                    self.report.count("aliases", was_there=True)
                    continue
                body = {"name": name, "alias": alias, "version": number}
                self.attempt(f"alias `{alias}` of `{name}`", self.target.call, "POST",
                             "/api/2.0/mlflow/registered-models/alias", body)
                self.report.count("aliases")

    def settle(self, name: str, number: str) -> bool:
        """Waits until a version is validated; whether it may be referred to."""
        deadline = time.monotonic() + SETTLE_SECONDS
        query = {"name": name, "version": number}
        while True:
            version = self.target.call("GET", "/api/2.0/mlflow/model-versions/get", params=query)["model_version"]
            if version.get("status", "READY") == "READY":
                return True
            if version["status"] == "FAILED_REGISTRATION" or time.monotonic() > deadline:
                why = version.get("status_message") or version["status"]
                self.report.problem(f"stage and aliases of version {number} of `{name}`: {why}")
                return False
            time.sleep(0.5)


def main(arguments: list[str] | None = None) -> int:
    """The command `slipway-import-mlflow`."""
    parser = argparse.ArgumentParser(
        prog="slipway-import-mlflow",
        description="Copies an MLflow server into Slipway. It can be stopped and run again at any time.",
        epilog="Credentials come from SOURCE_TOKEN, or SOURCE_USERNAME and SOURCE_PASSWORD, and from "
        "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, for Slipway.",
    )
    parser.add_argument("source", help="URL of the MLflow server")
    parser.add_argument("target", help="URL of Slipway, with /t/<tenant> if it is not the default tenant")
    parser.add_argument("--models", default="*", metavar="PATTERN", help="only registered models of such names, for example 'fraud-*'")
    parser.add_argument("--workers", type=int, default=8, help="how many things are copied at a time (8)")
    asked = parser.parse_args(arguments)
    env = os.environ.get
    source = Server(asked.source, env("SOURCE_TOKEN"), env("SOURCE_USERNAME"), env("SOURCE_PASSWORD"))
    target = Server(
        asked.target,
        env("MLFLOW_TRACKING_TOKEN"),
        env("MLFLOW_TRACKING_USERNAME"),
        env("MLFLOW_TRACKING_PASSWORD"),
    )
    try:
        report = Import(source, target, max(1, asked.workers), asked.models).go()
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except (Refused, requests.RequestException) as error:
        print(f"slipway-import-mlflow: {error}", file=sys.stderr)
        return 2
    print(report.line())
    for problem in report.problems:
        print(f"not copied: {problem}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
