"""`wanwrap setup` and `doctor` as a user types them, with toys for weights and a hub on the loopback."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import STANDIN, Wanwrap, comfy_names, dit, published, record, safetensors
from hub import Fault, Hub, hub

from wanwrap.errors import OptionError, WeightsError
from wanwrap.machine.setup import alone
from wanwrap.machine.survey import survey
from wanwrap.machine.wish import wish as wished
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
from wanwrap.weights.weight_file import WeightFile
from wanwrap.weights.workspace import load, save

TOKEN = "hf_SecretOfTheUser"
NAMES = ("wan2.2-t2v-high", "wan2.2-t2v-low", "vae", "t5")
Env = dict[str, str]


def make(folder: Path) -> dict[str, bytes]:
    """Toys by the catalogue's names, as the hub has them."""
    toys = {name: dit(folder / name, metadata={"of": name}).read_bytes() for name in NAMES[:2]}
    vae = {"decoder.conv1.weight": ("F16", [1]), "conv2.weight": ("F16", [16])}
    toys["vae"] = safetensors(folder / "vae", vae).read_bytes()
    toys["t5"] = b"PK\x03\x04" + b"the text encoder" * 100_000
    return toys


@pytest.fixture
def toys(tmp_path: Path) -> dict[str, bytes]:
    return make(tmp_path / "toys")


@pytest.fixture
def served(toys: dict[str, bytes]) -> Iterator[Hub]:
    """A hub with the toys under the names of the real files, and T5's tokenizer."""
    files = {(CATALOGUE[name].repo, CATALOGUE[name].path): content for name, content in toys.items()}
    tokenizer = TOKENIZERS["t5"]
    files |= {(tokenizer.repo, f"{tokenizer.folder}/{name}"): name.encode() for name in tokenizer.files}
    with hub(files) as made:
        yield made


@pytest.fixture
def env(tmp_path: Path, toys: dict[str, bytes], served: Hub) -> Env:
    """Where the catalogue has the toys' sizes and sha256, and the hub is that one."""
    rows: dict[str, Any] = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "about": None}
        for name, content in toys.items()
    }
    files = {name: hashlib.sha256(name.encode()).hexdigest() for name in TOKENIZERS["t5"].files}
    online = {
        "HF_HOME": str(tmp_path / "empty"),
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": served.endpoint,
        "HF_HUB_DISABLE_XET": "1",
    }
    return {**published(tmp_path, {**rows, "tokenizers": {"t5": files}}), **online}


def workspace(tmp_path: Path) -> Path:
    return tmp_path / "home" / "local_training"


def place(tmp_path: Path, name: str) -> Path:
    return workspace(tmp_path) / "models" / CATALOGUE[name].path


def fetched(served: Hub) -> set[str]:
    """The files of which bytes were sent."""
    return {each.path for each in served.asked if each.method == "GET" and each.status < 300 and "api" not in each.path}


def test_everything_from_the_hub_then_a_run(
    tmp_path: Path, wanwrap: Wanwrap, env: Env, served: Hub, toys: dict[str, bytes], cats: Path
) -> None:
    done = wanwrap("setup", "t2v-vanilla", HF_TOKEN=TOKEN, **env)
    assert done.returncode == 0, done.stderr
    assert "ready: t2v-vanilla" in done.stdout and "there, nothing to install" in done.stdout
    assert all(place(tmp_path, name).read_bytes() == content for name, content in toys.items())
    found = load(workspace(tmp_path))
    assert found.presets == ("t2v-vanilla",) and found.python is None and found.musubi_dir == STANDIN
    assert {name: row.path for name, row in found.weights.items()} == {name: place(tmp_path, name) for name in NAMES}
    assert all(row.sha256 == hashlib.sha256(toys[name]).hexdigest() for name, row in found.weights.items())
    assert any(each.token and TOKEN in each.token for each in served.asked)
    texts = [path.read_bytes() for path in workspace(tmp_path).rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in text for text in texts) and TOKEN not in done.stdout + done.stderr

    served.asked.clear()
    again = wanwrap("setup", "t2v-vanilla", **env)
    assert again.returncode == 0 and not fetched(served)
    assert "wan2.2-t2v-high  found" in again.stdout and "To download: 0.0 MB" in again.stdout
    well = wanwrap("doctor", **env)
    assert well.returncode == 0 and "TO DO" not in well.stdout, well.stdout
    ran = wanwrap("run", "t2v-vanilla", "--dataset", cats, **{**env, "HF_HUB_OFFLINE": "1"}, standin=False)
    assert ran.returncode == 0, ran.stderr
    assert f"--t5 {place(tmp_path, 't5')}" in " ".join(
        next(call["argv"] for call in record(tmp_path) if "--t5" in call["argv"])
    )


