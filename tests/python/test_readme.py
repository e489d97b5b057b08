"""Runs the README's walk as it is written, against a registry of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, Host


def walk() -> str:
    """The shell blocks of "Push a first model", in one script."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Push a first model")[1].split("## Deploy it")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(blocks) >= 7, "the walk has its blocks"
    return "set -euo pipefail\n" + "\n".join(blocks)


def test_the_readme_does_what_it_says(host: Host, tmp_path: Path) -> None:
    host.start()
    script = walk()
    for written, real in [
        ("http://127.0.0.1:8080", host.registry.base_url),
        ("http://127.0.0.1:8081", host.registry.s3_url),
        ("tests/fixtures/", f"{ROOT}/tests/fixtures/"),
    ]:
        assert written in script
        script = script.replace(written, real)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    folder = tmp_path / "walk"
    folder.mkdir()
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, text=True, capture_output=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the bytes are the same" in done.stdout
    assert '"alias":"champion"' in done.stdout
    assert host.registry.settled("iris", 1)["status"] == "READY"
    assert host.registry.settled("iris", 2)["registered_by"] == "drop-zone"
