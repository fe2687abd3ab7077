"""Windows' scanners and sync clients: files that another program holds for a moment, by a `pathlib` that refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap
from runs import WHOLE, loras, told

from wanwrap.system import files

Refusals = Counter[tuple[str, str]]


@pytest.fixture
def refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refusals:
    """Each rename, removal and opening for writing of a file of ours is refused once; how often each was asked for."""
    asked = Refusals()

    def once(name: str, call: Callable[..., Any], counts: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def refusing(path: Any, *rest: Any, **more: Any) -> Any:
            place = str(path)
            if place.startswith(str(tmp_path)) and counts(path, *rest):
                asked[name, place] += 1
                if asked[name, place] == 1:
                    raise PermissionError(13, "the process cannot access the file", place)
            return call(path, *rest, **more)

        return refusing

    monkeypatch.setattr(files, "HELD", (0.0, 0.0))
    monkeypatch.setattr(Path, "replace", once("replace", Path.replace))
    monkeypatch.setattr(Path, "unlink", once("unlink", Path.unlink))
    monkeypatch.setattr(Path, "open", once("open", Path.open, lambda _, mode="r", *__: mode == "r+b"))
    monkeypatch.setattr("builtins.open", once("open", open, lambda _, mode="r", *__: mode == "r+b"))
    return asked


def test_a_run_in_which_each_file_is_held_once(
    tmp_path: Path, cli: Wanwrap, low: tuple[object, ...], refusals: Refusals
) -> None:
    done = cli(*low)
    assert done.returncode == 0, done.stderr
    assert loras(tmp_path) == WHOLE and told(tmp_path)["state"] == "done"
    kinds = Counter(name for name, _ in refusals)
    assert kinds["replace"] > 7 and kinds["open"] > 9 and kinds["unlink"], kinds
    assert not [*tmp_path.rglob(f"*{files.PART}")]


@pytest.mark.parametrize(("seconds", "there"), [(30, True), (3600, False)])
def test_a_file_that_is_held_for_long(
    seconds: float, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Half a minute is waited for; what is held for good is told, and leaves no half file."""
    path, replace, now = tmp_path / "a", Path.replace, [0.0]

    def refusing(part: Path, out: Path) -> None:
        if now[0] < seconds:
            raise PermissionError(13, "held", str(path))
        replace(part, out)

    monkeypatch.setattr(files, "HELD", files.PATIENCE)
    monkeypatch.setattr(files, "_let_go", lambda file: file.close())  # as Windows must
    monkeypatch.setattr("wanwrap.system.files.time.sleep", lambda wait: now.__setitem__(0, now[0] + wait))
    monkeypatch.setattr(Path, "replace", refusing)
    with nullcontext() if there else pytest.raises(PermissionError):
        files.write_atomic(path, "text")
    assert [*tmp_path.iterdir()] == ([path] if there else []) and str(path) in said[0]