def test_what_a_comfyui_has_is_used_where_it_lies(
    tmp_path: Path, wanwrap: Wanwrap, env: Env, served: Hub, toys: dict[str, bytes]
) -> None:
    comfy = tmp_path / "ComfyUI" / "models"
    for name, path in (("wan2.2-t2v-high", "diffusion_models/renamed.safetensors"), ("vae", "vae/wan.safetensors")):
        (comfy / path).parent.mkdir(parents=True)
        (comfy / path).write_bytes(toys[name])
    before = sorted((path, path.stat().st_mtime_ns) for path in comfy.rglob("*"))
    done = wanwrap("setup", "t2v-vanilla", "--comfyui_dir", tmp_path / "ComfyUI", "--json", **env)
    assert done.returncode == 0, done.stderr
    weights = json.loads(done.stdout)["weights"]
    assert weights["wan2.2-t2v-high"]["path"] == str(comfy / "diffusion_models" / "renamed.safetensors")
    assert {name: row["state"] for name, row in weights.items()} == dict.fromkeys(NAMES, "ready")
    assert fetched(served) & {CATALOGUE[name].path for name in NAMES} == {CATALOGUE[name].path for name in ("wan2.2-t2v-low", "t5")}  # fmt: skip
    assert sorted((path, path.stat().st_mtime_ns) for path in comfy.rglob("*")) == before
    again = wanwrap("setup", "t2v-vanilla", "--noise_level", "high", "--dry_run", **env)  # the folder is remembered
    assert str(comfy / "vae" / "wan.safetensors") in again.stdout and "low" not in again.stdout.split("Files found")[0]

    (comfy / "vae" / "wan.safetensors").write_bytes(toys["vae"] + b"x")
    refused = wanwrap("run", "t2v-vanilla", "--dataset", "sample", **env)
    assert refused.returncode == 5 and "another file since setup has found it; run setup again" in refused.stderr
    ill = wanwrap("doctor", "--json", **env)
    assert ill.returncode == 5
    assert [row["name"] for row in json.loads(ill.stdout) if not row["ok"]] == ["weights of t2v-vanilla"]


def test_one_file_that_fails_keeps_no_other_from_coming(
    tmp_path: Path, wanwrap: Wanwrap, env: Env, served: Hub
) -> None:
    served.faults[CATALOGUE["wan2.2-t2v-high"].path] = Fault(status=404, code="EntryNotFound")
    served.faults[CATALOGUE["vae"].path] = Fault(body=b"other bytes", times=1)
    done = wanwrap("setup", "t2v-vanilla", "--json", **env)
    assert done.returncode == 12
    assert "setup is not complete. Done: wan2.2-t2v-low, t5. Left:" in done.stderr
    assert "The same command goes on from here" in done.stderr and "Traceback" not in done.stderr
    assert json.loads(done.stdout)["failed"].keys() == {"wan2.2-t2v-high", "vae"}
    assert not place(tmp_path, "vae").exists() and load(workspace(tmp_path)).weights.keys() == {"wan2.2-t2v-low", "t5"}
    served.faults.clear()
    served.asked.clear()
    assert wanwrap("setup", "t2v-vanilla", **env).returncode == 0
    assert fetched(served) == {CATALOGUE[name].path for name in ("wan2.2-t2v-high", "vae")}


