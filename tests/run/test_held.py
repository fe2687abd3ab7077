"""Windows' scanners and sync clients: files that another program holds for a while, by an `os` that refuses."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Wanwrap
from runs import SCRIPT, WHOLE, calls, folder, loras, told

from wanwrap.system import console, files

Hold = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Each file of the workspace is held for some seconds, from when somebody first asks for it, as long as wanwrap's
    own waiting takes: who renames, removes or opens it then is refused. Gives what was refused, and of which file."""
    now, home = [0.0], str(tmp_path / "home")

    def refusing(name: str, call: Callable[..., Any], seconds: float, since: dict[str, float]) -> Callable[..., Any]:
        def asked(path: Any, *rest: Any, **more: Any) -> Any:
            file = str(path)
            if file.startswith(home) and not (name == "open" and Path(file).is_dir()):
                if file not in since:
                    refused.append((name, Path(file).name))
                if now[0] <= since.setdefault(file, now[0]) + seconds:
                    raise PermissionError(13, "the process cannot access the file", file)
            return call(path, *rest, **more)

        return asked

    def begin(seconds: float, **others: float) -> list[tuple[str, str]]:
        monkeypatch.setattr(files, "HELD", files.PATIENCE)
        monkeypatch.setattr(files, "_let_go", lambda file: file.close())  # as Windows must
        monkeypatch.setattr(files, "time", SimpleNamespace(sleep=lambda wait: now.__setitem__(0, now[0] + wait)))
        monkeypatch.setattr(shutil, "_use_fd_functions", False)  # whole paths, as there
        opened = refusing("open", open, seconds, {})
        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr(os, "open", refusing("open", os.open, seconds, {}))
        accessor = getattr(pathlib, "_normal_accessor", None)  # Python 3.10's own names for them
        for name in ("replace", "rename", "unlink"):
            monkeypatch.setattr(os, name, refusing(name, getattr(os, name), others.get(name, seconds), {}))
            if accessor:
                monkeypatch.setattr(accessor, name, getattr(os, name))
        if accessor:
            monkeypatch.setattr(accessor, "open", opened)
        return refused

    refused = list[tuple[str, str]]()
    return begin


@pytest.mark.parametrize("seconds", [0, 30])
def test_a_run_in_which_each_file_is_held(
    seconds: float, tmp_path: Path, cli: Wanwrap, low: tuple[object, ...], hold: Hold
) -> None:
    """Once, or for half a minute: it ends well, encodes nothing again and leaves nothing."""
    refused = hold(seconds)
    done = cli(*low, STANDIN_PACE="0.04")  # two states at least are seen while it trains
    assert done.returncode == 0, done.stderr
    assert loras(tmp_path) == WHOLE and told(tmp_path)["state"] == "done"
    assert not calls(tmp_path, "wan_cache_latents.py")
    ours = {"run.log", f"record.json{files.PART}", f"dataset.toml{files.PART}", f"{SCRIPT}{files.PART}", "low.lock"}
    assert {("open", name) for name in ours} <= {*refused}
    assert {("replace", f"{folder(tmp_path).name}-low.safetensors"), ("unlink", "optimizer.bin")} <= {*refused}
    assert [name for call, name in refused if call == "replace" and name.endswith("-state")]
    left = {path.name for path in (folder(tmp_path) / "low").iterdir()}
    assert left == {"accelerate.yaml", "dataset.toml", "record.json", "run.log", SCRIPT}
    assert not [*tmp_path.rglob(f"*{files.PART}")]


@pytest.mark.parametrize("ending", [PermissionError, KeyboardInterrupt])
def test_a_name_that_is_held_for_good(
    ending: type[BaseException], tmp_path: Path, hold: Hold, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it, and Ctrl-C meanwhile, leave no half file: of a merge that has 28 GB."""
    path = tmp_path / "home" / "a"
    path.parent.mkdir()
    hold(0, replace=3600)
    if ending is KeyboardInterrupt:

        def interrupt(line: str) -> None:
            said.append(line)
            raise KeyboardInterrupt

        monkeypatch.setattr(console, "say", interrupt)
    with pytest.raises(ending):
        files.write_atomic(path, "text")
    assert not [*path.parent.iterdir()] and str(path) in said[0]


def test_what_is_given_up_goes_though_it_is_held(tmp_path: Path, hold: Hold) -> None:
    path = tmp_path / "home" / "a"
    path.parent.mkdir()
    hold(1)
    with pytest.raises(KeyboardInterrupt), files.atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert not [*path.parent.iterdir()]
