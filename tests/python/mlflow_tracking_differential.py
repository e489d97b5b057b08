"""Plays the same random tracking calls to a stock `mlflow server` and to Slipway, and tells where the answers differ.

    python tests/python/mlflow_tracking_differential.py --stock http://127.0.0.1:5000 --slipway http://127.0.0.1:8080 \
        --seed 1 --steps 500

With `--record FILE` it keeps what the stock server answers, which `test_mlflow_tracking.py` plays back.
Both must be fresh, because experiments are numbered. A seed always plays the same calls. Ids are put aside before
comparing, and so are times of the server, messages, and the order of tags, parameters and latest metrics.

Where stock answers a fault to a caller's mistake (500, or the text of a database error), any 4xx of ours is right.
"""

import argparse
import json
import random
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import mlflow_recording

API = "/api/2.0/mlflow/"
NOT_COMPARED = {
    "creation_time", "last_update_time", "creation_timestamp_ms", "last_updated_timestamp_ms", "workspace", "message",
    "sqlstate", "error_class", "next_page_token",
}  # fmt: skip
UNORDERED = {"tags", "params", "model_outputs", "model_inputs", "dataset_inputs"}
VALUES = [0, 1, -1, 0.5, 2.5, 1e-9, "NaN", "Infinity", "-Infinity", 3, 3, 0.1]
METRICS = ["loss", "acc", "m/x", "a b"]
PARAMS = ["lr", "depth", "opt"]
TAGS = ["env", "owner", "x.y"]
MISTAKES = [
    "foo.bar = 'x'", "attributes.nope = 'x'", "metrics.loss = 'x'", "params.lr = 1", "name", "metrics.loss LIKE 'x'",
    "status IN ('FINISHED')", "params.lr > '1'", "metrics.loss IS NULL", "start_time = 'x'", "run_id IN ()",
    "metrics.loss > 1 OR metrics.loss < 0", "dataset.foo = 'x'", "tags.env == 'p'", "(params.lr = '1')",
]  # fmt: skip
ORDERS = [
    "metrics.loss", "metrics.acc DESC", "metrics.`a b` ASC", "params.lr", "params.depth DESC", "tags.env",
    "tags.owner desc", "attributes.start_time", "start_time DESC", "attributes.end_time DESC", "run_name",
    "attributes.status", "user_id DESC", "Created", "end_time",
]  # fmt: skip
WRONG_ORDERS = ["nope", "metrics.loss up", "metrics.loss asc desc", "dataset.name", "attributes.lifecycle_stage"]


class Server:
    """One of the two, over one kept connection, with the ids that it gave."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.prefix = parts.path.rstrip("/")
        self.connection = HTTPConnection(parts.hostname, parts.port, timeout=60)
        self.ids: dict[str, str] = {}

    def real(self, value):
        """Puts this server's ids where their names stand; names begin with `$`."""
        if isinstance(value, str):
            for name in sorted(self.ids, key=len, reverse=True):
                value = value.replace(name, self.ids[name])
            return value
        if isinstance(value, list):
            return [self.real(one) for one in value]
        if isinstance(value, dict):
            return {key: self.real(one) for key, one in value.items()}
        return value

    def named(self, value, is_history: bool = False):
        """Puts names where this server's ids stand, and aside what is not compared."""
        if isinstance(value, dict):
            shown = {}
            for key, one in value.items():
                if key in NOT_COMPARED or (key in ("inputs", "outputs") and not one):
                    continue
                shown[key] = self.named(one, is_history)
                if key in UNORDERED or (key == "metrics" and not is_history):
                    shown[key].sort(key=lambda entry: json.dumps(entry, sort_keys=True))
            return shown
        if isinstance(value, list):
            return [self.named(one, is_history) for one in value]
        if isinstance(value, str):
            for name, real in self.ids.items():
                # Experiments are numbered alike by both.
                if len(real) > 8:
                    value = value.replace(real, name)
        return value

    def version(self) -> str:
        self.connection.request("GET", self.prefix + "/version")
        return self.connection.getresponse().read().decode()

    def call(self, method: str, path: str, fields: dict) -> tuple[int, dict]:
        target, body, headers = self.prefix + API + self.real(path), None, {}
        if method == "GET":
            target += "?" + urlencode(self.real(fields), doseq=True)
        else:
            body, headers = json.dumps(self.real(fields)), {"Content-Type": "application/json"}
        self.connection.request(method, target, body=body, headers=headers)
        answer = self.connection.getresponse()
        raw = answer.read()
        try:
            return answer.status, json.loads(raw)
        except json.JSONDecodeError:
            return answer.status, {"not_json": raw[:300].decode(errors="replace")}