def test_killed_in_the_middle_it_goes_on(tmp_path: Path, env: Env, served: Hub, wanwrap: Wanwrap) -> None:
    path = CATALOGUE["t5"].path
    served.faults[path] = Fault(slow=0.2, times=1)
    argv = [sys.executable, "-m", "wanwrap", "setup", "t2v-vanilla", "--noise_level", "low", "--weights_only"]
    (tmp_path / "home").mkdir(exist_ok=True)
    process = subprocess.Popen(argv, cwd=tmp_path / "home", env={**os.environ, **env}, stderr=subprocess.DEVNULL)
    parts = workspace(tmp_path) / "models" / ".downloads"
    while process.poll() is None and not any(part.stat().st_size > 200_000 for part in parts.glob("*t5*.part")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not place(tmp_path, "t5").exists() and "t5" not in load(workspace(tmp_path)).weights
    assert wanwrap("setup", "t2v-vanilla", "--noise_level", "low", "--weights_only", **env).returncode == 0
    assert place(tmp_path, "t5").is_file()
    assert [each is not None for each in served.ranges(path)] == [False, True]


def test_one_setup_at_a_time(tmp_path: Path, wanwrap: Wanwrap, env: Env, served: Hub) -> None:
    with alone(wished(["t2v-vanilla"], base_dir=workspace(tmp_path))):
        done = wanwrap("setup", "t2v-vanilla", "--weights_only", **env)
        assert done.returncode == 11 and "another wanwrap setup is at work" in done.stderr
    assert not served.asked and not load(workspace(tmp_path)).weights


def test_ctrl_c_says_so(tmp_path: Path, env: Env, served: Hub) -> None:
    served.faults[CATALOGUE["t5"].path] = Fault(slow=0.2)
    argv = [sys.executable, "-m", "wanwrap", "setup", "t2v-vanilla", "--weights_only"]
    process = subprocess.Popen(argv, cwd=tmp_path, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.rglob("*t5*.part")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Traceback" not in text, text
    assert "what has come is kept; the same command goes on from here" in text


def test_a_dry_run_writes_nothing_and_too_little_disk_is_told(
    tmp_path: Path, wanwrap: Wanwrap, env: Env, served: Hub
) -> None:
    done = wanwrap("setup", "t2v-vanilla", "--dry_run", **env)
    assert done.returncode == 0 and not served.asked and not workspace(tmp_path).exists()
    assert "t5               download" in done.stdout
    published(tmp_path, {"t5": {"size": 10**15}})
    done = wanwrap("setup", "t2v-vanilla", **env)
    assert done.returncode == 13 and "GB are needed for what is to be written; make room" in done.stderr
    assert not workspace(tmp_path).exists() and not served.asked


def test_comfyuis_text_encoder_is_converted(tmp_path: Path, wanwrap: Wanwrap, env: Env, served: Hub) -> None:
    pytest.importorskip("torch")
    comfy = tmp_path / "ComfyUI" / "models" / "text_encoders"
    tensors = {name: ("F16", [2, 2]) for name in comfy_names(range(1))}
    file = safetensors(comfy / "umt5_xxl_fp16.safetensors", {**tensors, "spiece_model": ("I8", [3])})
    one = ("setup", "t2v-vanilla", "--comfyui_dir", comfy.parent.parent, "--weights_only")
    shown = wanwrap(*one, "--dry_run", **env)
    assert f"t5               convert   0.0 MB  {file}" in shown.stdout
    done = wanwrap(*one, **env)
    assert done.returncode == 0, done.stderr
    made = load(workspace(tmp_path)).weights["t5"].path
    assert (
        made.parent == workspace(tmp_path) / "models" / "converted" and b"blocks.0.attn.q.weight" in made.read_bytes()
    )
    assert CATALOGUE["t5"].path not in fetched(served)
    assert [*comfy.iterdir()] == [file]
    assert wanwrap(*one, **env).returncode == 0  # not again


def test_list(wanwrap: Wanwrap) -> None:
    """Of t2v-vanilla where nothing is asked for."""

    def names(*words: str) -> list[str]:
        listed = wanwrap("setup", *words, "--list", "--noise_level", "low", "--json")
        return [row["name"] for row in json.loads(listed.stdout)]

    assert names() == ["wan2.2-t2v-low", "vae", "t5", "t5-tokenizer"]
    assert names("--include_i2v") == ["wan2.2-t2v-low", "vae", "t5", "wan2.2-i2v-low", "t5-tokenizer"]
    assert names("t2v-lightning", "--include_i2v") == ["wan2.2-t2v-low", "lightning-t2v-v1.1-low", "vae", "t5", "wan2.2-i2v-low", "lightning-i2v-v1-low", "t5-tokenizer"]  # fmt: skip
    text = wanwrap("setup", "wan21-i2v-480p", "--list").stdout
    assert "clip  (clip, fp32, 4.8 GB)" in text and "xlm-roberta-large/" in text and "about 32.8 GB" in text


def test_only_the_user_can_say(tmp_path: Path) -> None:
    """A finetune is used when the user says so, and not otherwise."""
    mine = dit(tmp_path / "ComfyUI" / "models" / "unet" / "remix_high.safetensors", "BF16")
    wish = wished(["t2v-vanilla"], base_dir=tmp_path / "base", comfyui_dir=[tmp_path / "ComfyUI"])
    asked = list[str]()

    def ask(question: str) -> bool:
        asked.append(question)
        return True

    assert "wan2.2-t2v-high" not in survey(wish, weights_only=True).search.chosen
    assert survey(wish, weights_only=True, ask=ask).search.chosen["wan2.2-t2v-high"].path == mine
    assert len(asked) == 1 and "Use it as wan2.2-t2v-high?" in asked[0] and "its name (remix) doesn't tell" in asked[0]
    named = wished(["t2v-vanilla"], base_dir=tmp_path / "base", dit_high=mine)
    assert survey(named, weights_only=True).search.chosen["wan2.2-t2v-high"].path == mine


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\x03", 130)])
def test_asked_on_a_terminal(answer: bytes, code: int, tmp_path: Path, env: Env) -> None:
    """The question is the last thing on the screen, not a bar."""
    mine = dit(tmp_path / "ComfyUI" / "models" / "unet" / "remix_high.safetensors", "BF16")
    ours, theirs = os.openpty()
    argv = [sys.executable, "-m", "wanwrap", "setup", "t2v-vanilla", "--noise_level", "high", "--weights_only"]
    argv += ["--comfyui_dir", str(tmp_path / "ComfyUI")]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = psutil.Popen(argv, cwd=tmp_path, env={**os.environ, **env}, preexec_fn=_own_terminal, **streams)
    os.close(theirs)
    seen = b""
    while not seen.endswith(b"Use it as wan2.2-t2v-high? [y/N]: "):
        seen += os.read(ours, 4096)
    os.write(ours, answer)
    with contextlib.suppress(OSError):  # EIO: nobody holds the other end
        while True:
            if not select.select([ours], [], [], 2)[0]:
                os.write(ours, answer)  # as a person does: readline, while it starts, may have missed a Ctrl-C
            elif chunk := os.read(ours, 4096):
                seen += chunk
            else:
                break
    assert process.wait(30) == code, seen.decode()
    os.close(ours)
    if code:
        assert b"interrupted" in seen and b"Traceback" not in seen
    else:
        assert load(tmp_path / "local_training").weights["wan2.2-t2v-high"].path == mine


def _own_terminal() -> None:
    """Ctrl-C at it reaches this process."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_the_workspaces_file_is_the_users_too(tmp_path: Path, wanwrap: Wanwrap, env: Env) -> None:
    base = workspace(tmp_path)
    base.mkdir(parents=True)
    mine = dit(tmp_path / "mine.safetensors")
    (base / "wanwrap.toml").write_text(f'# my own words\n[weights]\n"wan2.2-t2v-high" = "{mine}"\n')
    done = wanwrap("setup", "t2v-vanilla", "--weights_only", **env)
    assert done.returncode == 0, done.stderr
    assert "# my own words" in (base / "wanwrap.toml").read_text()
    assert load(base).weights["wan2.2-t2v-high"].path == mine and not place(tmp_path, "wan2.2-t2v-high").exists()
    (base / "wanwrap.toml").write_text("weights = [")
    broken = wanwrap("run", "t2v-vanilla", "--dataset", "sample", "--dry_run")
    assert broken.returncode == 7 and "delete it and run setup again" in broken.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[upstream]\npython = 5", "python must be a text, not 5"),
        ('presets = "t2v-vanilla"', "presets must be a list of texts, not 't2v-vanilla'"),
        ('comfyui_dir = "~/ComfyUI"', "comfyui_dir must be a list of texts"),
        ("comfyui_dir = [1]", "comfyui_dir must be a list of texts"),
        (
            '[weights]\n"wan2.2_t2v_high" = "x"',
            "weights takes no wan2.2_t2v_high. Did you mean wan2.2-t2v-high?",
        ),
        ("[weights]\nvae = { bytes = 3 }", "vae has no path"),
        ('[weights]\nvae = { path = "x", bytes = "3" }', "bytes must be a number, not '3'"),
        ("weights = 3", "weights must be a table"),
        ('[weight]\nvae = "x"', "takes no weight. Did you mean weights?"),
        ('[upstream]\npyhton = "x"', "Did you mean python?"),
        ('[weights]\nvae = { pth = "x" }', "Did you mean path?"),
        ('vae = "x"', "takes no vae"),
        ("\x00", "can't be read"),
    ],
)
def test_a_workspaces_file_that_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "wanwrap.toml").write_text(text)
    with pytest.raises(OptionError, match=re.escape(says)):
        load(tmp_path)


def test_a_workspaces_file_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "wanwrap.toml").mkdir()
    with pytest.raises(OptionError, match="is no file"):
        load(tmp_path)


def test_comments_and_what_was_written_by_hand_stay(tmp_path: Path) -> None:
    mine = '[weights] # mine\n# the one from the old disk\nvae = "vae.pth" # by hand\n'
    (tmp_path / "wanwrap.toml").write_text(f'presets = [] # none yet\n[upstream]\n# why not\npython = "p"\n{mine}')
    before = load(tmp_path)
    t5 = WeightFile(path=Path("/t5.pth"), stamp=(3, 4), sha256="5")
    save(tmp_path, replace(before, python=None, weights={**before.weights, "t5": t5}))
    text = (tmp_path / "wanwrap.toml").read_text()
    assert mine in text and "# none yet" in text and "# why not" in text and load(tmp_path).python is None
    assert load(tmp_path).weights == {"vae": WeightFile(path=tmp_path / "vae.pth"), "t5": t5}


def test_paths_of_the_workspaces_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "wanwrap.toml").write_text('comfyui_dir = ["~/ComfyUI"]\n[weights]\nvae = "models/x.pth"\nt5 = ""\n')
    found = load(tmp_path)
    assert found.comfyui == (tmp_path / "me" / "ComfyUI",)
    assert {name: row.path for name, row in found.weights.items()} == {"vae": tmp_path / "models" / "x.pth"}


def test_what_was_recorded_and_is_gone(tmp_path: Path, wanwrap: Wanwrap, env: Env) -> None:
    """It stops no setup; what others wrote into the file meanwhile stays."""
    base = workspace(tmp_path)
    base.mkdir(parents=True)
    (base / "wanwrap.toml").write_text(
        'presets = ["i2v-vanilla"]\ncomfyui_dir = ["/mnt/usb/ComfyUI"]\n[upstream]\nmusubi_dir = "/mnt/usb/musubi"\n'
        '[weights]\nvae = "/mnt/usb/vae.safetensors"\nclip = "/mine/clip.pth"\n'
    )
    done = wanwrap("setup", "t2v-vanilla", "--weights_only", "--json", **{**env, "WANWRAP_MUSUBI_DIR": ""})
    assert done.returncode == 0, done.stderr
    assert "/mnt/usb/vae.safetensors is gone or another file since it was recorded as vae" in done.stderr
    found = load(base)
    assert found.presets == ("i2v-vanilla", "t2v-vanilla") and found.weights["clip"].path == Path("/mine/clip.pth")
    assert found.weights["vae"].path == place(tmp_path, "vae")
    assert all(row["state"] == "ready" for row in json.loads(done.stdout)["weights"].values())


def test_ones_own_preset_is_remembered_by_its_path(tmp_path: Path, wanwrap: Wanwrap, env: Env) -> None:
    source = wanwrap("show", "t2v-vanilla", "--source").stdout
    (tmp_path / "home" / "mine.py").write_text(source)
    assert wanwrap("setup", "./mine.py", "--weights_only", **env).returncode == 0
    assert load(workspace(tmp_path)).presets == (str(tmp_path / "home" / "mine.py"),)
    assert "weights of mine" in wanwrap("doctor", **env).stdout


def test_the_content_wins_over_what_is_named(
    tmp_path: Path, wanwrap: Wanwrap, env: Env, toys: dict[str, bytes]
) -> None:
    low = tmp_path / "plain.safetensors"
    low.write_bytes(toys["wan2.2-t2v-low"])
    for words in (["--dit_high", low], []):
        base = workspace(tmp_path)
        base.mkdir(parents=True, exist_ok=True)
        (base / "wanwrap.toml").write_text("" if words else f'[weights]\n"wan2.2-t2v-high" = "{low}"\n')
        done = wanwrap("setup", "t2v-vanilla", "--weights_only", *words, **env)
        assert (
            done.returncode == 5 and "was named as wan2.2-t2v-high" in done.stderr
        ) or "by its content" in done.stderr


def test_what_takes_a_files_place_is_noticed(
    tmp_path: Path, wanwrap: Wanwrap, env: Env, toys: dict[str, bytes], served: Hub
) -> None:
    """Of the same size, with the same time: only its content tells."""
    one = ("setup", "t2v-vanilla", "--noise_level", "low", "--weights_only")
    assert wanwrap(*one, **env).returncode == 0
    path = place(tmp_path, "t5")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(toys["t5"][:-1] + b"x")
    os.utime(path, ns=times)
    refused = wanwrap("run", "t2v-vanilla", "--dataset", "sample", "--noise_level", "low", **env)
    assert refused.returncode == 5 and "is not the published file" in refused.stderr
    served.asked.clear()
    again = wanwrap(*one, **env)
    assert again.returncode == 0 and "is not what was published" in again.stderr  # what is there is moved aside
    assert path.read_bytes() == toys["t5"]


def test_what_changes_while_setup_works_is_not_recorded(tmp_path: Path, env: Env) -> None:
    base, path = tmp_path / "base", dit(tmp_path / "ComfyUI" / "models" / "unet" / "wan2.2_t2v_high.safetensors")
    wish = wished(["t2v-vanilla"], base_dir=base, comfyui_dir=[tmp_path / "ComfyUI"], noise_level="high")
    found = survey(wish, weights_only=True)
    assert found.search.chosen["wan2.2-t2v-high"].path == path
    dit(path, "BF16", metadata={"another": "one"})
    base.mkdir()
    with pytest.raises(WeightsError, match="has changed since it was looked at"):
        found.done("wan2.2-t2v-high", path, None, found.search.chosen["wan2.2-t2v-high"].stamp)
    assert not found.records and env


def test_ones_own_dit_is_never_replaced(tmp_path: Path, wanwrap: Wanwrap, env: Env, served: Hub) -> None:
    mine = dit(tmp_path / "mine.safetensors", "BF16")
    one = ("setup", "t2v-vanilla", "--noise_level", "high", "--weights_only")
    assert wanwrap(*one, "--dit_high", mine, **env).returncode == 0
    mine.unlink()
    done = wanwrap(*one, **env)
    assert done.returncode == 5 and "is gone or has been changed; name it again (--dit_high FILE)" in done.stderr
    assert CATALOGUE["wan2.2-t2v-high"].path not in fetched(served)


def test_tokenizers_that_are_cut_are_fetched_again(tmp_path: Path, wanwrap: Wanwrap, env: Env) -> None:
    one = ("setup", "t2v-vanilla", "--noise_level", "low", "--weights_only")
    assert wanwrap(*one, **env).returncode == 0
    (link,) = (tmp_path / "empty").rglob("snapshots/*/google/umt5-xxl/spiece.model")
    link.resolve().write_bytes(b"")
    assert "TO DO   tokenizer of t5" in wanwrap("doctor", **env).stdout
    again = wanwrap(*one, **env)
    assert again.returncode == 0 and "Tokenizer of t5: to download" in again.stdout
    assert link.read_bytes() == b"spiece.model"


def test_a_page_instead_of_the_rest(tmp_path: Path, wanwrap: Wanwrap, env: Env, served: Hub) -> None:
    """A hotel's login, with status 200: what had come stays."""
    path, one = CATALOGUE["t5"].path, ("setup", "t2v-vanilla", "--noise_level", "low", "--weights_only")
    whole = served.files[CATALOGUE["t5"].repo, path]
    part, mark = whole[:700_000], hashlib.sha256(whole).hexdigest()
    staged = workspace(tmp_path) / "models" / ".downloads" / f"{CATALOGUE['t5'].name}.{mark[:12]}.part"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(part)
    served.faults[path] = Fault(page=b"<!DOCTYPE html><p>Welcome to the hotel" * 9)
    done = wanwrap(*one, **env)
    assert done.returncode == 12 and "a web page came instead of models_t5" in done.stderr, done.stderr
    assert staged.read_bytes() == part
    served.faults.clear()
    assert wanwrap(*one, **env).returncode == 0 and served.ranges(path)[-1] == "bytes=700000-"


def test_several_presets_share_what_is_theirs_together(tmp_path: Path) -> None:
    """The VAE is one, Wan 2.1 has no noise levels, T2V no CLIP."""
    for name in ("vae", "clip"):
        (tmp_path / name).touch()
    options: dict[str, Any] = {"noise_level": "low", "vae": tmp_path / "vae", "clip": tmp_path / "clip"}
    wish = wished(["wan21-t2v-14b", "t2v-vanilla", "wan21-i2v-480p"], base_dir=tmp_path, **options)
    assert [run.noise_level for run in wish.runs] == [None, "low", None]
    assert ["clip" in run.files for run in wish.runs] == [False, False, True]
    with pytest.raises(OptionError, match="takes no --clip"):
        wished(["t2v-vanilla", "t2v-style"], base_dir=tmp_path, clip=tmp_path / "clip")
    with pytest.raises(OptionError, match="one preset's file"):
        wished(["t2v-vanilla", "i2v-vanilla"], base_dir=tmp_path, dit_low=tmp_path / "vae")


def test_a_comfyui_of_an_earlier_setup_that_is_empty_now(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "usb").mkdir()
    (tmp_path / "wanwrap.toml").write_text(f'comfyui_dir = ["{tmp_path / "usb"}"]\n')
    survey(wished(["t2v-vanilla"], base_dir=tmp_path), weights_only=True)
    assert "left out" in "".join(said)


@pytest.mark.parametrize("words", [["nonsense"], ["t2v-vanilla", "--dit_high", "gone"], ["--comfyui_dir", "gone"]])
def test_json_comes_out_of_failures_too(words: list[str], wanwrap: Wanwrap) -> None:
    done = wanwrap("setup", *words, "--weights_only", "--json")
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == done.returncode > 0 and f"Error: {answer['error']}" in done.stderr


def test_closed_streams(wanwrap: Wanwrap, tmp_path: Path, env: Env) -> None:
    dit(tmp_path / "ComfyUI" / "models" / "unet" / "remix_high.safetensors")
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        line = f"'{sys.executable}' -m wanwrap setup t2v-vanilla --weights_only --comfyui_dir ../ComfyUI {closed}"
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path / "home", env={**os.environ, **env}, capture_output=True
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, closed
    assert wanwrap("doctor", **env)


def test_a_run_trusts_no_name(tmp_path: Path, wanwrap: Wanwrap, env: Env, toys: dict[str, bytes], cats: Path) -> None:
    """Files that somebody has put there: the other expert's has the same size."""
    for name in NAMES:
        path = place(tmp_path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(toys[name])
    low = place(tmp_path, "wan2.2-t2v-low")
    low.write_bytes(toys["wan2.2-t2v-high"].ljust(len(toys["wan2.2-t2v-low"])))
    rows = json.loads((tmp_path / "custom" / "rows.json").read_text())
    rows["wan2.2-t2v-low"]["size"] = low.stat().st_size
    published(tmp_path, rows)
    done = wanwrap("run", "t2v-vanilla", "--dataset", cats, "--noise_level", "low", **env)
    assert done.returncode == 5 and "is not the published file: its sha256 is" in done.stderr, done.stderr
    assert not (workspace(tmp_path) / "outputs").exists()
    assert wanwrap("run", "t2v-vanilla", "--dataset", cats, "--noise_level", "high", **env).returncode == 0


def test_offline_without_the_tokenizers_nothing_begins(
    wanwrap: Wanwrap, tmp_path: Path, weights: list[str], cats: Path
) -> None:
    run = ("run", "t2v-vanilla", "--dataset", cats, *weights)
    done = wanwrap(*run, HF_HOME=str(tmp_path / "empty"))
    assert done.returncode == 12 and "HF_HUB_OFFLINE is set, and the tokenizer of t5 is not" in done.stderr
    assert not (workspace(tmp_path) / "outputs").exists()
    done = wanwrap(*run, HF_HOME=str(tmp_path / "empty"), HF_HUB_OFFLINE="0")
    assert done.returncode == 0 and "note: the tokenizer of t5 is not" in done.stderr


def test_upstream_at_another_commit_is_a_warning(tmp_path: Path, wanwrap: Wanwrap, env: Env) -> None:
    other = tmp_path / "musubi"
    (other / ".git").mkdir(parents=True)
    (other / ".git" / "HEAD").write_text("f" * 40)
    (other / "src").symlink_to(STANDIN / "src")
    done = wanwrap("setup", "t2v-vanilla", "--musubi_dir", other, **env)
    assert done.returncode == 0
    assert "warning: musubi-tuner" in done.stderr and "f" * 40 in done.stderr and "30c658c" in done.stderr
    assert load(workspace(tmp_path)).musubi_dir == other and load(workspace(tmp_path)).commit == "f" * 40


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nonsense"], 3, "nonsense"),
        (["t2v-vanilla", "--dit_high", "gone.safetensors"], 5, "there is no file"),
        (["t2v-vanilla", "--lightning_high", "x"], 7, "--lightning_high"),
        (["--include_i2v", "--dit_high", "x"], 7, "one preset at a time"),
        (["t2v-vanilla", "wan21-t2v-14b", "--clip", "x"], 7, "--clip"),
        (["wan21-t2v-14b", "--dit_high", "x"], 7, "--dit"),
        (["t2v-vanilla", "--python", "/bin/false"], 8, "can't be used to train"),
        (["t2v-vanilla", "--musubi_dir", "nowhere"], 6, "is no checkout of musubi-tuner"),
        (["t2v-vanilla", "--base_dir", f"{__file__}/x"], 11, "can't be written to"),
    ],
)
def test_mistakes(words: list[str], code: int, says: str, wanwrap: Wanwrap) -> None:
    done = wanwrap("setup", *words)
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_needs(tmp_path: Path) -> None:
    both = wished(["wan21-i2v-480p", "t2v-vanilla"], base_dir=tmp_path)
    assert both.needs == {
        "wan2.1-i2v-480p": ["wan21-i2v-480p"],
        "vae": ["wan21-i2v-480p", "t2v-vanilla"],
        "t5": ["wan21-i2v-480p", "t2v-vanilla"],
        "clip": ["wan21-i2v-480p"],
        "wan2.2-t2v-high": ["t2v-vanilla"],
        "wan2.2-t2v-low": ["t2v-vanilla"],
    }
    assert [*wished(["t2v-vanilla"], base_dir=tmp_path, noise_level="low").needs] == ["wan2.2-t2v-low", "vae", "t5"]
    assert both.tokenizers == ["t5", "clip"] and {"accelerate", "torch"} <= both.modules
