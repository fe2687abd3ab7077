"""`publish` by the real huggingface_hub, to a hub that takes files, and refuses them as it is told."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan, lora
from hub import Hub, hub
from platforms import posix, terminals
from runs import NAME, begin, finished_record, folder, sample
from uploads import Refusal, Repo, Uploads

from wanwrap.look import samples
from wanwrap.look.samples import Sample
from wanwrap.run.comfyui import WORKFLOW

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the library's own, of its client
TOKEN = "hf_" + "SecretOfTheUser" * 2
REPO = "joe/cats"
LICENSE = ("--license", "apache-2.0")
WORDS = ("publish", NAME, REPO, *LICENSE)
HIGH, LOW = f"{NAME}-high.safetensors", f"{NAME}-low.safetensors"
BOTH = {"high": HIGH, "low": LOW}
EPOCH = f"{NAME}-low-000045.safetensors"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub of joe, whose token is in the environment; nobody waits before another attempt."""
    with hub({}) as made:
        made.uploads = Uploads(TOKEN)
        for name, value in {"HF_ENDPOINT": made.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}.items():
            monkeypatch.setenv(name, value)
        for module in ("wanwrap.weights.patience", "huggingface_hub.utils._http"):
            monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
        yield made


@pytest.fixture
def taken(served: Hub) -> Uploads:
    return served.uploads


@pytest.fixture(autouse=True)
def run(tmp_path: Path) -> Path:
    """A run that has ended; its folder."""
    return made_run(tmp_path)


def made_run(tmp_path: Path, metadata: Mapping[str, str] = {}, **changes: Any) -> Path:
    """Both experts with LoRAs of each fifth epoch, each file with other bytes."""
    place, plan = folder(tmp_path), golden_plan("t2v-vanilla")
    for train in plan.trainings:
        for name in train.loras:
            told = {"ss_epoch": "50", "ss_output_name": name, "modelspec.architecture": "wan2.1/lora", **metadata}
            lora(place / name, rank=64, metadata=told)
        (place / train.expert).mkdir(exist_ok=True)
        finished_record(plan, train, **changes).write(place / train.expert)
    return place


