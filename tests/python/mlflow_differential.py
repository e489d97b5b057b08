"""Plays the same random calls to a stock `mlflow server` and to Slipway, and tells where the answers differ.

    python tests/python/mlflow_differential.py --stock http://127.0.0.1:5000 --slipway http://127.0.0.1:8080 \
        --seed 1 --steps 2000

With `--record FILE` it keeps what the stock server answers, which `test_mlflow_registry.py` plays back.
A seed always plays the same calls. Times and what only one of the two shows are put aside before comparing; `EXPECTED`
below and `docs/mlflow.md` say where ours is the right answer.
"""

import argparse
import json
import random
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import mlflow_recording

API = "/api/2.0/mlflow/"
STAGES = ["None", "Staging", "Production", "Archived"]
WORDS = ["iris", "Iris", "wine", "churn", "fraud-eu", "fraud-us", "ä-model", "a b", "x_y", "100%", "o'neil"]
TAGS = ["team", "Team", "mlflow.note", "a b", "order", "tier/1"]
VALUES = ["", "x", "X", "blue", "Blue sky", "100%", "a_b", "ü", "it's", "2"]
RUNS = ["", "run1", "run2", "RUN1", "0a1b2c"]
PROMPT = "mlflow.prompt.is_prompt"


class Server:
    """One of the two, over one kept connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.prefix = parts.path.rstrip("/")
        self.connection = HTTPConnection(parts.hostname, parts.port, timeout=60)

    def version(self) -> str:
        self.connection.request("GET", self.prefix + "/version")
        return self.connection.getresponse().read().decode()

    def call(self, method: str, path: str, fields: dict) -> tuple[int, dict]:
        target, body, headers = self.prefix + API + path, None, {}
        if method == "GET":
            target += "?" + urlencode(fields, doseq=True)
        else:
            body, headers = json.dumps(fields), {"Content-Type": "application/json"}
        self.connection.request(method, target, body=body, headers=headers)
        answer = self.connection.getresponse()
        raw = answer.read()
        try:
            return answer.status, json.loads(raw)
        except json.JSONDecodeError:
            return answer.status, {"not_json": raw[:300].decode(errors="replace")}


def normal_version(version: dict, in_search: bool) -> dict:
    shown = {key: value for key, value in version.items() if not key.endswith("_timestamp")}
    for only_ours in ("user_id", "model_id"):
        shown.pop(only_ours, None)
    for optional in ("description", "run_id", "run_link"):
        shown[optional] = shown.get(optional) or ""
    shown["tags"] = sorted((tag["key"], tag.get("value", "")) for tag in shown.get("tags", []))
    # Stock leaves aliases out of lists of versions.
    shown["aliases"] = [] if in_search else sorted(shown.get("aliases", []))
    return shown


def normal_model(model: dict) -> dict:
    shown = {key: value for key, value in model.items() if not key.endswith("_timestamp")}
    shown.pop("user_id", None)
    shown["description"] = shown.get("description") or ""
    shown["tags"] = sorted((tag["key"], tag.get("value", "")) for tag in shown.get("tags", []))
    shown["aliases"] = sorted((alias["alias"], alias["version"]) for alias in shown.get("aliases", []))
    latest = [normal_version(version, True) for version in shown.get("latest_versions", [])]
    shown["latest_versions"] = sorted(latest, key=lambda version: version["current_stage"])
    return shown


def normal(path: str, status: int, body: dict) -> tuple:
    """What of an answer must be the same."""
    if status >= 400:
        return status, body.get("error_code"), body.get("message") or body.get("not_json")
    if "registered_model" in body:
        return status, normal_model(body["registered_model"])
    if "model_version" in body:
        return status, normal_version(body["model_version"], False)
    if path.endswith("get-latest-versions"):
        versions = [normal_version(version, False) for version in body.get("model_versions", [])]
        return status, sorted(versions, key=lambda version: version["current_stage"])
    if path == "registered-models/search":
        return status, [normal_model(model) for model in body.get("registered_models", [])]
    if path == "model-versions/search":
        return status, [normal_version(version, True) for version in body.get("model_versions", [])]
    return status, body


def quoted(text: str) -> str:
    return '"' + text + '"' if "'" in text else "'" + text + "'"


class Player:
    """Makes calls that make sense often enough to matter, and mistakes often enough to matter too."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.mark = f"d{seed}-"
        self.known: list[str] = []

    def word(self) -> str:
        return self.mark + self.random.choice(WORDS) + self.random.choice(["", "", "1", "2", "-x"])

    def name(self) -> str:
        if self.known and self.random.random() < 0.9:
            return self.random.choice(self.known)
        return self.random.choice([self.word(), self.mark + "none", "", "a/b", ".", "a:b"])

    def version(self) -> str:
        return self.random.choice(["1", "1", "1", "2", "2", "3", "4", "5", "99", "0", "-1", "abc"])

    def alias(self) -> str:
        return self.random.choice(["champion", "champion", "challenger", "Prod", "ä", "latest", "v1", "a b", "x" * 256])

    def tag(self) -> dict:
        key = self.random.choice(TAGS + ["bad//key", "", "ключ"]) if self.random.random() < 0.2 else self.random.choice(TAGS)
        return {"key": key, "value": self.random.choice(VALUES)}

    def some_tags(self) -> list[dict]:
        return [self.tag() for _ in range(self.random.choice([0, 0, 1, 2, 3]))]

    def pattern(self, text: str) -> str:
        cut = self.random.randint(0, len(text))
        return self.random.choice([f"{text[:cut]}%", f"%{text[cut:]}", f"%{text[1:-1]}%", text, text.replace("r", "_"), text.upper()])

    def condition(self, attributes: list[str]) -> str:
        chance = self.random.random()
        if chance < 0.4:
            key = self.random.choice(["team", "mlflow.note", "`a b`", '"a b"', "`tier/1`"])
            entity = self.random.choice(["tags", "tag"])
            comparator = self.random.choice(["=", "!=", "LIKE", "ILIKE", "like"])
            value = self.random.choice(VALUES)
            if "ike" in comparator.lower():
                value = self.random.choice(["%", "b%", "%e%", "B_ue", value])
            return f"{entity}.{key} {comparator} {quoted(value)}"
        attribute = self.random.choice(attributes)
        if attribute == "version_number":
            return f"version_number {self.random.choice(['=', '!=', '<', '<=', '>', '>='])} {self.random.randint(0, 5)}"
        texts = {"name": self.known or ["none"], "run_id": RUNS, "source_path": ["s3://elsewhere/a", "s3://elsewhere/B"]}
        comparator = self.random.choice(["=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"])
        text = self.random.choice(texts[attribute])
        if comparator in ("IN", "NOT IN"):
            if attribute == "source_path":
                comparator = "="
            else:
                listed = {self.random.choice(texts[attribute]).replace("'", "") for _ in range(3)}
                return f"{attribute} {comparator} ({', '.join(quoted(one) for one in sorted(listed))})"
        if "LIKE" in comparator:
            text = self.pattern(text)
        return f"{attribute} {comparator} {quoted(text)}"

    def filter(self, attributes: list[str]) -> str:
        parts = [f"name LIKE '{self.mark}%'"]
        parts += [self.condition(attributes) for _ in range(self.random.choice([0, 1, 1, 2, 3]))]
        if self.random.random() < 0.2:
            parts.append(f"tags.`{PROMPT}` {self.random.choice(['=', '!='])} {quoted(self.random.choice(['true', 'false']))}")
        self.random.shuffle(parts)
        if self.random.random() < 0.05:
            parts.append(self.random.choice(["name", "foo = 'x'", "name > 'x'", "tags.team = 3", "bar.x = 'y'", "version_number = 'x'"]))
        return " AND ".join(parts)

    def call(self) -> tuple[str, str, dict]:
        """Method, path and fields of the next call."""
        kinds = {
            self.create_model: 8, self.create_version: 14, self.change_notes: 8, self.tags: 10, self.aliases: 10,
            self.stages: 8, self.reads: 16, self.searches: 22, self.deletes: 4, self.mistakes: 4,
        }
        return self.random.choices(list(kinds), list(kinds.values()))[0]()

    def create_model(self):
        name = self.word() if self.random.random() < 0.9 else self.name()
        self.known.append(name)
        fields = {"name": name, "tags": self.some_tags()}
        if self.random.random() < 0.1:
            fields["tags"].append({"key": PROMPT, "value": "true"})
        if self.random.random() < 0.5:
            fields["description"] = self.random.choice(["", "a model", "ü\nx"])
        return "POST", "registered-models/create", fields

    def create_version(self):
        fields = {
            "name": self.name(),
            "source": self.random.choice(["s3://elsewhere/a", "s3://elsewhere/B", "gs://b/c", "/etc/passwd", "s3://b/../c", ""]),
            "run_id": self.random.choice(RUNS),
            "tags": self.some_tags(),
        }
        if self.random.random() < 0.8:
            fields["source"] = self.random.choice(["s3://elsewhere/a", "s3://elsewhere/B"])
        if self.random.random() < 0.3:
            fields |= {"run_link": "https://x/y", "description": "d"}
        return "POST", "model-versions/create", fields

    def change_notes(self):
        if self.random.random() < 0.5:
            return "PATCH", "registered-models/update", {"name": self.name(), "description": self.random.choice(["", "new"])}
        fields = {"name": self.name(), "version": self.version(), "description": self.random.choice(["", "new"])}
        return "PATCH", "model-versions/update", fields

    def tags(self):
        chance, tag = self.random.random(), self.tag()
        if chance < 0.35:
            return "POST", "registered-models/set-tag", {"name": self.name()} | tag
        if chance < 0.5:
            return "DELETE", "registered-models/delete-tag", {"name": self.name(), "key": tag["key"]}
        if chance < 0.85:
            return "POST", "model-versions/set-tag", {"name": self.name(), "version": self.version()} | tag
        return "DELETE", "model-versions/delete-tag", {"name": self.name(), "version": self.version(), "key": tag["key"]}

    def aliases(self):
        if self.random.random() < 0.75:
            return "POST", "registered-models/alias", {"name": self.name(), "alias": self.alias(), "version": self.version()}
        return "DELETE", "registered-models/alias", {"name": self.name(), "alias": self.alias()}

    def stages(self):
        stage = self.random.choice(STAGES + ["production", "ARCHIVED", "Nowhere"])
        archives = self.random.random() < 0.4 and stage.lower() in ("staging", "production")
        fields = {"name": self.name(), "version": self.version(), "stage": stage, "archive_existing_versions": archives}
        return "POST", "model-versions/transition-stage", fields

    def reads(self):
        kind = self.random.randint(0, 5)
        if kind == 0:
            return "GET", "registered-models/get", {"name": self.name()}
        if kind == 1:
            return "GET", "registered-models/alias", {"name": self.name(), "alias": self.alias()}
        if kind == 2:
            return "GET", "model-versions/get", {"name": self.name(), "version": self.version()}
        if kind == 3:
            return "GET", "model-versions/get-download-uri", {"name": self.name(), "version": self.version()}
        stages = self.random.choice([[], ["Production"], ["None", "staging"], ["Nowhere"]])
        return self.random.choice(["GET", "POST"]), "registered-models/get-latest-versions", {"name": self.name(), "stages": stages}

    def searches(self):
        fields = {}
        if self.random.random() < 0.5:
            fields["filter"] = self.filter(["name"])
            path, keys = "registered-models/search", ["name", "name DESC", "name ASC"]
        else:
            fields["filter"] = self.filter(["name", "run_id", "source_path", "version_number"])
            path = "model-versions/search"
            keys = ["name", "name DESC", "version_number", "version_number DESC", "creation_timestamp", "creation_timestamp DESC"]
        fields["max_results"] = self.random.choice([1, 2, 3, 10, 100])
        order = [self.random.choice(keys) for _ in range(self.random.choice([0, 1, 1, 2]))]
        # Stock answers a fault to a column that comes twice.
        if len({key.split()[0] for key in order}) == len(order):
            fields["order_by"] = order or ["name"]
        else:
            fields["order_by"] = ["name"]
        return "GET", path, fields

    def deletes(self):
        if self.random.random() < 0.25:
            return "DELETE", "registered-models/delete", {"name": self.name()}
        return "DELETE", "model-versions/delete", {"name": self.name(), "version": self.version()}

    def mistakes(self):
        return self.random.choice([
            ("POST", "registered-models/create", {"name": 12}),
            ("POST", "registered-models/create", {}),
            ("POST", "registered-models/create", {"name": self.mark + "t", "tags": "x"}),
            ("GET", "registered-models/search", {"max_results": 1001}),
            ("GET", "registered-models/search", {"max_results": "x"}),
            ("GET", "model-versions/search", {"max_results": 0}),
            ("GET", "registered-models/search", {"order_by": ["foo"]}),
            ("GET", "model-versions/search", {"order_by": ["name SIDEWAYS"]}),
            ("POST", "model-versions/create", {"name": self.name(), "source": 5}),
            ("GET", "model-versions/get", {"name": self.name()}),
            ("POST", "registered-models/alias", {"name": self.name(), "alias": "c"}),
        ])


