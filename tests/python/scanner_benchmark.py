"""Runs `validate`, picklescan, modelscan and fickling over the same pickles, and prints a table for docs/validation.md.

    python3 tests/python/scanner_benchmark.py

The scanners are installed from PyPI into a virtual environment of their own, under `.cache/`.
Files are the pickle family of the fixtures (or of `--corpus DIR`), and estimators of scikit-learn fitted here.
Nothing is loaded: every scanner only reads.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import time
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "scanner-benchmark"
PACKAGES = ["picklescan", "modelscan", "fickling", "typing_extensions", "scikit-learn", "joblib"]
FAMILY = (".pkl", ".joblib", ".pt", ".pth", ".ckpt", ".bin", ".npy", ".npz")
TIMEOUT_SECONDS = 120

# Run inside of the environment: fitted estimators, with whatever protocol each library chooses.
FIT = """
import pickle, sys, warnings, joblib, numpy as np
from pathlib import Path
from sklearn.utils import all_estimators
warnings.simplefilter("ignore")
out = Path(sys.argv[1]); out.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(0)
X, y = rng.random((60, 5)), np.arange(60) % 3
for index, (name, kind) in enumerate(all_estimators()):
    try:
        model = kind().fit(X, y)
    except Exception:
        continue
    if index % 2:
        joblib.dump(model, out / f"{name}.joblib")
    else:
        (out / f"{name}.pkl").write_bytes(pickle.dumps(model))
big = rng.random((1500, 1500))
(out / "big_array.pkl").write_bytes(pickle.dumps({"weights": big}))
"""

# Run inside of the environment: one scanner over many files, one JSON line each, so that starting Python is not timed.
SCAN = """
import json, sys, time, contextlib, io, logging
logging.disable(logging.CRITICAL)
tool, paths = sys.argv[1], json.load(open(sys.argv[2]))
if tool == "picklescan":
    from picklescan.scanner import scan_file_path
    def scan(path):
        result = scan_file_path(path)
        return "flag" if result.infected_files else "error" if result.scan_err else "pass"
elif tool == "modelscan":
    from modelscan.modelscan import ModelScan
    scanner = ModelScan()
    def scan(path):
        found = scanner.scan(path)
        if found.get("issues"):
            return "flag"
        return "error" if found.get("errors") or found["summary"]["scanned"]["total_scanned"] == 0 else "pass"
else:
    from fickling.fickle import StackedPickle
    from fickling.analysis import check_safety, Severity
    def scan(path):
        with open(path, "rb") as file:
            stack = StackedPickle.load(file)
        worst = max(check_safety(pickled).severity for pickled in stack)
        return "pass" if worst == Severity.LIKELY_SAFE else "flag"
for path in paths:
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            answer = scan(path)
        except BaseException as error:
            answer = "error"
    print(json.dumps([path, answer, time.perf_counter() - start]), flush=True)
"""


def environment() -> pathlib.Path:
    python = CACHE / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(CACHE / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def scan(python: pathlib.Path, tool: str, paths: list[str]) -> dict[str, tuple[str, float]]:
    """Answers verdict and seconds by path; a scanner that hangs or dies goes on behind the file."""
    answers, left = {}, list(paths)
    while left:
        todo = CACHE / f"{tool}.json"
        todo.write_text(json.dumps(left))
        try:
            done = subprocess.run(
                [python, "-c", SCAN, tool, todo], capture_output=True, text=True, timeout=TIMEOUT_SECONDS + len(left)
            ).stdout
        except subprocess.TimeoutExpired as expired:
            done = (expired.stdout or b"").decode()
        for line in done.splitlines():
            path, answer, seconds = json.loads(line)
            answers[path] = (answer, seconds)
        left = left[len(done.splitlines()):]
        if left:
            answers[left[0]] = ("error", float(TIMEOUT_SECONDS))
            left = left[1:]
    return answers


def validate(binary: pathlib.Path, paths: list[str]) -> dict[str, tuple[str, float]]:
    # The verdicts, in one run, and the time of that run without what an empty one takes.
    start = time.perf_counter()
    done = subprocess.run([binary, "--json", *paths], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    answers = {}
    for line in done.stdout.splitlines():
        answer = json.loads(line)
        verdict = answer["report"]["verdict"]
        answers[answer["path"]] = ("pass" if verdict == "clean" else "flag", seconds / len(paths))
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=pathlib.Path, help="a directory with `manifest.csv`")
    parser.add_argument("--validate", type=pathlib.Path, help="a built `validate`; otherwise it is built")
    arguments = parser.parse_args()
    corpus = arguments.corpus or ROOT / "functions/artifact-validation/formats/tests/fixtures"
    binary = arguments.validate
    if binary is None:
        build = ["cargo", "build", "--release", "--locked", "-p", "model-formats", "--bin", "validate"]
        subprocess.run(build, cwd=ROOT, check=True)
        binary = ROOT / "target/release/validate"
    CACHE.mkdir(parents=True, exist_ok=True)
    python = environment()
    estimators = CACHE / "estimators"
    if not estimators.exists():
        subprocess.run([python, "-W", "ignore", "-c", FIT, estimators], check=True, capture_output=True)

    groups: dict[str, list[str]] = {"hostile": [], "honest": [], "estimators": []}
    with open(corpus / "manifest.csv", newline="") as file:
        for row in csv.DictReader(file):
            path = corpus / row["file"]
            if path.is_file() and path.suffix in FAMILY:
                if row["label"] in ("malicious", "malformed"):
                    groups["hostile"].append(str(path))
                elif row["label"] == "benign":
                    groups["honest"].append(str(path))
    groups["estimators"] = sorted(str(path) for path in estimators.iterdir())
    paths = [path for group in groups.values() for path in group]
    size = sum(pathlib.Path(path).stat().st_size for path in paths)
    print(", ".join(f"{len(group)} {name}" for name, group in groups.items()) + f"; {size / 1e6:.1f} MB\n")

    print("| tool | hostile refused | honest refused | estimators refused | could not say | time, as a ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    base = None
    for tool in ("validate", "picklescan", "modelscan", "fickling"):
        answers = validate(binary, paths) if tool == "validate" else scan(python, tool, paths)
        flagged = {
            name: sum(answers.get(path, ("error", 0))[0] == "flag" for path in group) for name, group in groups.items()
        }
        errors = sum(answers.get(path, ("error", 0))[0] == "error" for path in paths)
        seconds = sum(seconds for _, seconds in answers.values())
        base = base or seconds
        shares = " | ".join(f"{flagged[name]} of {len(group)}" for name, group in groups.items())
        print(f"| {tool} | {shares} | {errors} | {seconds / base:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
