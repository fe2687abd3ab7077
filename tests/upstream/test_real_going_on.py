"""The real musubi-tuner, when something from outside comes over its run: it goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Wanwrap
from platforms import linux, posix
from runs import ATTACH, until
from trouble import closed, from_the_future, leave, read_only, small_drive

from wanwrap.run import record as records

sys.path.insert(0, str(ROOT / "scripts"))
from torture import Bench, lend_caches
from torture_checks import check, kept_epochs, read
from torture_run import Run

pytestmark = [pytest.mark.upstream, linux]
PYTHON = os.environ.get("WANWRAP_PYTHON", sys.executable)
EPOCHS = 16  # of 2 steps
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With the run that nothing comes over, which all others are compared with."""
    args = Namespace(musubi_dir=Path(os.environ["WANWRAP_MUSUBI_DIR"]), python=PYTHON)
    bench = Bench(args, tmp_path_factory.mktemp("bench"))
    bench.case = replace(bench.case, noise_level="low", save_every=2)
    assert not bench.reference(bench.case.preset, EPOCHS).problems
    return bench


@dataclass
class Night:
    """One run: `begin` it, have something come over it, see that it `ended` in good order and `goes_on` to its end."""

    bench: Bench
    run: Run
    log: Path
    said: str = ""  # when it went on
    starts: list[str] = field(default_factory=list)

    @classmethod
    def made(cls, bench: Bench, name: str) -> Night:
        """In a folder of its own, which may be a drive, with the caches of the other."""
        case, plan = bench.new(name, epochs=EPOCHS)
        run = Run(case, plan, name, [], KILL, threading.Event(), warm=True)
        lend_caches(run, bench.reference(case.preset, EPOCHS))
        return cls(bench, run, bench.work / f"{name}.log")

    def begin(self, *before: str, **streams: Any) -> subprocess.Popen[bytes]:
        self.starts.append(f"{self.log}.{len(self.starts)}")  # a mark of its own
        with self.log.open("ab") as log:
            return self.run.begin(self.starts[-1], *before, **{"stdout": log, "stderr": log, **streams})

    def begun(self, **streams: Any) -> subprocess.Popen[bytes]:
        process = self.begin(**streams)
        until(self.saved)
        return process

    def saved(self) -> bool:
        """Whether there is a state that it can go on from."""
        record = records.read(self.run.plan.folder / "low")
        return record is not None and record.saved_epoch > 0

    def ended(self, process: subprocess.Popen[bytes], status: int, words: str = "") -> str:
        """What it said; upstream may have ended with a traceback, and wanwrap must not."""
        assert process.wait(60) == status, self.log.read_text()[-3000:]
        for start in self.starts:
            self.run.gone(start)
        self.run.killed(words, kept_epochs(self.run.plan))
        assert [*Path(self.run.case.folder, "states").iterdir()], "no optimizer to be asked for its steps"
        said = self.log.read_text()
        assert words in said and not re.search(rf'File "{ROOT}/wanwrap/(?!rehearsal)', said), said[-3000:]
        assert self.saved() and not self.run.problems, self.run.problems
        return said

    def goes_on(self) -> None:
        """The same command again, to the end: all is as in the run that nothing has come over."""
        reference = self.bench.reference(self.run.case.preset, EPOCHS)
        self.run.go(random.Random())
        self.run.problems += check(self.run.plan, self.run.floors, read(reference.plan), PYTHON)
        self.said = Path(self.run.case.folder, self.run.log).read_text()
        assert not self.run.problems, [*self.run.problems, self.said[-3000:]]
        assert "going on from" in self.said or not self.run.floors
        shutil.rmtree(self.run.case.folder, ignore_errors=True)


@pytest.mark.parametrize("log", ["elsewhere", "too"])
def test_a_disk_that_is_full_to_the_last_byte(bench: Bench, log: str) -> None:
    """What wanwrap prints may go to a file on it, too."""
    with small_drive(place := bench.work / f"full-{log}"):
        night = Night.made(bench, place.name)
        with (place if log == "too" else bench.work).joinpath("nohup.out").open("wb") as out:
            process = night.begun(stdout=out, stderr=out)
        leave(place, 0)
        assert process.wait(60) == 13, Path(out.name).read_text()[-3000:]
        leave(place, 10**10)
        night.log.write_bytes(Path(out.name).read_bytes())
        night.ended(process, 13, "is kept" if log == "elsewhere" else "")
        night.goes_on()


def test_a_folder_that_may_not_be_written_any_more(bench: Bench) -> None:
    with small_drive(place := bench.work / "read-only"):
        night = Night.made(bench, place.name)
        process = night.begun()
        with read_only(night.run.plan.folder):
            assert process.wait(60) == 11
            assert night.begin().wait(60) == 11 and "can't be written" in night.log.read_text()
        assert "is kept" in night.ended(process, 11, "Read-only file system")
        night.goes_on()


@pytest.mark.parametrize(("how", "words"), [("sigterm", "\nstopped; "), ("stop", "was stopped, as you asked")])
def test_it_is_asked_to_end(bench: Bench, wanwrap: Wanwrap, how: str, words: str) -> None:
    night = Night.made(bench, how)
    process = night.begun()
    if how == "sigterm":
        process.send_signal(signal.SIGTERM)
    else:
        assert wanwrap("stop", "--base_dir", night.run.case.folder, standin=False).returncode == 0
    night.ended(process, 130, words)
    night.goes_on()


def test_a_terminal_that_is_closed(bench: Bench) -> None:
    night, (master, slave) = Night.made(bench, "terminal"), posix.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    process = night.begin(sys.executable, "-c", ATTACH, start_new_session=True, **streams)
    os.close(slave)
    night.log.write_bytes(closed(master, process, night.saved))
    assert "step " in night.ended(process, 130)
    night.goes_on()


def test_two_starts_at_once(bench: Bench) -> None:
    night = Night.made(bench, "two")
    both = [night.begin(), night.begin()]
    assert sorted(each.wait(90) for each in both) == [0, 11], night.log.read_text()
    assert "another wanwrap is at work" in night.log.read_text()
    for mark in night.starts:
        night.run.gone(mark)
    night.goes_on()
    assert "trained to its end" in night.said


def test_a_clock_that_is_set_back(bench: Bench) -> None:
    night = Night.made(bench, "clock")
    process = night.begun()
    process.kill()
    night.ended(process, -KILL)
    from_the_future(night.run.plan.folder)
    night.goes_on()
