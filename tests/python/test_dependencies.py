"""What Slipway is built from: allowed licences, known sources, and nothing that is not used.

`cargo deny` and `cargo machete` look closer; these checks need no tool beyond Cargo, so they run everywhere.
"""

import json
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULES = tomllib.loads((ROOT / "deny.toml").read_text())


@cache
def metadata() -> dict:
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be satisfied by allowed licences alone."""
    words = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def alternatives() -> bool:
        satisfied = conjunction()
        while words and words[0] == "OR":
            words.pop(0)
            satisfied = conjunction() or satisfied
        return satisfied

    def conjunction() -> bool:
        satisfied = term()
        while words and words[0] == "AND":
            words.pop(0)
            satisfied = term() and satisfied
        return satisfied

    def term() -> bool:
        word = words.pop(0)
        if word == "(":
            satisfied = alternatives()
            words.pop(0)
            return satisfied
        if words and words[0] == "WITH":
            word = f"{word} WITH {words[1]}"
            del words[:2]
        return word in allowed

    return alternatives()


def test_an_expression_is_read_as_it_is_meant() -> None:
    allowed = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"}
    assert is_allowed("GPL-3.0 OR MIT", allowed)
    assert is_allowed("MIT/GPL-3.0", allowed)
    assert is_allowed("Apache-2.0 WITH LLVM-exception", allowed)
    assert is_allowed("(GPL-3.0 OR MIT) AND Apache-2.0", allowed)
    assert not is_allowed("GPL-3.0 AND MIT", allowed)
    assert not is_allowed("MIT OR Apache-2.0 AND GPL-3.0", {"Apache-2.0"})
    assert not is_allowed("GPL-3.0 WITH Classpath-exception-2.0", allowed)


def test_every_licence_is_allowed() -> None:
    allowed = set(RULES["licenses"]["allow"])
    refused = [
        f"{package['name']} {package['version']}: {package['license']}"
        for package in metadata()["packages"]
        if not is_allowed(package["license"] or "none", allowed)
    ]
    assert refused == []


def test_every_package_comes_from_here_or_from_crates_io() -> None:
    elsewhere = [
        package["id"]
        for package in metadata()["packages"]
        if package["source"] not in (None, "registry+https://github.com/rust-lang/crates.io-index")
    ]
    assert elsewhere == []


def test_nothing_banned_is_built_in() -> None:
    banned = {ban["crate"] for ban in RULES["bans"]["deny"]}
    assert {package["name"] for package in metadata()["packages"]} & banned == set()


def test_every_dependency_is_used() -> None:
    unused = []
    members = set(metadata()["workspace_members"])
    # What a package is called in code, which may differ from its name: `md-5` is `md5`.
    libraries = {
        package["name"]: target["name"].replace("-", "_")
        for package in metadata()["packages"]
        for target in package["targets"]
        if {"lib", "rlib", "proc-macro"} & set(target["kind"])
    }
    for package in metadata()["packages"]:
        if package["id"] not in members:
            continue
        folder = Path(package["manifest_path"]).parent
        sources = "\n".join(path.read_text() for path in folder.rglob("*.rs"))
        kept = ((package["metadata"] or {}).get("cargo-machete") or {}).get("ignored", [])
        for dependency in package["dependencies"]:
            name = dependency["name"]
            word = (dependency["rename"] or libraries.get(name, name)).replace("-", "_")
            if name not in kept and not re.search(rf"\b{word}\b", sources):
                unused.append(f"{package['name']}: {name}")
    assert unused == [], "remove them, or name them in [package.metadata.cargo-machete] ignored with a reason"


def test_versions_stand_in_one_place() -> None:
    for manifest in ROOT.glob("**/Cargo.toml"):
        if manifest.parent == ROOT or "target" in manifest.relative_to(ROOT).parts[0]:
            continue
        tables = tomllib.loads(manifest.read_text())
        # Fuzzing is built by another compiler, in a workspace of its own.
        if "workspace" in tables:
            continue
        for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
            for name, dependency in tables.get(kind, {}).items():
                assert isinstance(dependency, dict) and dependency.get("workspace"), f"{manifest}: {name}"
