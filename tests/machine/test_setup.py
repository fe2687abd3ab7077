"""`wanwrap setup` and `doctor` as a user types them, with toys for weights and a hub on the loopback."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import STANDIN, Wanwrap, comfy_names, dit, published, record, safetensors
from hub import Fault, Hub, hub
from platforms import in_bash, posix, signals, symlinks, terminals

from wanwrap.errors import OptionError, WeightsError
from wanwrap.machine.request import read
from wanwrap.machine.setup import alone
from wanwrap.machine.survey import survey
from wanwrap.weights.catalogue import ALSO, CATALOGUE, TOKENIZERS
from wanwrap.weights.weight_file import WeightFile
from wanwrap.weights.workspace import load, save

TOKEN = "hf_SecretOfTheUser"
NAMES = ("wan2.2-t2v-high", "wan2.2-t2v-low", "vae", "t5")
T5 = CATALOGUE["t5"]
PATHS = {name: CATALOGUE[name].path for name in NAMES}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def toys(tmp_path: Path) -> dict[str, bytes]:
    """By the catalogue's names, as the hub has them."""
    folder = tmp_path / "toys"
    toys = {name: dit(folder / name, metadata={"of": name}).read_bytes() for name in NAMES[:2]}
    vae = {"decoder.conv1.weight": ("F16", [1]), "conv2.weight": ("F16", [16])}
    toys["vae"] = safetensors(folder / "vae", vae).read_bytes()
    toys["t5"] = b"PK\x03\x04" + b"the text encoder" * 100_000
    return toys


