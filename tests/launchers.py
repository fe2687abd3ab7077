"""What the tests of engines share: golden files, names that shells would change, and programs that stand in for those
that a script starts on the other machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from helpers import ROOT
from jobs import job

from wanwrap.launch.job import Job

GOLDEN = ROOT / "tests" / "golden" / "launch"
ODD = 'it\'s $HOME `id` \\ "猫" *'
PROGRAMS = {
    # the next line of the file `codes` is how setup or run ends; `hang` waits for the signal that Ctrl-C is
    "wanwrap": """
[ "$1" = --help ] && exit
[ "$1" = run ] && mkdir -p "local_training/outputs/$NAME" && echo lora > "local_training/outputs/$NAME/a.safetensors"
code=$(head -1 "$STUBS/codes" 2> /dev/null) && sed -i 1d "$STUBS/codes"
if [ "$code" = hang ]; then trap 'exit 130' TERM; touch "$STUBS/hangs"; while :; do "$SLEEP" 0.05; done; fi
exit "${code:-0}"
""",
    "pip": 'cp "$STUBS/wanwrap" venv/bin/\n',
    "python3": 'mkdir -p venv/bin && cp "$STUBS/pip" venv/bin/\n',
    # `infinity` is over at once, and tells whether another script could begin meanwhile
    "sleep": """
[ "$1" = 60 ] && exec "$SLEEP" 0.2
[ "$1" = infinity ] && { flock -n "$TMPDIR/wanwrap-start.lock" true || echo "still locked"; }
exit 0
""",
    "dpkg": "exit 1\n",
    "apt-get": "",
    "sudo": 'exec "$@"\n',
}


def compare(file: str, text: str, update: bool) -> None:
    """With the golden file, which a reviewer reads."""
    if update:
        (GOLDEN / file).parent.mkdir(parents=True, exist_ok=True)
        (GOLDEN / file).write_text(text, encoding="utf-8")
    assert (GOLDEN / file).read_text(encoding="utf-8") == text


def odd(tmp_path: Path, data: str = ODD) -> Job:
    """A job on a data set that is there, of names that a shell would change."""
    folder = tmp_path / "here" / data
    folder.mkdir(parents=True)
    (folder / "one.txt").write_text("a cat")
    (wheel := tmp_path / "here" / "wanwrap-0.2.0-py3-none-any.whl").write_text("")
    uploads = {f"local_training/datasets/{ODD}": folder, wheel.name: wheel}
    return job(name=ODD, setup=("t2v-vanilla", ODD), runs=(("t2v-vanilla", ODD, "--x", ""),), uploads=uploads)


def small(tmp_path: Path, **changes: object) -> Job:
    """The same under plain names."""
    made = odd(tmp_path, "my cats")
    uploads = dict(zip(("local_training/datasets/cats", made.wheel), made.uploads.values(), strict=True))
    runs, setup = (("t2v-vanilla", "cats"),), ("t2v-vanilla",)
    return replace(made, name="cats", setup=setup, runs=runs, uploads=uploads, **changes)  # type: ignore[arg-type]


class Far:
    """The other machine: a home folder, and programs that tell how they were called."""

    def __init__(self, tmp_path: Path, name: str, codes: Sequence[object] = ()) -> None:
        self.stubs, self.home = tmp_path / "stubs", tmp_path / "far"
        for folder in (self.stubs, self.home, tmp_path / "bin"):
            folder.mkdir(exist_ok=True)
        for program, text in PROGRAMS.items():
            path = (self.stubs if program in ("wanwrap", "pip") else tmp_path / "bin") / program
            path.write_text(f"#!/bin/bash\nprintf '%s\\0' {program} \"$@\" $'\\1' >> \"$STUBS/calls\"\n{text}")
            path.chmod(0o755)
        self.ending(*codes)
        folders = {"HOME": self.home, "TMPDIR": self.home, "STUBS": self.stubs}
        self.env: Mapping[str, str] = {
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "NAME": name,
            "SLEEP": "/bin/sleep",
            **{variable: str(folder) for variable, folder in folders.items()},
        }

    def ending(self, *codes: object) -> None:
        """How the next calls of `wanwrap setup` and `wanwrap run` end."""
        (self.stubs / "codes").write_text("".join(f"{code}\n" for code in codes))

    def bash(self, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
        """A script that is run to its end; stderr stands in its stdout."""
        argv = ["bash", *map(str, words)]
        return subprocess.run(
            argv, env={**self.env, **env}, cwd=self.home, stdout=-1, stderr=-2, encoding="utf-8", timeout=60
        )

    def calls(self, *programs: str) -> list[list[str]]:
        """The words of each call of these programs since the last question, without --help."""
        path = self.stubs / "calls"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        path.unlink(missing_ok=True)
        words = [call.split("\0")[:-1] for call in text.split("\1\0")[:-1]]
        return [call for call in words if call[0] in programs and "--help" not in call]
