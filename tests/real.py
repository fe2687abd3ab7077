"""The real musubi-tuner in the folder WANWRAP_MUSUBI_DIR, asked in the Python WANWRAP_PYTHON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER, PYTHON = os.environ.get("WANWRAP_MUSUBI_DIR", ""), os.environ.get("WANWRAP_PYTHON", sys.executable)


def ask(what: str, asked: object, tmp_path: Path) -> Any:
    """The answer of upstream/real_child.py."""
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": f"{FOLDER}/src", "PYTHONUTF8": "1"}
    argv = [PYTHON, str(Path(__file__).with_name("upstream") / "real_child.py"), what, str(tmp_path / "asked.json")]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
