"""The real musubi-tuner in the folder WANWRAP_MUSUBI_DIR, asked in the Python WANWRAP_PYTHON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers import ROOT

FOLDER, PYTHON = os.environ.get("WANWRAP_MUSUBI_DIR", ""), os.environ.get("WANWRAP_PYTHON", sys.executable)


def ask(what: str, asked: object, tmp_path: Path) -> Any:
    """The answer of upstream/real_child.py."""
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": f"{FOLDER}/src", "PYTHONUTF8": "1"}
    argv = [PYTHON, str(Path(__file__).with_name("upstream") / "real_child.py"), what, str(tmp_path / "asked.json")]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def rehearse(base: Path, *arguments: object) -> dict[str, dict[str, Any]]:
    """The record of each expert in a rehearsal by the real scripts, from caching to LoRA."""
    where = ["--python", PYTHON, "--json", "--base_dir", str(base)]
    argv = [sys.executable, "-m", "wanwrap", "rehearse", *map(str, arguments[:2]), *where, *map(str, arguments[2:])]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["experts"]
    return found


def lora_of(expert: dict[str, Any]) -> Path:
    return Path(expert["folder"]).parent / str(expert["lora"])
