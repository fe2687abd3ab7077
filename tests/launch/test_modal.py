"""What Modal is given: a file with the run in it, and what that does with the run, there and here.

The marked tests do the same with the real client, and ask a stand-in for Modal's servers what they were asked.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs import each, job
from platforms import posix, posix_paths, signals

from wanwrap.errors import OptionError
from wanwrap.launch.job import GPUS, MISTAKES, Job
from wanwrap.launch.modal import CARDS, FILE, complaint, render
from wanwrap.upstream.pin import COMMIT

GOLDEN = Path(__file__).parents[1] / "golden" / "launch" / "modal" / f"{FILE}.txt"  # linters leave it alone
MODAL = os.environ.get("WANWRAP_MODAL_PYTHON", "")
REAL = [pytest.mark.modal, pytest.mark.skipif(not MODAL, reason="needs WANWRAP_MODAL_PYTHON, a Python with modal")]
# In place of modal: every call is written down by its name, with what it was given.
STUB = """
calls = []

class Thing:
    app_id = "ap-123"

    def __init__(self, name):
        self.name = name

    def __getattr__(self, name):
        return Thing(self.name + "." + name)

    def __call__(self, *words, **named):
        calls.append([self.name, words, named])
        return Thing(self.name)

    def __enter__(self):
        return Thing("batch")

    def __exit__(self, *_):
        pass

class App(Thing):
    def __init__(self, name):
        super().__init__(name)
        calls.append(["App", (name,), {}])

    def function(self, **named):
        calls.append(["function", [], named])
        def decorate(function):
            made = Thing("train")
            made.local = function
            return made
        return decorate

    def local_entrypoint(self):
        return lambda function: function

def __getattr__(name):
    return Thing(name)
"""
WANWRAP = """#!{python}
import json, os, signal, sys, time
def log(*words):
    with open(os.environ["LOG"], "a") as file:
        file.write(json.dumps(words) + chr(10))
def heard(number, _):
    log(signal.Signals(number).name)
    sys.exit(130)
signal.signal(signal.SIGTERM, heard)
signal.signal(signal.SIGINT, heard)
log(*sys.argv[1:])
if sys.argv[1] == "run" and os.environ.get("CODE") == "wait":
    time.sleep(60)
codes = {{"setup": os.environ.get("SETUP_CODE", "0"), "run": os.environ.get("CODE", "0")}}
sys.exit(int(codes[sys.argv[1]]))
"""
DRIVER = """
import json, os, sys, time
import modal, modal_app as app
class Volume:
    def commit(self):
        print("commit", flush=True)
app.PLACE = os.getcwd()
if sys.argv[1] != "main":
    app.workspace = Volume()
class Clock:
    past = [time.time() - 23.5 * 3600 + 2]
    def time(self):
        return self.past.pop() if self.past else time.time()
"""


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Job]:
    """A job whose files are there, rendered into tmp_path."""

    def write(**changes: Any) -> Job:
        cats = tmp_path / "my $HOME 'cats' 猫"
        cats.mkdir()
        (cats / "one.txt").write_text("a cat")
        own, wheel = tmp_path / "mine.py", tmp_path / "wanwrap-0.2.0-py3-none-any.whl"
        own.write_text("preset")
        wheel.write_text("wheel")
        uploads = {"local_training/datasets/猫": cats, "mine.py": own, wheel.name: wheel}
        made = job(**{"uploads": uploads, **changes})
        (tmp_path / FILE).write_text(render(made).files[FILE], encoding="utf-8")
        return made

    return write


@pytest.fixture(params=["stub", pytest.param("real", marks=REAL)])
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Python with the app, as `app`, where wanwrap is a stub: `begin(code, CODE=...)`."""
    python = MODAL if request.param == "real" else sys.executable
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "wanwrap"
    program.write_text(WANWRAP.format(python=sys.executable))
    program.chmod(0o755)
    if request.param == "stub":
        (tmp_path / "modal.py").write_text(STUB)

    def start(code: str, what: str = "train", **env: str) -> subprocess.Popen[str]:
        own = {"LOG": str(tmp_path / "log"), "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        argv = [python, "-c", f"{DRIVER}\n{code}", what]
        every = {**os.environ, **own, "PYTHONUTF8": "1", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), **env}
        return subprocess.Popen(
            argv, cwd=tmp_path, env=every, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
            start_new_session=True,
        )  # fmt: skip

    return start