@pytest.fixture
def served(tmp_path: Path, toys: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the toys under the names of the real files, and T5's tokenizer: what the catalogue, here and in
    processes, tells of them.
    """
    files = {(CATALOGUE[name].repo, CATALOGUE[name].path): content for name, content in toys.items()}
    tokenizer = TOKENIZERS["t5"]
    files |= {(tokenizer.repo, f"{tokenizer.folder}/{name}"): name.encode() for name in tokenizer.files}
    marks = {name: sha(name.encode()) for name in tokenizer.files}
    rows: dict[str, Any] = {n: {"size": len(toy), "sha256": sha(toy), "about": None} for n, toy in toys.items()}
    monkeypatch.setitem(TOKENIZERS, "t5", replace(tokenizer, files=marks))
    for name, row in rows.items():
        monkeypatch.setitem(CATALOGUE, name, replace(CATALOGUE[name], **row))
    monkeypatch.setattr("wanwrap.weights.identify.PUBLISHED", (*CATALOGUE.items(), *ALSO))
    with hub(files) as made:
        env = published(tmp_path, {**rows, "tokenizers": {"t5": marks}})
        env |= {"HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": made.endpoint}
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        yield made


def workspace(tmp_path: Path) -> Path:
    return tmp_path / "home" / "local_training"


def place(tmp_path: Path, name: str) -> Path:
    return workspace(tmp_path) / "models" / PATHS[name]


def written(tmp_path: Path, text: str) -> Path:
    """A workspace with this in its file."""
    base = workspace(tmp_path)
    base.mkdir(parents=True, exist_ok=True)
    (base / "wanwrap.toml").write_text(text)
    return base


def fetched(served: Hub) -> set[str]:
    """The files of which bytes were sent."""
    return {each.path for each in served.asked if each.method == "GET" and each.status < 300 and "api" not in each.path}


def setup(*words: str) -> list[str]:
    """The verb in a process of its own."""
    return [sys.executable, "-m", "wanwrap", "setup", "t2v-vanilla", "--weights_only", *words]


def test_everything_from_the_hub_then_a_run(
    tmp_path: Path, cli: Wanwrap, served: Hub, toys: dict[str, bytes], cats: Path
) -> None:
    done = cli("setup", "t2v-vanilla", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert "ready: t2v-vanilla" in done.stdout
    assert all(place(tmp_path, name).read_bytes() == content for name, content in toys.items())
    found = load(workspace(tmp_path))
    assert found.presets == ("t2v-vanilla",) and found.python is None and found.musubi_dir == STANDIN
    assert {name: row.path for name, row in found.weights.items()} == {name: place(tmp_path, name) for name in NAMES}
    assert all(row.sha256 == sha(toys[name]) for name, row in found.weights.items())
    assert any(each.token and TOKEN in each.token for each in served.asked)
    texts = [path.read_bytes() for path in workspace(tmp_path).rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in text for text in texts) and TOKEN not in done.stdout + done.stderr

    (link,) = (tmp_path / "empty").rglob("snapshots/*/google/umt5-xxl/spiece.model")
    link.resolve().write_bytes(b"")
    assert "TO DO   tokenizer of t5" in cli("doctor").stdout
    served.asked.clear()
    again = cli("setup", "t2v-vanilla")
    assert again.returncode == 0 and fetched(served).isdisjoint(PATHS.values())
    assert link.read_bytes() == b"spiece.model"
    well = cli("doctor")
    assert well.returncode == 0 and "TO DO" not in well.stdout, well.stdout
    ran = cli("run", "t2v-vanilla", "--dataset", cats, "--epochs", 1, HF_HUB_OFFLINE="1", standin=False)
    assert ran.returncode == 0, ran.stderr
    assert any(str(place(tmp_path, "t5")) in call["argv"] for call in record(tmp_path))


def test_what_a_comfyui_has_is_used_where_it_lies(
    tmp_path: Path, cli: Wanwrap, served: Hub, toys: dict[str, bytes]
) -> None:
    comfy = tmp_path / "ComfyUI" / "models"
    for name, path in (("wan2.2-t2v-high", "diffusion_models/renamed.safetensors"), ("vae", "vae/wan.safetensors")):
        (comfy / path).parent.mkdir(parents=True)
        (comfy / path).write_bytes(toys[name])
    before = sorted((path, path.stat().st_mtime_ns) for path in comfy.rglob("*"))
    done = cli("setup", "t2v-vanilla", "--comfyui_dir", tmp_path / "ComfyUI", "--json")
    assert done.returncode == 0, done.stderr
    weights = json.loads(done.stdout)["weights"]
    assert weights["wan2.2-t2v-high"]["path"] == str(comfy / "diffusion_models" / "renamed.safetensors")
    assert {name: row["state"] for name, row in weights.items()} == dict.fromkeys(NAMES, "ready")
    assert fetched(served) & {*PATHS.values()} == {PATHS["wan2.2-t2v-low"], PATHS["t5"]}
    assert sorted((path, path.stat().st_mtime_ns) for path in comfy.rglob("*")) == before
    again = cli("setup", "t2v-vanilla", "--noise_level", "high", "--dry_run")  # the folder is remembered
    assert str(comfy / "vae" / "wan.safetensors") in again.stdout and "low" not in again.stdout.split("Files found")[0]

    (comfy / "vae" / "wan.safetensors").write_bytes(toys["vae"] + b"x")
    refused = cli("run", "t2v-vanilla", "--dataset", "sample")
    assert refused.returncode == 5 and "wan.safetensors" in refused.stderr
    ill = cli("doctor", "--json")
    assert ill.returncode == 5
    assert [row["name"] for row in json.loads(ill.stdout) if not row["ok"]] == ["weights of t2v-vanilla"]


def test_one_file_that_fails_keeps_no_other_from_coming(
    tmp_path: Path, cli: Wanwrap, served: Hub, toys: dict[str, bytes]
) -> None:
    served.faults[PATHS["wan2.2-t2v-high"]] = Fault(status=404, code="EntryNotFound")
    served.faults[PATHS["vae"]] = Fault(body=bytes(len(toys["vae"])), times=1)
    done = cli("setup", "t2v-vanilla", "--weights_only", "--json")
    assert done.returncode == 12 and "Done: wan2.2-t2v-low, t5." in done.stderr
    assert json.loads(done.stdout)["failed"].keys() == {"wan2.2-t2v-high", "vae"}
    assert not place(tmp_path, "vae").exists() and load(workspace(tmp_path)).weights.keys() == {"wan2.2-t2v-low", "t5"}
    served.faults.clear()
    served.asked.clear()
    assert cli("setup", "t2v-vanilla", "--weights_only").returncode == 0
    assert fetched(served) == {PATHS["wan2.2-t2v-high"], PATHS["vae"]}


@signals
@pytest.mark.parametrize(("sent", "code"), [("SIGKILL", -9), ("SIGINT", 130)])
def test_stopped_in_the_middle_it_goes_on(tmp_path: Path, served: Hub, cli: Wanwrap, sent: str, code: int) -> None:
    served.faults[T5.path] = Fault(slow=8)
    process = subprocess.Popen(
        setup("--noise_level", "low"), cwd=tmp_path / "home", stderr=subprocess.PIPE, encoding="utf-8"
    )
    parts = workspace(tmp_path) / "models" / ".downloads"
    while process.poll() is None and not any(part.stat().st_size for part in parts.glob("*t5*.part")):
        time.sleep(0.02)
    process.send_signal(getattr(signal, sent))
    text = process.communicate(timeout=30)[1]
    assert process.returncode == code and "Traceback" not in text and ("kept" in text) is (code > 0), text
    (left,) = (part.stat().st_size for part in parts.glob("*t5*.part"))
    assert not place(tmp_path, "t5").exists() and "t5" not in load(workspace(tmp_path)).weights
    served.faults.clear()
    assert cli("setup", "t2v-vanilla", "--noise_level", "low", "--weights_only").returncode == 0
    assert place(tmp_path, "t5").is_file()
    assert served.ranges(T5.path) == [None, f"bytes={left}-"]


def test_one_setup_at_a_time(tmp_path: Path, cli: Wanwrap, served: Hub) -> None:
    with alone(read(["t2v-vanilla"], base_dir=workspace(tmp_path))):
        done = cli("setup", "t2v-vanilla", "--weights_only")
        assert done.returncode == 11 and "another wanwrap setup" in done.stderr
    assert not served.asked and not load(workspace(tmp_path)).weights


def test_a_dry_run_writes_nothing_and_too_little_disk_is_told(
    tmp_path: Path, cli: Wanwrap, served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("setup", "t2v-vanilla", "--dry_run")
    assert done.returncode == 0 and re.search("t5 +download", done.stdout)
    monkeypatch.setitem(CATALOGUE, "t5", replace(T5, size=10**15))
    assert cli("setup", "t2v-vanilla").returncode == 13
    assert not workspace(tmp_path).exists() and not served.asked


def test_comfyuis_text_encoder_is_converted(tmp_path: Path, cli: Wanwrap, served: Hub) -> None:
    pytest.importorskip("torch")
    comfy = tmp_path / "ComfyUI" / "models" / "text_encoders"
    tensors = {name: ("F16", [2, 2]) for name in comfy_names(range(1))}
    file = safetensors(comfy / "umt5_xxl_fp16.safetensors", {**tensors, "spiece_model": ("I8", [3])})
    one = ("setup", "t2v-vanilla", "--comfyui_dir", comfy.parent.parent, "--weights_only")
    assert re.search(f"t5 +convert .*{re.escape(str(file))}", cli(*one, "--dry_run").stdout)
    done = cli(*one)
    assert done.returncode == 0, done.stderr
    made = load(workspace(tmp_path)).weights["t5"]
    assert made.path.parent == workspace(tmp_path) / "models" / "converted"
    assert b"blocks.0.attn.q.weight" in made.path.read_bytes()
    assert T5.path not in fetched(served) and [*comfy.iterdir()] == [file]
    assert cli(*one).returncode == 0
    assert load(workspace(tmp_path)).weights["t5"] == made  # not again


def test_list(cli: Wanwrap) -> None:
    """Of t2v-vanilla where nothing is asked for."""
    for words, more in {
        (): [],
        ("--include_i2v",): ["wan2.2-i2v-low"],
        ("t2v-lightning", "--include_i2v"): ["lightning-t2v-v1.1-low", "wan2.2-i2v-low", "lightning-i2v-v1-low"],
    }.items():
        listed = json.loads(cli("setup", *words, "--list", "--noise_level", "low", "--json").stdout)
        assert {row["name"] for row in listed} == {"wan2.2-t2v-low", "vae", "t5", "t5-tokenizer", *more}
    text = cli("setup", "wan21-i2v-480p", "--list").stdout
    assert "4.8 GB" in text and "xlm-roberta-large/" in text and "about 32.8 GB" in text


def test_only_the_user_can_say(tmp_path: Path) -> None:
    """A finetune is used when the user says so, and not otherwise."""
    mine = dit(tmp_path / "ComfyUI" / "models" / "unet" / "remix_high.safetensors", "BF16")
    request = read(["t2v-vanilla"], base_dir=tmp_path / "base", comfyui_dir=[tmp_path / "ComfyUI"])
    asked = list[str]()

    def ask(question: str) -> bool:
        asked.append(question)
        return True

    assert "wan2.2-t2v-high" not in survey(request, weights_only=True).search.chosen
    assert survey(request, weights_only=True, ask=ask).search.chosen["wan2.2-t2v-high"].path == mine
    assert len(asked) == 1 and "wan2.2-t2v-high?" in asked[0] and "remix" in asked[0]
    named = read(["t2v-vanilla"], base_dir=tmp_path / "base", dit_high=mine)
    assert survey(named, weights_only=True).search.chosen["wan2.2-t2v-high"].path == mine


@terminals
@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\x03", 130)])
def test_asked_on_a_terminal(answer: bytes, code: int, tmp_path: Path) -> None:
    """The question is the last thing on the screen, not a bar."""
    mine = dit(tmp_path / "ComfyUI" / "models" / "unet" / "remix_high.safetensors", "BF16")
    ours, theirs = posix.openpty()
    argv = setup("--noise_level", "high", "--comfyui_dir", str(tmp_path / "ComfyUI"))
    at_it = ["sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', posix.ttyname(theirs), *argv]
    process = subprocess.Popen(at_it, cwd=tmp_path, start_new_session=True)  # so that Ctrl-C at it reaches this process
    seen = b""
    while not seen.endswith(b"wan2.2-t2v-high? [y/N]: "):
        seen += os.read(ours, 4096)
    os.close(theirs)
    os.write(ours, answer)
    with contextlib.suppress(OSError):  # EIO: nobody holds the other end
        while True:
            if not select.select([ours], [], [], 2)[0]:
                os.write(ours, answer)  # as a person does: readline, while it starts, may have missed a Ctrl-C
            elif chunk := os.read(ours, 4096):
                seen += chunk
            else:
                break
    assert process.wait(30) == code and b"Traceback" not in seen, seen.decode()
    os.close(ours)
    if not code:
        assert load(tmp_path / "local_training").weights["wan2.2-t2v-high"].path == mine


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[upstream]\npython = 5", "python must"),
        ('presets = "t2v-vanilla"', "presets must"),
        ("comfyui_dir = [1]", "comfyui_dir must"),
        ('[weights]\nvae = { path = "x", bytes = "3" }', "bytes must"),
        ("weights = 3", "weights must"),
        ("[weights]\nvae = { bytes = 3 }", "no path"),
        ('[weights]\n"wan2.2_t2v_high" = "x"', r"wan2.2-t2v-high\?"),
        ('[weight]\nvae = "x"', r"weights\?"),
        ('[upstream]\npyhton = "x"', r"python\?"),
        ('[weights]\nvae = { pth = "x" }', r"path\?"),
        ("weights = [", "setup again"),
        ("\x00", "setup again"),
        (None, "no file"),
    ],
)
def test_a_workspaces_file_that_is_wrong(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "wanwrap.toml"
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(OptionError, match=says):
        load(tmp_path)


def test_comments_and_what_was_written_by_hand_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths may be relative to the workspace, or to the user's home."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "me"))
    mine = '[weights] # mine\n# the one from the old disk\nvae = "models/x.pth" # by hand\nclip = ""\n'
    head = 'comfyui_dir = ["~/ComfyUI"] # none yet\n[upstream]\n# why not\npython = "p"\n'
    (tmp_path / "wanwrap.toml").write_text(head + mine)
    before = load(tmp_path)
    vae, t5 = (
        WeightFile(path=tmp_path / "models" / "x.pth"),
        WeightFile(path=tmp_path / "t5.pth", stamp=(3, 4), sha256="5"),
    )
    assert before.comfyui == (tmp_path / "me" / "ComfyUI",) and before.weights == {"vae": vae}
    save(tmp_path, replace(before, python=None, weights={**before.weights, "t5": t5}))
    text = (tmp_path / "wanwrap.toml").read_text()
    assert mine in text and "# none yet" in text and "# why not" in text
    assert load(tmp_path).python is None and load(tmp_path).weights == {"vae": vae, "t5": t5}


@pytest.mark.usefixtures("served")
def test_what_was_recorded(tmp_path: Path, cli: Wanwrap) -> None:
    """What is gone stops no setup; what was written by hand is used, and what others wrote meanwhile stays."""
    mine, usb = dit(tmp_path / "mine.safetensors"), (tmp_path / "gone").as_posix()
    base = written(
        tmp_path,
        '# my own words\npresets = ["i2v-vanilla"]\n'
        f'comfyui_dir = ["{usb}/ComfyUI"]\n[upstream]\nmusubi_dir = "{usb}/musubi"\n[weights]\n'
        f'"wan2.2-t2v-high" = "{mine.as_posix()}"\nvae = "{usb}/vae.safetensors"\nclip = "{usb}/clip.pth"\n',
    )
    done = cli("setup", "t2v-vanilla", "--weights_only", "--json", standin=False)
    assert done.returncode == 0 and str(Path(usb, "vae.safetensors")) in done.stderr, done.stderr
    assert "# my own words" in (base / "wanwrap.toml").read_text()
    found = load(base)
    assert found.presets == ("i2v-vanilla", "t2v-vanilla") and found.weights["clip"].path == Path(usb, "clip.pth")
    assert found.weights["vae"].path == place(tmp_path, "vae")
    assert found.weights["wan2.2-t2v-high"].path == mine and not place(tmp_path, "wan2.2-t2v-high").exists()
    assert all(row["state"] == "ready" for row in json.loads(done.stdout)["weights"].values())


@pytest.mark.usefixtures("served")
def test_ones_own_preset_is_remembered_by_its_path(tmp_path: Path, cli: Wanwrap) -> None:
    (tmp_path / "home" / "mine.py").write_text(cli("show", "t2v-vanilla", "--source").stdout)
    assert cli("setup", "./mine.py", "--weights_only").returncode == 0
    assert load(workspace(tmp_path)).presets == (str(tmp_path / "home" / "mine.py"),)
    assert "weights of mine" in cli("doctor").stdout


@pytest.mark.usefixtures("served")
def test_the_content_wins_over_what_is_named(tmp_path: Path, cli: Wanwrap, toys: dict[str, bytes]) -> None:
    low = tmp_path / "plain.safetensors"
    low.write_bytes(toys["wan2.2-t2v-low"])
    assert cli("setup", "t2v-vanilla", "--weights_only", "--dit_high", low).returncode == 5
    base = written(tmp_path, f'[weights]\n"wan2.2-t2v-high" = "{low.as_posix()}"\n')
    assert cli("setup", "t2v-vanilla", "--weights_only").returncode == 5
    assert [path.name for path in base.iterdir()] == ["wanwrap.toml"]


def test_what_takes_a_files_place_is_noticed(tmp_path: Path, cli: Wanwrap, toys: dict[str, bytes], served: Hub) -> None:
    """Of the same size, with the same time: only its content tells."""
    one = ("setup", "t2v-vanilla", "--noise_level", "low", "--weights_only")
    assert cli(*one).returncode == 0
    path = place(tmp_path, "t5")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(toys["t5"][:-1] + b"x")
    os.utime(path, ns=times)
    refused = cli("run", "t2v-vanilla", "--dataset", "sample", "--noise_level", "low")
    assert refused.returncode == 5 and path.name in refused.stderr
    served.asked.clear()
    again = cli(*one)
    assert again.returncode == 0 and path.read_bytes() == toys["t5"]
    assert (workspace(tmp_path) / "models" / "rejected" / f"{path.name}.rejected").is_file()


@pytest.mark.usefixtures("served")
def test_what_changes_while_setup_works_is_not_recorded(tmp_path: Path) -> None:
    base, path = tmp_path / "base", dit(tmp_path / "ComfyUI" / "models" / "unet" / "wan2.2_t2v_high.safetensors")
    request = read(["t2v-vanilla"], base_dir=base, comfyui_dir=[tmp_path / "ComfyUI"], noise_level="high")
    found = survey(request, weights_only=True)
    assert found.search.chosen["wan2.2-t2v-high"].path == path
    dit(path, "BF16", metadata={"another": "one"})
    base.mkdir()
    with pytest.raises(WeightsError, match="changed"):
        found.done("wan2.2-t2v-high", path, None, found.search.chosen["wan2.2-t2v-high"].stamp)
    assert not found.records


def test_ones_own_dit_is_never_replaced(tmp_path: Path, cli: Wanwrap, served: Hub) -> None:
    mine = dit(tmp_path / "mine.safetensors", "BF16")
    one = ("setup", "t2v-vanilla", "--noise_level", "high", "--weights_only")
    assert cli(*one, "--dit_high", mine).returncode == 0
    mine.unlink()
    done = cli(*one)
    assert done.returncode == 5 and "--dit_high" in done.stderr
    assert PATHS["wan2.2-t2v-high"] not in fetched(served)


def test_what_several_presets_need_together(tmp_path: Path) -> None:
    """The VAE is one, Wan 2.1 has no noise levels, T2V no CLIP."""
    for name in ("vae", "clip"):
        (tmp_path / name).touch()
    options: dict[str, Any] = {"noise_level": "low", "vae": tmp_path / "vae", "clip": tmp_path / "clip"}
    request = read(["wan21-i2v-480p", "t2v-vanilla"], base_dir=tmp_path, **options)
    assert [run.noise_level for run in request.runs] == [None, "low"]
    assert ["clip" in run.files for run in request.runs] == [True, False]
    both = ["wan21-i2v-480p", "t2v-vanilla"]
    assert request.needs == {
        "wan2.1-i2v-480p": both[:1],
        "vae": both,
        "t5": both,
        "clip": both[:1],
        "wan2.2-t2v-low": both[1:],
    }
    assert request.tokenizers == ["t5", "clip"] and {"accelerate", "torch"} <= request.modules


def test_a_comfyui_of_an_earlier_setup_that_is_empty_now(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "usb").mkdir()
    (tmp_path / "wanwrap.toml").write_text(f'comfyui_dir = ["{(tmp_path / "usb").as_posix()}"]\n')
    survey(read(["t2v-vanilla"], base_dir=tmp_path), weights_only=True)
    assert str(tmp_path / "usb") in "".join(said)


@in_bash
@pytest.mark.usefixtures("served")
def test_closed_streams(tmp_path: Path) -> None:
    dit(tmp_path / "ComfyUI" / "models" / "unet" / "remix_high.safetensors")  # of which it would ask
    argv = setup("--comfyui_dir", str(tmp_path / "ComfyUI"))
    done = subprocess.run(["bash", "-c", 'exec "$@" <&- >&- 2>&-', "-", *argv], cwd=tmp_path)
    assert done.returncode == 0 and load(tmp_path / "local_training").weights.keys() == {*NAMES}


@pytest.mark.usefixtures("served")
def test_a_run_trusts_no_name(
    tmp_path: Path, cli: Wanwrap, toys: dict[str, bytes], cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that somebody has put there: the other expert's has the same size."""
    for name in NAMES:
        path = place(tmp_path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(toys[name])
    low = place(tmp_path, "wan2.2-t2v-low")
    low.write_bytes(toys["wan2.2-t2v-high"].ljust(len(toys["wan2.2-t2v-low"])))
    row = replace(CATALOGUE["wan2.2-t2v-low"], size=low.stat().st_size)
    monkeypatch.setitem(CATALOGUE, "wan2.2-t2v-low", row)
    one = ("run", "t2v-vanilla", "--dataset", cats, "--epochs", 1, "--noise_level")
    done = cli(*one, "low")
    assert done.returncode == 5 and "sha256" in done.stderr, done.stderr
    assert not (workspace(tmp_path) / "outputs").exists()
    assert cli(*one, "high").returncode == 0


def test_offline_without_the_tokenizers_nothing_begins(cli: Wanwrap, tmp_path: Path, low: tuple[object, ...]) -> None:
    done = cli(*low, HF_HOME=str(tmp_path / "empty"))
    assert done.returncode == 12 and "HF_HUB_OFFLINE" in done.stderr
    assert not (workspace(tmp_path) / "outputs").exists()
    done = cli(*low, HF_HOME=str(tmp_path / "empty"), HF_HUB_OFFLINE="0")
    assert done.returncode == 0 and "note: the tokenizer" in done.stderr


@symlinks
def test_upstream_at_another_commit_is_a_warning(tmp_path: Path, cli: Wanwrap, served: Hub) -> None:
    other = tmp_path / "musubi"
    (other / ".git").mkdir(parents=True)
    (other / ".git" / "HEAD").write_text("f" * 40)
    (other / "src").symlink_to(STANDIN / "src")
    done = cli("setup", "t2v-vanilla", "--noise_level", "low", "--musubi_dir", other)
    assert done.returncode == 0 and served.asked
    assert "warning: musubi-tuner" in done.stderr and "f" * 40 in done.stderr and "30c658c" in done.stderr
    assert load(workspace(tmp_path)).musubi_dir == other and load(workspace(tmp_path)).commit == "f" * 40


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nonsense"], 3, "nonsense"),
        (["t2v-vanilla", "--dit_high", "gone.safetensors"], 5, "gone.safetensors"),
        (["t2v-vanilla", "--comfyui_dir", "gone"], 5, "gone"),
        (["t2v-vanilla", "--lightning_high", "x"], 7, "--lightning_high"),
        (["--include_i2v", "--dit_high", "x"], 7, "one preset"),
        (["t2v-vanilla", "wan21-t2v-14b", "--clip", "x"], 7, "--clip"),
        (["wan21-t2v-14b", "--dit_high", "x"], 7, "--dit"),
        (["t2v-vanilla", "--python", "/bin/false"], 8, "/bin/false"),
        (["t2v-vanilla", "--musubi_dir", "nowhere"], 6, "nowhere"),
        (["t2v-vanilla", "--base_dir", f"{__file__}/x"], 11, __file__),
    ],
)
def test_mistakes(words: list[str], code: int, says: str, cli: Wanwrap) -> None:
    done = cli("setup", *words, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == answer["exit_code"] == code and says in answer["error"]
    assert f"Error: {answer['error']}" in done.stderr