class Play:
    """A sequence of random calls to both."""

    def __init__(self, ours: Server, stock: Server, seed: int) -> None:
        self.ours, self.stock = ours, stock
        self.random = random.Random(seed)
        self.base = 1_700_000_000_000 + seed * 1_000_000
        self.label = str(seed)
        self.experiments, self.runs, self.models = [], [], []
        self.made = 0
        self.differences: list[str] = []

    def differ(self, what: str, fields: object, ours: object, stock: object) -> None:
        self.differences.append(f"{what} {json.dumps(fields)[:400]}\n  ours  {ours!s:.900}\n  stock {stock!s:.900}")

    def call(self, method: str, path: str, fields: dict, name: str = "", where: tuple[str, ...] = ()):
        answers = [server.call(method, path, fields) for server in (self.ours, self.stock)]
        for server, (status, body) in zip((self.ours, self.stock), answers):
            if name and status == 200:
                for part in where:
                    body = body[part]
                server.ids[name] = body
        is_history = "history" in path
        (our_status, ours), (stock_status, stock) = answers
        shown = (self.ours.named(ours, is_history), self.stock.named(stock, is_history))
        is_fault = stock_status == 500 or "sqlite3" in str(stock)
        is_same_refusal = our_status == stock_status >= 400 and ours.get("error_code") == stock.get("error_code")
        if (our_status, shown[0]) != (stock_status, shown[1]) and not (
            is_same_refusal or (is_fault and 400 <= our_status < 500)
        ):
            self.differ(f"{method} {path}", fields, (our_status, shown[0]), (stock_status, shown[1]))
        return answers

    def create_experiment(self) -> None:
        number = len(self.experiments)
        tags = [{"key": "team", "value": self.random.choice("ab")}]
        fields = {"name": f"d{self.label}-{number}", "tags": tags}
        self.call("POST", "experiments/create", fields, f"$E{number}", ("experiment_id",))
        self.experiments.append(f"$E{number}")

    def create_run(self) -> None:
        pick = self.random.choice
        number, self.made = self.made, self.made + 1
        fields = {
            "experiment_id": pick(self.experiments),
            # No two runs begin together: ties are broken by ids, which differ.
            "start_time": self.base + number * 7 if self.random.random() < 0.9 else self.base - number,
            "run_name": f"run-{number}" if self.random.random() < 0.8 else f"Run_{number}%",
            "user_id": pick(["ann", "bob"]),
            "tags": [{"key": pick(TAGS), "value": pick(["p", "q", "P%", "o_x"])}],
        }
        name = f"$R{number:03}"
        self.call("POST", "runs/create", fields, name, ("run", "info", "run_id"))
        if name in self.ours.ids and name in self.stock.ids:
            self.runs.append(name)

    def metric(self) -> dict:
        return {
            "key": self.random.choice(METRICS),
            "value": self.random.choice(VALUES),
            "timestamp": self.random.randrange(5),
            "step": self.random.randrange(-1, 4),
        }

    def log(self) -> None:
        pick, of = self.random.choice, {"run_id": self.random.choice(self.runs)}
        match self.random.randrange(9):
            case 0 | 1 | 2:
                few = self.random.sample(PARAMS, self.random.randrange(3))
                params = [{"key": key, "value": pick(["1", "2", "adam", "Adam"])} for key in few]
                tags = [{"key": pick(TAGS), "value": pick(["p", "q", ""])} for _ in range(self.random.randrange(3))]
                metrics = [self.metric() for _ in range(self.random.randrange(6))]
                self.call("POST", "runs/log-batch", {**of, "metrics": metrics, "params": params, "tags": tags})
            case 3:
                self.call("POST", "runs/log-metric", {**of, **self.metric()})
            case 4:
                self.call("POST", "runs/log-parameter", {**of, "key": pick(PARAMS), "value": pick("12")})
            case 5:
                key = pick([*TAGS, "mlflow.runName", 'bad"key', "../x", ""])
                self.call("POST", "runs/set-tag", {**of, "key": key, "value": pick(["p", "zz", ""])})
            case 6:
                self.call("POST", "runs/delete-tag", {**of, "key": pick(TAGS)})
            case 7:
                end = {"status": pick(["FINISHED", "FAILED", "KILLED", 3]), "end_time": self.base + self.random.randrange(1000)}
                self.call("POST", "runs/update", {**of, **pick([end, end, {"run_name": "renamed"}, {"run_name": ""}])})
            case _:
                dataset = {"name": pick(["d1", "d2"]) + of["run_id"][1:], "digest": pick(["x1", "x2"])}
                used = {
                    "tags": [{"key": "mlflow.data.context", "value": pick(["train", "eval"])}],
                    "dataset": {**dataset, "source_type": "local", "source": "{}"},
                }
                self.call("POST", "runs/log-inputs", {**of, "datasets": [used]})

    def live(self) -> None:
        pick, of = self.random.choice, {"experiment_id": self.random.choice(self.experiments)}
        match self.random.randrange(10):
            case 0 | 1 | 2 | 3 | 4:
                self.call("POST", pick(["runs/delete", "runs/restore"]), {"run_id": pick(self.runs)})
            case 5 | 6:
                self.call("POST", pick(["experiments/delete", "experiments/restore"]), of)
            case 7:
                tag = {"key": pick(["team", "z"]), "value": pick("aB")}
                self.call("POST", "experiments/set-experiment-tag", {**of, **tag})
            case 8:
                self.call("POST", "experiments/update", {**of, "new_name": f"d{self.label}-{self.random.randrange(5)}"})
            case _:
                self.call("POST", "experiments/delete-experiment-tag", {**of, "key": "z"})

    def condition(self) -> str:
        pick = self.random.choice
        textual = pick(["=", "!=", "LIKE", "ILIKE", "like"])
        numeric = pick(["=", "!=", "<", "<=", ">", ">="])
        text = pick(["'%s'", '"%s"']) % pick(["p", "q", "P%", "%x", "_", "run%", "RUN%", "adam", "1", ""])
        few = ", ".join(f"'{run}'" for run in self.random.sample(self.runs, min(3, len(self.runs))))
        soon = self.base + self.random.randrange(1000)
        return pick([
            f"metrics.{pick(['loss', 'acc', '`m/x`', '`a b`', 'nope'])} {numeric} {pick(['0', '1', '-1', '0.5', '1e3'])}",
            f"metric.loss {numeric} {pick(['0', '0.1'])}",
            f"params.{pick(PARAMS)} {textual} {text}",
            f"tags.{pick(['env', 'owner', '`x.y`', 'x.y'])} {textual} {text}",
            f"attributes.status {pick(['=', '!='])} '{pick(['FINISHED', 'RUNNING'])}'",
            f"run_name {textual} {text}",
            f"attributes.start_time {numeric} {soon // 5}",
            f"end_time {numeric} {soon}",
            f"run_id {pick(['IN', 'NOT IN', 'in'])} ({few})",
            f"{pick(['tags', 'params'])}.{pick(['env', 'lr', '`x.y`'])} IS {pick(['', 'NOT '])}NULL",
            f"dataset.{pick(['name', 'digest', 'context'])} {pick(['=', '!=', 'LIKE'])} '{pick(['d1%', 'x1', 'train', '%'])}'",
            f"user_id {textual} '{pick(['ann', 'bob', 'a%'])}'",
            pick(MISTAKES),
            "artifact_uri LIKE '%artifacts'",
        ])  # fmt: skip

    def search_runs(self) -> None:
        pick = self.random.choice
        conditions = [self.condition() for _ in range(pick([0, 1, 1, 1, 2, 2, 3]))]
        fields = {
            "experiment_ids": self.random.sample(self.experiments, self.random.randrange(1, 4)),
            "filter": " AND ".join(conditions) + (" AND" if self.random.random() < 0.05 else ""),
            "order_by": [pick(ORDERS) for _ in range(pick([0, 0, 1, 1, 2]))],
            "max_results": pick([2, 3, 5, 1000] if self.random.random() < 0.9 else [1, 0, -1, 50001]),
        }
        if self.random.random() < 0.04:
            fields["order_by"] = [pick(WRONG_ORDERS)]
        if self.random.random() < 0.7:
            fields["run_view_type"] = pick(["ACTIVE_ONLY", "DELETED_ONLY", "ALL"])
        answers = self.call("POST", "runs/search", fields)
        for page in range(1, 60):
            tokens = [body.get("next_page_token") for _, body in answers]
            if bool(tokens[0]) != bool(tokens[1]):
                self.differ(f"the token of page {page}", fields, *tokens)
            if not all(tokens):
                return
            answers = [
                server.call("POST", "runs/search", {**fields, "page_token": token})
                for server, token in zip((self.ours, self.stock), tokens)
            ]
            shown = [
                [server.named(run["info"]["run_id"]) for run in body.get("runs", [])]
                for server, (_, body) in zip((self.ours, self.stock), answers)
            ]
            if shown[0] != shown[1]:
                self.differ(f"page {page + 1}", fields, *shown)
                return

    def search_experiments(self) -> None:
        pick, mine = self.random.choice, f"name LIKE 'd{self.label}%'"
        others = [
            f"name = 'd{self.label}-1'", "tags.team = 'a'", "tags.team != 'a'", "tags.z IS NULL", "tag.team ILIKE 'A'",
            "experiment_id IN ('$E0', '$E1')", "experiment_id != '$E2'", "attribute.name ILIKE 'D%'", "creation_time > 5",
            "last_update_time < 0", "params.x = '1'", "name > 'a'", "creation_time > 1.5", "nope = 'x'",
            "experiment_id LIKE '1'", "name IN ('a')",
        ]  # fmt: skip
        fields = {
            "filter": " AND ".join([mine, *(pick(others) for _ in range(self.random.randrange(1, 3)))]),
            "max_results": pick([1, 2, 10]),
            "order_by": pick([[], ["name"], ["name DESC"], ["experiment_id"], ["experiment_id desc"], ["tags.x"]]),
            "view_type": pick(["ACTIVE_ONLY", "ALL", "DELETED_ONLY"]),
        }
        self.call("POST", "experiments/search", fields)

    def logged_model(self) -> None:
        pick = self.random.choice
        if not self.models or self.random.random() < 0.12:
            name = f"$M{len(self.models):03}"
            fields = {
                "experiment_id": pick(self.experiments),
                "name": f"lm-{len(self.models)}",
                "model_type": pick(["", "agent"]),
                "params": [{"key": "p", "value": pick("12")}],
                "tags": [{"key": "t", "value": pick("ab")}],
            }
            self.call("POST", "logged-models", fields, name, ("model", "info", "model_id"))
            if name in self.ours.ids:
                self.models.append(name)
            # No two are created in one millisecond.
            time.sleep(0.003)
            return
        model = pick(self.models)
        of, path = {"model_id": model}, f"logged-models/{model}"
        match self.random.randrange(7):
            case 0:
                self.call("PATCH", path, {**of, "status": pick(["LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED", 2])})
            case 1:
                self.call("PATCH", f"{path}/tags", {**of, "tags": [{"key": pick("tu"), "value": pick("ab")}]})
            case 2:
                self.call("DELETE", f"{path}/tags/u", {})
            case 3:
                param = {"key": f"q{self.random.randrange(10**9)}", "value": "1"}
                self.call("POST", f"{path}/params", {**of, "params": [param]})
            case 4 if self.random.random() < 0.3:
                self.call("DELETE", path, {})
            case 5:
                dataset = pick([{}, {"dataset_name": "d1", "dataset_digest": "x"}])
                point = {"key": "acc", "value": pick([0.1, 0.5, 0.9]), "timestamp": self.random.randrange(9), "step": 1}
                self.call("POST", "runs/log-metric", {"run_id": pick(self.runs), **point, **of, **dataset})
            case _:
                self.call("GET", path, {})

    def search_logged_models(self) -> None:
        pick = self.random.choice
        conditions = [
            "name = 'lm-1'", "name LIKE 'lm%'", "metrics.acc > 0.3", "metrics.acc <= 0.5", "params.p = '1'",
            "params.p = 1", "tags.t != 'a'", "attributes.model_type = 'agent'", "creation_timestamp > 5",
            "model_id IN ('$M000', '$M001')", "foo.x = 'a'", "name > 'a'",
        ]  # fmt: skip
        fields = {
            "experiment_ids": self.experiments,
            "filter": " AND ".join(pick(conditions) for _ in range(self.random.randrange(3))),
            "max_results": pick([2, 50]),
            "order_by": pick([
                [], [{"field_name": "name"}], [{"field_name": "metrics.acc", "ascending": False}],
                [{"field_name": "metrics.acc", "dataset_name": "d1", "dataset_digest": "x"}],
                [{"field_name": "creation_timestamp", "ascending": False}], [{"field_name": "params.p"}],
            ]),
        }  # fmt: skip
        if self.random.random() < 0.2:
            # Stock finds nothing for a dataset without a digest.
            fields["datasets"] = [{"dataset_name": "d1", "dataset_digest": "x"}]
        self.call("POST", "logged-models/search", fields)

    def read(self) -> None:
        pick, run, metric = self.random.choice, self.random.choice(self.runs), self.random.choice(METRICS)
        match self.random.randrange(4):
            case 0 | 1:
                self.call("GET", "runs/get", {"run_id": run})
            case 2:
                self.call("GET", "metrics/get-history", {"run_id": run, "metric_key": metric})
            case _:
                fields = {"run_ids": [run], "metric_key": metric, "max_results": pick([1, 2, 3, 100])}
                self.call("GET", "metrics/get-history-bulk-interval", fields)

    def play(self, steps: int) -> None:
        for _ in range(3):
            self.create_experiment()
        for _ in range(8):
            self.create_run()
        acts = [
            (6, self.create_run), (39, self.log), (7, self.live), (28, self.search_runs), (4, self.search_experiments),
            (10, self.read), (4, self.logged_model), (2, self.search_logged_models),
        ]  # fmt: skip
        weights = [weight for weight, _ in acts]
        for _ in range(steps):
            _, act = self.random.choices(acts, weights)[0]
            act()


def differences(ours: Server, stock: Server, seed: int, steps: int) -> list[str]:
    """Where the two differ, one text each."""
    play = Play(ours, stock, seed)
    play.play(steps)
    return play.differences


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock", required=True)
    parser.add_argument("--slipway", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the stock server's answers")
    arguments = parser.parse_args()
    stock = Server(arguments.stock)
    told = mlflow_recording.record(stock) if arguments.record else None
    found = differences(Server(arguments.slipway), stock, arguments.seed, arguments.steps)
    if told is not None:
        mlflow_recording.save(arguments.record, stock.version(), arguments.seed, arguments.steps, told)
    print("\n".join(found) or f"no differences in {arguments.steps} steps of seed {arguments.seed}")
    sys.exit(bool(found))