def ended(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.splitlines()


def log(tmp_path: Path) -> list[list[str]]:
    path = tmp_path / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@posix_paths
def test_the_file(request: pytest.FixtureRequest) -> None:
    text = render(job()).files[FILE]
    if request.config.getoption("--update-golden"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == text
    assert "$" not in text


@posix_paths
def test_commands() -> None:
    """The run's folder comes to where `results` says; the place where the volume is mounted is no part of its path."""
    made = render(job(), volume="mine")
    assert made.start == (("modal", "run", "--detach", FILE),)
    get = ("modal", "volume", "get", "--force", "mine", "local_training/outputs/cats-t2v-vanilla", ".")
    assert made.later["fetch"] == (get,)
    assert made.results == "cats-t2v-vanilla"
    assert {name for name, (words,) in made.later.items() if "{id}" in words} == {"status", "follow", "stop"}


@pytest.mark.parametrize("gpu", ["RTX4090", "A6000", "A40"])
def test_a_gpu_that_modal_lacks(gpu: str) -> None:
    assert gpu in GPUS and {*CARDS} < {*GPUS}
    with pytest.raises(OptionError, match="H100"):
        render(job(gpu=gpu))


def test_experts_in_two_containers_are_refused() -> None:
    """Its volumes have no locks between containers: both would write the same caches."""
    with pytest.raises(OptionError, match="one container"):
        render(each())


@pytest.mark.parametrize("hours, gpus, seconds, retries", [(12, 1, 45000, 3), (24, 2, 86400, 4), (500, 1, 86400, 10)])
def test_what_a_function_is_given(
    hours: float, gpus: int, seconds: int, retries: int, put: Callable[..., Job], tmp_path: Path
) -> None:
    """The longest that Modal allows is 24 hours for each try, and 10 tries more."""
    put(hours=hours, gpus=gpus, gpu="H100", ram=96, secrets=("HF_TOKEN",))
    calls = loaded(tmp_path)["calls"]
    (function,) = (named for name, _, named in calls if name == "function")
    assert function["gpu"] == ("H100" if gpus == 1 else "H100:2")
    assert (function["timeout"], function["memory"]) == (seconds, 96 * 1024)
    assert ["Retries", (), {"max_retries": retries, "initial_delay": 10.0}] in calls
    assert ["Secret.from_name", ("wanwrap",), {"required_keys": ["HF_TOKEN"]}] in calls


def loaded(tmp_path: Path) -> dict[str, Any]:
    """What stands in the app when a stub of modal is imported, and the calls."""
    stub: dict[str, Any] = {}
    exec(STUB, stub)
    module = type(sys)("modal")
    vars(module).update(stub)
    names: dict[str, Any] = {"__name__": "modal_app"}
    before = sys.modules.get("modal")
    sys.modules["modal"] = module
    try:
        exec((tmp_path / FILE).read_text(encoding="utf-8"), names)
    finally:
        sys.modules.pop("modal")
        if before:
            sys.modules["modal"] = before
    return {**names, "calls": stub["calls"]}


def test_words_arrive_whole(put: Callable[..., Job], tmp_path: Path) -> None:
    words = ('./it\'s "mine".py', "猫", "--", "--x", "$HOME \\n `a`", *(f"--option_{n}" for n in range(20)))
    made = put(runs=(words,), setup=('./it\'s "mine".py',), name="猫 and dog", secrets=("WANDB_API_KEY",))
    found = loaded(tmp_path)
    assert found["RUN"] == ["run", *words] and found["SETUP"] == ["setup", *made.setup]
    assert found["UPLOADS"] == {f"/{place}": str(path) for place, path in made.uploads.items() if place != made.wheel}
    (name,) = (arguments[0] for name, arguments, _ in found["calls"] if name == "App")
    assert re.fullmatch("[a-zA-Z0-9._-]{1,64}", name)
    installed = [shlex.split(words[0]) for name, words, _ in found["calls"] if name.endswith("run_commands")]
    assert ["pip", "install", "-e", "/opt/musubi-tuner", "tensorboard"] in installed


@signals
def test_exit_codes(put: Callable[..., Job], begin: Callable[..., subprocess.Popen[str]]) -> None:
    """A mistake of the user's is told and not tried again; raising is what makes Modal try again: another machine has a
    GPU, and a setup ends with 6 and 8 when the network fails.
    """
    put()
    code = """
for code in sys.argv[2:] or os.environ["CODES"].split():
    os.environ["CODE"] = code
    try:
        print("code", code, app.train.local(time.time() + 60))
    except RuntimeError as error:
        print("code", code, "raised")
"""
    codes = (0, *MISTAKES, 1, 10, 12, 130)
    lines = ended(begin(code, CODES=" ".join(map(str, codes))))
    told = {int(line.split()[1]): line.split()[2] for line in lines if line.startswith("code ")}
    assert {code for code in codes if told[code] == "raised"} == {1, 9, 10, 12, 130}
    assert all(told[code] in ("raised", str(code)) for code in codes)
    assert len([line for line in lines if "mend it" in line]) == len(MISTAKES) - 1
    lines = ended(begin(code.replace('"CODE"', '"SETUP_CODE"'), CODES="4 6 8"))
    assert [line for line in lines if line.startswith("code ")] == ["code 4 4", "code 6 raised", "code 8 raised"]


@signals
def test_no_run_after_a_setup_that_failed(
    put: Callable[..., Job], begin: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    put()
    lines = ended(begin("print(app.train.local(time.time() + 60))", SETUP_CODE="5"))
    assert lines[-1] == "5"
    assert log(tmp_path) == [["setup", "t2v-vanilla"]]


@signals
def test_an_interrupt(put: Callable[..., Job], begin: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """wanwrap hears of it once, as of Ctrl-C, though the signal goes to all; what it has is kept, Modal goes on by itself."""
    put()
    process = begin("app.train.local(time.time() + 60)", CODE="wait")
    for _ in range(600):
        if [each[0] for each in log(tmp_path)] == ["setup", "run"]:
            break
        time.sleep(0.05)
    posix.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode and "KeyboardInterrupt" in err, err
    assert [each[0] for each in log(tmp_path)] == ["setup", "run", "SIGTERM"]
    assert out.splitlines()[-1] == "commit"


@signals
@pytest.mark.parametrize(
    "before, end, says",
    [
        ("", "time.time() + 2", "130"),  # the user's hours: no other try
        ("app.time = Clock()", "time.time() + 1e6", "TimeoutExpired"),  # Modal's 24: another one
    ],
)
def test_limits(
    before: str,
    end: str,
    says: str,
    put: Callable[..., Job],
    begin: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    put()
    code = f"""
{before}
try:
    print(app.train.local({end}))
except Exception as error:
    print(type(error).__name__)
"""
    lines = ended(begin(code, CODE="wait"))
    assert lines[-1] == says
    assert "commit" in lines
    assert [each[0] for each in log(tmp_path)] == ["setup", "run", "SIGTERM"]


def test_upload_and_start(put: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a folder what was there before goes first: a picture that was deleted here is not trained there."""
    made = put()
    found = loaded(tmp_path)
    found["main"]()
    named = [(name.rpartition(".")[2], words) for name, words, _ in found["calls"]]
    cats, own = (str(made.uploads[place]) for place in ("local_training/datasets/猫", "mine.py"))
    begun = named[[name for name, _ in named].index("batch_upload") + 1 :]
    assert begun[:3] == [
        ("remove_file", ("/local_training/datasets/猫",)),
        ("put_directory", (cats, "/local_training/datasets/猫")),
        ("put_file", (own, "/mine.py")),
    ]
    name, (end,) = begun[3]
    assert name == "spawn" and abs(end - time.time() - 12 * 3600) < 60
    match = re.search(render(made).id_pattern, capsys.readouterr().out)
    assert match and match[1] == "ap-123"


TOKENS = {"MODAL_TOKEN_ID": "a", "MODAL_TOKEN_SECRET": "b"}


@pytest.mark.parametrize(
    "environ, text, fine",
    [
        ({}, None, False),
        ({}, '[default]\nenvironment = "main"\n', False),
        ({"MODAL_TOKEN_ID": "a"}, None, False),
        (TOKENS, None, True),
        ({}, '[default]\ntoken_id = "ak-1"\n', True),
    ],
)
def test_no_token(environ: dict[str, str], text: str | None, fine: bool, tmp_path: Path) -> None:
    if text:
        (tmp_path / ".modal.toml").write_text(text)
    said = complaint(environ, tmp_path)
    assert said is None if fine else "modal setup" in (said or "")


@pytest.fixture
def modal(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The real `modal`, which takes the stand-in for Modal's servers; what that is asked goes into asked.jsonl."""
    server = subprocess.Popen(
        [MODAL, str(Path(__file__).with_name("modal_server.py")), str(tmp_path / "asked.jsonl")],
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert server.stdout
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    own = {"MODAL_SERVER_URL": url, **TOKENS, "HOME": str(tmp_path), "COLUMNS": "200", "PYTHONUTF8": "1"}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [MODAL, "-m", *words]
        env = {**os.environ, **own}
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    yield call
    server.terminate()
    server.communicate()


def asked(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    rows = map(json.loads, (tmp_path / "asked.jsonl").read_text(encoding="utf-8").splitlines())
    return [what for each, what in rows if each == name]


@pytest.mark.modal
@pytest.mark.skipif(not MODAL, reason="needs WANWRAP_MODAL_PYTHON, a Python with modal")
def test_the_real_client_starts_it(
    put: Callable[..., Job], modal: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    made = put(hours=30, gpus=2, secrets=("HF_TOKEN",))
    rendered = render(made)
    match = re.search(rendered.id_pattern, modal(*rendered.start[0]).stdout)
    assert match and len(match[1]) == len("ap-") + 22

    (app,) = asked(tmp_path, "AppCreate")
    assert app["appState"] == "APP_STATE_DETACHED"
    layers = [line for each in asked(tmp_path, "ImageGetOrCreate") for line in each["image"]["dockerfileCommands"]]
    steps = ["libgl1", COMMIT, "whl/cu128", "pip install -e /opt/musubi-tuner", "ENV ", "COPY", made.wheel]
    found = [next(n for n, line in enumerate(layers) if step in line) for step in steps]
    assert found == sorted(found)
    (volume,) = asked(tmp_path, "VolumeGetOrCreate")
    assert (volume["deploymentName"], volume["version"]) == ("wanwrap", "VOLUME_FS_VERSION_V2")
    (function,) = (each["function"] for each in asked(tmp_path, "FunctionCreate"))
    resources = function["resources"]
    assert resources["gpuConfig"] == {"gpuType": "A100-80GB", "count": 2}
    assert (resources["memoryMb"], resources["milliCpu"]) == (65536, 8000)
    assert function["timeoutSecs"] == 24 * 3600
    assert function["retryPolicy"]["retries"] == 4
    assert function["singleUseContainers"]
    assert [each["mountPath"] for each in function["volumeMounts"]] == ["/workspace"]
    (secret,) = asked(tmp_path, "SecretGetOrCreate")
    assert secret["requiredKeys"] == ["HF_TOKEN"]

    (put_files,) = asked(tmp_path, "VolumePutFiles2")  # with the sha256 of each block: the server asks for the others
    assert {each["path"] for each in put_files["files"]} == {"/local_training/datasets/猫/one.txt", "/mine.py"}
    assert all(block["contentsSha256"] for each in put_files["files"] for block in each["blocks"])
    (call,) = asked(tmp_path, "FunctionMap")
    assert call["functionCallInvocationType"].endswith("ASYNC")
    (end,), _ = pickle.loads(base64.b64decode(call["pipelinedInputs"][0]["input"]["args"]))
    assert abs(end - time.time() - 30 * 3600) < 120


@pytest.mark.modal
@pytest.mark.skipif(not MODAL, reason="needs WANWRAP_MODAL_PYTHON, a Python with modal")
def test_the_real_client_takes_the_other_commands(
    modal: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    made = render(job(folder=tmp_path))
    for what in ("stop", "status", "follow", "fetch", "fetch"):  # the last once more, as somebody does who can't wait
        modal(*(word.replace("{id}", "ap-" + "0" * 22) for word in made.later[what][0]))
    assert asked(tmp_path, "AppStop")
    assert asked(tmp_path, "VolumeListFiles2")[0]["path"] == "local_training/outputs/cats-t2v-vanilla"
    assert made.results == "cats-t2v-vanilla"
    assert (tmp_path / made.results / "high" / "a.safetensors").is_file()
