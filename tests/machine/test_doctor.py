"""What `doctor` tells of this machine, from what the training Python and nvidia-smi answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap

from wanwrap.errors import GpuError
from wanwrap.machine import doctor
from wanwrap.machine.driver import Driver
from wanwrap.machine.install import CUDA_BUILD
from wanwrap.machine.request import read
from wanwrap.upstream.probe import ask
from wanwrap.weights.workspace import load


@pytest.mark.parametrize(
    ("torch", "gpus", "driver", "missing", "code", "says"),
    [
        ("2.9.0+cu128", ["RTX 4090"], Driver((12, 8)), [], 0, "RTX 4090"),
        ("2.9.0+cu130", [], Driver((12, 4)), [], GpuError.exit_code, "too new"),
        ("2.9.0+cpu", [], Driver((12, 8)), [CUDA_BUILD], GpuError.exit_code, "wanwrap setup"),
        ("2.9.0+cpu", [], None, [CUDA_BUILD], GpuError.exit_code, "nvidia-smi"),
        ("2.9.0+rocm6.4", ["Radeon RX 7900 XTX"], None, [], 0, "not tried"),
        ("2.9.0+rocm6.4", [], None, [], GpuError.exit_code, "AMD"),
    ],
)
def test_gpus(
    torch: str,
    gpus: list[str],
    driver: Driver | None,
    missing: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer: dict[str, Any] = {
        "python": "3.11.7",
        "packages": {"torch": torch},
        "missing": dict.fromkeys(missing, "not there"),
        "gpus": [{"name": name, "memory": 24 << 30, "free": 23 << 30} for name in gpus],
        "upstream": {},
    }
    monkeypatch.setattr("wanwrap.plan.preflight.ask", lambda *_: answer)
    monkeypatch.setattr(doctor, "driver", lambda: driver)
    lines = [line for line in doctor.examine(read(["t2v-vanilla"], base_dir=tmp_path)) if line.name == "GPU"]
    assert [line.code for line in lines] == [code] and says in lines[0].text


def test_a_module_that_ends_its_process_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "without_licence.py").write_text("raise SystemExit('buy one')")
    monkeypatch.syspath_prepend(tmp_path)
    assert ask("without_licence") == "SystemExit: buy one" and ask("json") is None


def test_a_setup_that_was_given_up_is_not_asked_after(tmp_path: Path, cli: Wanwrap) -> None:
    """Nothing can be downloaded here, and what was there before is recorded none the less."""
    done = cli("setup", "t2v-vanilla", "--weights_only")
    assert done.returncode in (12, 13) and load(tmp_path / "home" / "local_training").presets == ()