def put_samples(run: Path, *shown: Sample) -> None:
    (run / "samples").mkdir()
    for each in shown:
        (run / each.file).write_bytes(b"moves")
    samples.write(run, shown)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_sent(cli: Wanwrap, taken: Uploads, run: Path) -> None:
    """The last LoRAs with samples of theirs, the workflow and a card, in one commit; the token to the Hub alone."""
    (run / WORKFLOW).write_text("{}")
    shown = [sample(loras=BOTH), sample(file="samples/early.mp4", epoch=5), sample(file="samples/alone.mp4", loras={"low": LOW})]  # fmt: skip
    put_samples(run, *shown)
    done = cli(*WORDS, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    repo, told = taken.repos[REPO], json.loads(done.stdout)
    sent = {HIGH, LOW, WORKFLOW, "samples/one.mp4", "README.md"}
    assert {*repo.files} - {".gitattributes"} == sent == {*told["files"]} and [{*each} for each in repo.commits] == [
        sent
    ]
    assert repo.files[LOW] == (run / LOW).read_bytes() and not repo.private
    assert repo.files["README.md"].decode() == told["card"] and "early.mp4" not in told["card"]
    assert all((token is None) == name.startswith("put ") for name, token in taken.tokens)
    assert TOKEN not in done.stdout + done.stderr + "".join(path.read_text() for path in run.rglob("*.json"))
    assert str(run) not in told["card"] and "alone.mp4" not in told["card"] and len(told["remarks"]) == 1


@pytest.mark.parametrize(("shown", "prompt"), [(True, "mycat on a mat"), (False, "mycat")])
def test_the_workflow_is_that_of_what_is_published(
    shown: bool, prompt: str, cli: Wanwrap, taken: Uploads, tmp_path: Path
) -> None:
    """With its LoRAs, and no caption of the data set: a sample's prompt, else the trigger; both are told before."""
    run = made_run(tmp_path, examples=[{"caption": "joe at home", "path": "/cats/1.png", "kind": "image"}])
    (run / WORKFLOW).write_text("joe at home")
    early = {expert: f"{NAME}-{expert}-000020.safetensors" for expert in ("high", "low")}
    if shown:
        put_samples(run, sample(loras=BOTH), sample(file="samples/b.mp4", epoch=20, prompt=prompt, loras=early))
    done = cli(*WORDS, "--yes", "--epochs", "20")
    assert done.returncode == 0 and f'"{prompt}"' in done.stderr, done.stderr
    text = taken.repos[REPO].files[WORKFLOW].decode()
    nodes = {node["title"]: node["widgets_values"] for node in json.loads(text)["nodes"]}
    assert nodes["Prompt"] == [prompt] and "joe at home" not in text and "caption" not in text
    assert {nodes[f"Your LoRA for the {expert}-noise model"][0] for expert in early} == {*early.values()}
    assert {*early.values()} < {*taken.repos[REPO].files} and LOW not in text


def test_one_expert_of_wanwrap_0_2_0(cli: Wanwrap, run: Path) -> None:
    """The other one's record tells how both are used."""
    place = run / "high" / "record.json"
    row = json.loads(place.read_text())
    place.write_text(json.dumps({name: row[name] for name in row if name not in ("inference", "examples", "trigger")}))
    done = cli(*WORDS, "--dry_run")
    assert done.returncode == 0 and "instance_prompt: mycat" in done.stdout and HIGH in done.stdout, done.stderr


def test_another_epoch_later(cli: Wanwrap, taken: Uploads) -> None:
    """Into the same repository; the card tells of both, and what is there is not sent again."""
    assert cli(*WORDS, "--yes").returncode == 0
    before = taken.puts()
    done = cli(*WORDS, "--yes", "--epochs", "45, 40")
    assert done.returncode == 0 and "there already" in done.stderr, done.stderr
    assert len(taken.puts()) == 6 and taken.puts()[:2] == before
    card = taken.repos[REPO].files["README.md"].decode()
    assert all(f"| `{name}` |" in card for name in (HIGH, LOW, EPOCH))
    assert f'weight_name="{LOW}"' in card  # the youngest is the one to use
    absent = cli(*WORDS, "--yes", "--epochs", "46")
    assert absent.returncode == 7 and "10" in absent.stderr


def test_a_run_that_still_trains(cli: Wanwrap, tmp_path: Path) -> None:
    """Of its finished epochs."""
    made_run(tmp_path, state="running", files=[f"{NAME}-{expert}-000005.safetensors" for expert in ("high", "low")])
    done = cli(*WORDS, "--dry_run")
    assert done.returncode == 0 and "-high-000005" in done.stderr and LOW not in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize("times", [2, 99])
def test_the_connection_is_cut_in_the_middle(times: int, cli: Wanwrap, taken: Uploads, run: Path) -> None:
    """A few attempts later it goes on by itself; else the same command does, from the file that is not there."""
    taken.refusals[f"put {sha(run / LOW)}"] = Refusal(cut=1000, times=times)
    done = cli(*WORDS, "--yes")
    assert done.returncode == (0 if times == 2 else 12), done.stderr
    if times == 99:
        assert "same command" in done.stderr and not taken.repos[REPO].commits and TOKEN not in done.stderr
        taken.refusals.clear()
        assert cli(*WORDS, "--yes").returncode == 0
    assert taken.repos[REPO].files[LOW] == (run / LOW).read_bytes()
    assert taken.puts().count(sha(run / HIGH)) == 1


def test_in_a_process_of_its_own(wanwrap: Wanwrap, taken: Uploads, run: Path) -> None:
    """Nothing is shown by which others could write there."""
    taken.refusals[f"put {sha(run / HIGH)}"] = Refusal(503, times=1)
    done = wanwrap(*WORDS, "--yes")
    assert done.returncode == 0 and f"/{REPO}" in done.stdout, done.stderr
    assert not [word for word in ("Signature", TOKEN, "Traceback") if word in done.stdout + done.stderr]


def test_one_file_after_the_other(cli: Wanwrap, taken: Uploads, run: Path) -> None:
    """So that a cut loses one alone."""
    taken.refusals[f"put {sha(run / HIGH)}"] = Refusal(413)
    assert cli(*WORDS, "--yes").returncode == 12 and taken.puts() == [sha(run / HIGH)]


@pytest.mark.parametrize(
    ("where", "status", "noun"),
    [
        ("whoami", 401, "hf auth login"),
        ("create", 403, "may write"),
        ("create", 404, "OWNER/NAME"),
        ("preupload", 403, "may write"),
        (f"put {'?'}", 413, "as large"),
        ("commit_to", 403, "quota"),
        ("whoami", 503, "503"),
    ],
)
def test_the_hub_refuses(where: str, status: int, noun: str, cli: Wanwrap, taken: Uploads, run: Path) -> None:
    taken.refusals[where.replace("?", sha(run / HIGH))] = Refusal(status, "the quota is used up")
    done = cli(*WORDS, "--yes")
    assert done.returncode == 12 and noun in done.stderr and REPO in done.stderr, done.stderr
    assert TOKEN not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(("env", "noun"), [({"HF_TOKEN": ""}, "hf auth login"), ({"HF_TOKEN": "hf_Jörg"}, "HF_TOKEN"), ({"HF_HUB_OFFLINE": "1"}, "OFFLINE"), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "reached")])  # fmt: skip
