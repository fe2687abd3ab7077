"""What the tests share: a workspace, real processes, media and weight files that are as small as can be."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import PYTHONPATH, STANDIN, TOYS, Wanwrap, small_dataset, toy_weights
from huggingface_hub import constants
from hypothesis import settings
from runs import LOW, begin, ended

from wanwrap.cli import terminal
from wanwrap.cli.main import main
from wanwrap.system import console
from wanwrap.weights.catalogue import TOKENIZERS

settings.register_profile("any machine", deadline=None)  # timings are noisy, and no test's business
sys.path.insert(0, str(TOYS))
import toy_models  # noqa: E402, F401  the toys are models in this process too

settings.load_profile("any machine")


# Started by nohup, or in the background of a script, the tests and all their children would ignore these.
for _signal in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal is signal.SIGINT else signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are written, not compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def hf_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache with the tokenizers, as `setup` leaves them."""
    home = tmp_path_factory.mktemp("hf")
    for tokenizer in TOKENIZERS.values():
        repo = home / "hub" / f"models--{tokenizer.repo.replace('/', '--')}"
        for path in ("refs/main", *(f"snapshots/abc/{tokenizer.folder}/{name}" for name in tokenizer.files)):
            (repo / path).parent.mkdir(parents=True, exist_ok=True)
            (repo / path).write_text("abc")
    return home


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, hf_home: Path) -> None:  # fmt: skip
    """No accelerate config, cache or token of whoever runs the tests; the marked tests alone see upstream."""
    monkeypatch.setenv("HF_HOME", str(hf_home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("PIP_DRY_RUN", "1")  # a test that comes to pip by mistake changes no environment
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    importlib.reload(constants)  # huggingface_hub reads the environment once


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the user is told meanwhile, and what children print."""
    lines = list[str]()

    class Recorder(console.Console):
        def say(self, *texts: str) -> None:
            lines.extend(texts)

        def write(self, output: bytes) -> None:
            lines.append(output.decode())

    console.use(Recorder())
    yield lines
    console.use(console.Console())


@pytest.fixture
def wanwrap(tmp_path: Path) -> Wanwrap:
    """Run `python -m wanwrap` in a process of its own, in an empty folder, with the stand-in for upstream."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)

    def call(*arguments: object, standin: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        base = {name: value for name, value in os.environ.items() if not name.startswith("WANWRAP_")}
        extra = {"STANDIN_RECORD": str(tmp_path / "record.jsonl"), "PYTHONPATH": PYTHONPATH}
        if standin:
            extra["WANWRAP_MUSUBI_DIR"] = str(STANDIN)
        argv = [sys.executable, "-m", "wanwrap", *map(str, arguments)]
        return subprocess.run(argv, capture_output=True, encoding="utf-8", cwd=home, env={**base, **extra, **env})

    return call


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wanwrap]:
    """The same in this process, which is quicker: for all that is not about processes, signals, terminals or a start."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)

    def call(*arguments: object, standin: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        words = [*map(str, arguments)]
        extra = {"STANDIN_RECORD": str(tmp_path / "record.jsonl"), "PYTHONPATH": PYTHONPATH}
        extra |= {**({"WANWRAP_MUSUBI_DIR": str(STANDIN)} if standin else {}), **env}
        with monkeypatch.context() as patch:
            patch.chdir(home)
            patch.setattr(sys, "argv", ["wanwrap", *words])
            patch.setattr("wanwrap.cli.terminal.documents", [])
            patch.setattr("wanwrap.cli.main.documents", terminal.documents)
            for name in [name for name in os.environ if name.startswith("WANWRAP_")]:
                patch.delenv(name)
            for name, value in extra.items():
                patch.setenv(name, value)
            importlib.reload(constants)
            done = CliRunner().invoke(main, words, prog_name="wanwrap")
        importlib.reload(constants)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception  # a bug: its traceback is wanted
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    yield call
    console.use(console.Console())


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    """Options that give every file a Wan 2.2 run reads."""
    return toy_weights(tmp_path / "weights")


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """Two pictures and a clip."""
    return small_dataset(tmp_path / "cats")


@pytest.fixture(scope="session")
def cached(tmp_path_factory: pytest.TempPathFactory, hf_home: Path) -> tuple[Path, tuple[object, ...]]:
    """A folder with a data set, its caches in `home` and what is known of its files in `user`; the words of a run of one
    expert on it, 10 epochs of 6 steps."""
    place = tmp_path_factory.mktemp("cached")
    words = (*LOW, small_dataset(place / "cats"), *toy_weights(place / "weights"))
    words_once, user = (*words, "--epochs", 1), str(place / "user")
    ended(begin(place, *words_once, XDG_CACHE_HOME=user, HF_HOME=str(hf_home), HF_HUB_OFFLINE="1"), 0)
    return place, words


@pytest.fixture
def low(tmp_path: Path, cached: tuple[Path, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """The words of that run in a workspace where all is cached; its data set and weights stay as they are."""
    place, words = cached
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "user"))
    cache = Path("home", "local_training", "cache")
    shutil.copytree(place / cache, tmp_path / cache)
    return words


@pytest.fixture
def anew(cats: Path, weights: list[str]) -> tuple[object, ...]:
    """The same on a data set of the test's own, of which nothing is cached."""
    return (*LOW, cats, *weights)


REAL = {
    "upstream": ("WANWRAP_MUSUBI_DIR", "the real musubi-tuner"),
    "comfyui": ("WANWRAP_COMFYUI_DIR", "a real ComfyUI"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the real programs their tests are skipped, and said to be; with them they take their time."""
    for marker, (variable, what) in REAL.items():
        skip = pytest.mark.skip(reason=f"needs {variable}, {what}")
        how = pytest.mark.timeout(3600) if os.environ.get(variable) else skip
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(how)