def expected(path: str, fields: dict, stock: tuple, ours: tuple) -> bool:
    """Whether a difference is one in which ours is right; each is told in docs/mlflow.md."""
    # A name that was deleted is free at once with both, but ours says so in other words until it is used again.
    if stock[0] == ours[0] and stock[0] >= 400 and stock[1] == ours[1]:
        # The same refusal; the lists of Python in its words come in another order each time.
        words = ("{", "Invalid clause", "Expected", "Invalid model version source", "Missing value for required parameter")
        return any(word in str(stock[2]) for word in words)
    # A caller's mistake is no fault of the server.
    return stock[0] == 500 and 400 <= ours[0] < 500


def play(stock: Server, ours: Server, seed: int, steps: int, report=print) -> int:
    """Plays; answers how many calls differed."""
    player = Player(seed)
    differences = 0
    for step in range(steps):
        method, path, fields = player.call()
        rounds = 0
        tokens = [None, None]
        while True:
            answers = []
            for index, server in enumerate((stock, ours)):
                asked = dict(fields)
                if tokens[index]:
                    asked["page_token"] = tokens[index]
                answers.append(server.call(method, path, asked))
            left, right = (normal(path, *answer) for answer in answers)
            if left != right and not expected(path, fields, left, right):
                differences += 1
                report(f"seed {seed} step {step} page {rounds}: {method} {path} {json.dumps(fields, ensure_ascii=False)}")
                report(f"  stock:   {json.dumps(left, ensure_ascii=False)[:700]}")
                report(f"  slipway: {json.dumps(right, ensure_ascii=False)[:700]}")
                break
            if not path.endswith("/search"):
                break
            tokens = [answer[1].get("next_page_token") for answer in answers]
            rounds += 1
            if not all(tokens) or rounds > 20:
                if any(tokens) and rounds <= 20:
                    differences += 1
                    report(f"seed {seed} step {step}: only one of the two has another page: {fields}")
                break
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stock", required=True)
    parser.add_argument("--slipway", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the stock server's answers to the first seed")
    options = parser.parse_args()
    differences = 0
    for seed in range(options.seed, options.seed + options.seeds):
        stock = Server(options.stock)
        told = mlflow_recording.record(stock) if options.record and seed == options.seed else None
        differences += play(stock, Server(options.slipway), seed, options.steps)
        if told is not None:
            mlflow_recording.save(options.record, stock.version(), seed, options.steps, told)
    print(f"{options.seeds} seeds of {options.steps} calls: {differences} differ")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