def test_no_token_and_no_network(env: dict[str, str], noun: str, cli: Wanwrap) -> None:
    done = cli(*WORDS, "--yes", **env)
    assert done.returncode == 12 and noun in done.stderr and "setup" not in done.stderr, done.stderr
    assert "Jörg" not in done.stderr


def test_what_is_there_already(cli: Wanwrap, taken: Uploads, tmp_path: Path) -> None:
    """Something else stays, unless it may be written over; what is public is not made private."""
    taken.repos[REPO] = Repo(files={"mine.txt": b"mine", "README.md": b"mine"})
    refused = cli(*WORDS, "--yes")
    assert refused.returncode == 11 and "--overwrite" in refused.stderr and not taken.repos[REPO].commits
    assert cli(*WORDS, "--yes", "--overwrite").returncode == 0 and taken.repos[REPO].files["mine.txt"] == b"mine"
    hidden = cli(*WORDS, "--yes", "--private")
    assert hidden.returncode == 11 and "public" in hidden.stderr
    made_run(tmp_path, started="2026-02-02T03:04:05+00:00")  # begun anew with --restart
    assert cli(*WORDS, "--yes").returncode == 11
    assert cli("publish", NAME, "someone/cats", *LICENSE, "--yes").returncode == 12


def test_private(cli: Wanwrap, taken: Uploads) -> None:
    assert "private" in cli(*WORDS, "--yes", "--private").stderr and taken.repos[REPO].private
    assert "private" in cli(*WORDS, "--yes").stderr  # it stays


@pytest.mark.parametrize(
    ("words", "code", "noun"),
    [
        (WORDS, 7, "--yes"),
        (("publish", NAME, REPO, "--yes"), 7, "apache-2.0"),
        (("publish", NAME, REPO, "--license", "mine"), 2, "cc-by-4.0"),
        (("publish", NAME, "cats", *LICENSE), 7, "OWNER/NAME"),
        (("publish", NAME, "joe/c ats", *LICENSE), 7, "c ats"),
        (("publish", "dogs", REPO, *LICENSE), 11, NAME),
    ],
)
def test_refused_before_anything_is_sent(words: tuple[str, ...], code: int, noun: str, cli: Wanwrap, taken: Uploads) -> None:  # fmt: skip
    done = cli(*words)
    assert done.returncode == code and noun in done.stderr, done.stderr
    assert not taken.repos


def test_dry_run_asks_nothing_of_the_hub(cli: Wanwrap) -> None:
    done = cli(*WORDS, "--dry_run")
    assert done.returncode == 0 and LOW in done.stderr and done.stdout.startswith("---\nlicense: apache-2.0")


def test_a_rehearsal(cli: Wanwrap, run: Path) -> None:
    toys = run.parents[1] / "rehearsal" / "toys" / "outputs" / "toys"
    toys.parent.mkdir(parents=True)
    run.rename(toys)
    done = cli("publish", "toys", REPO, *LICENSE, "--dry_run")
    assert done.returncode == 11 and "rehearsal" in done.stderr


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/home/joe/cats", True),
        ('{"dit":"C:\\\\Users\\\\joe"}', True),
        ("file:///home/joe/x", True),
        ("dir:/home/joe/x", True),
        ("/My Drive/wan/x", True),
        (r"\\server\share\x", True),
        (json.dumps(r"\\server\share\x"), True),
        (json.dumps(json.dumps("a\nb\nc (d)")), False),
        ("see https://github.com/kohya-ss/musubi-tuner 1/2 a/b", False),
        ("wan2.1/lora and/or 12/05/2026", False),
    ],
)
def test_a_path_in_a_lora_is_told(value: str, path: bool, cli: Wanwrap, tmp_path: Path) -> None:
    made_run(tmp_path, {"modelspec.description": value})
    told = json.loads(cli(*WORDS, "--dry_run", "--json").stdout)["remarks"]
    assert [each.startswith((HIGH, LOW)) and "modelspec.description" in each for each in told] == [True] * (2 * path)


@terminals
def test_on_a_terminal_it_asks(tmp_path: Path, served: Hub) -> None:
    """In a process of its own: for the licence, then for a yes."""
    ours, theirs = posix.openpty()
    process = begin(tmp_path, "publish", NAME, REPO, tty=theirs)
    os.write(ours, b"apache-2.0\ny\n")
    assert process.wait(60) == 0
    said = os.read(ours, 100_000).decode()
    assert "Send it?" in said and "licence" in said and TOKEN not in said
    assert HIGH in served.uploads.repos[REPO].files
