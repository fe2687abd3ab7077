"""A run's page: what stands on it, that it breaks by nothing, and what a real browser makes of it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tfevents
from browser import Page, browsing
from helpers import Wanwrap
from helpers import clip as film
from jinja2 import UndefinedError
from PIL import Image
from platforms import QUOTE, driven, odd_names
from runs import folder as folder_of
from runs import until

from wanwrap.cli import report as verb
from wanwrap.cli.report import Renewal
from wanwrap.look import charts, gallery, report, samples, template
from wanwrap.look.report import FILE, Report, gather, page, write
from wanwrap.look.samples import Sample
from wanwrap.paths import folder as ours
from wanwrap.run.attempt import Attempt
from wanwrap.run.status import look
from wanwrap.system.files import lock
from wanwrap.upstream.output import curves

GIB = 2**30
NAME = "cats-t2v-vanilla"
GOING: dict[str, Any] = {"state": "running", "files": [f"{NAME}-low-000005.safetensors"]}
HOSTILE = """</script></p><script>document.title = "owned"</script><img src=x onerror="document.title = 'owned'">
<b id=x onclick='1'>"double" 'single' &amp; $title {{ run }} {% if %} {# \u202egnp.exe עברית"""
INFERENCE = {
    "task": "t2v-A14B",
    "boundary": 0.875,
    "lightning": {"release": "t2v-v1.1", "strength": 1.0},
    "dits": {"high": "wan2.2-t2v-high", "low": "wan2.2-t2v-low"},
    "infer_steps": 4,
    "guidance_scale": 1.0,
    "guidance_scale_high_noise": 1.0,
    "flow_shift": 5.0,
    "size": [832, 480],
    "video_length": 81,
    "of a later version": 1,
}


def training(expert: str = "low", **changes: Any) -> dict[str, Any]:
    """The record of an expert that has been trained in two attempts."""
    lora = f"{NAME}-{expert}"
    return {
        "expert": expert,
        "lora": f"{lora}.safetensors",
        "settings": {"network_dim": "16", "learning_rate": "8e-05", "optimizer_args": ["a=1", "b=2"], "steps": 100},
        "command": "wanwrap run t2v-vanilla cats",
        "cwd": "/home/me",
        "preset": "t2v-vanilla",
        "dit": "/home/me/models/wan-low.safetensors",
        "dataset": {"name": "cats", "items": 12, "batches_per_epoch": 10},
        "machine": {"gpus": [{"name": "RTX 4090", "memory": 24 * GIB}], "upstream": {"version": "0.3.4"}},
        "weights": [{"name": "vae", "path": "/home/me/models/vae.safetensors"}],
        "inference": INFERENCE,
        "trigger": "mycat",
        "state": "done",
        "steps_planned": 100,
        "steps_done": 100,
        "epochs_planned": 10,
        "epochs_done": 10,
        "steps_per_epoch": 10,
        "state_every": 1,
        "updated": "2026-01-02T03:04:05+00:00",
        "memory": {"foretold": 20 * GIB, "used": 21 * GIB},
        "attempts": [
            {"number": 1, "epoch": 0, "step": 0, "started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T02:00:00+00:00"},
            {"number": 2, "epoch": 5, "step": 50, "started": "2026-01-01T03:00:00+00:00", "ended": "2026-01-01T04:30:00+00:00"},
        ],
        "files": [f"{lora}-000005.safetensors", f"{lora}.safetensors"],
        **changes,
    }  # fmt: skip


def events(folder: Path, values: list[float]) -> None:
    """What upstream writes in one attempt: these losses, and a rate that falls."""
    rows = [tfevents.VERSION]
    for step, value in enumerate(values, 1):
        rows += [tfevents.scalar("loss/current", step, value), tfevents.scalar("loss/average", step, 9)]
        rows += [tfevents.scalar("lr/unet", step, 1e-4 / step)]
    tfevents.write(folder / "20260101000000" / "network_train" / "events.out.tfevents.1", rows)


def run_folder(base: Path, **records: dict[str, Any]) -> Path:
    """A run's folder with its LoRAs and curves."""
    folder = base / "outputs" / NAME
    for expert, record in records.items():
        (folder / expert).mkdir(parents=True)
        (folder / expert / "record.json").write_text(json.dumps(record))
        for name in record.get("files", ()):
            (folder / name).write_bytes(b"a" * 1_500_000)
        for attempt in record.get("attempts", ()):
            events(folder / expert / "logs" / f"attempt-{attempt['number']}", [0.1 + attempt["number"] / 100] * 60)
    return folder


def sampled(folder: Path, *, clips: bool = False, epochs: int = 2, **changes: Any) -> list[Sample]:
    """Samples of two prompts, without and of some epochs."""
    made = []
    for number, prompt in enumerate(("a cat", "a dog")):
        for epoch in [None, *range(5, 5 * epochs + 1, 5)]:
            file = f"samples/{number}-{epoch}.{'mp4' if clips else 'png'}"
            if clips:
                film(folder / file, frames=17, caption=None)
            else:
                (folder / file).parent.mkdir(exist_ok=True)
                Image.new("RGB", (64, 48), f"#{number}{number}{'0' if epoch is None else '8'}").save(folder / file)
            loras = {} if epoch is None else {"low": f"{NAME}-low-{epoch:06d}.safetensors"}
            facts: dict[str, Any] = {"file": file, "prompt": prompt, "epoch": epoch, "strength": 1.0, "loras": loras}
            facts |= {"width": 64, "height": 48, "frames": 17 if clips else 1, "infer_steps": 4, "seed": 42}
            made.append(Sample(**{**facts, **changes}))
    samples.write(folder, made)
    return made


def gathered(folder: Path) -> Report:
    run = look(folder)
    return gather(run, {each.name: [f"{each.name} is fine"] for each in run.experts}, lambda _: "f" * 64)


def text_of(folder: Path) -> str:
    return "".join(page(gathered(folder)))


def words_of(folder: Path) -> str:
    """The page without its marks."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", text_of(folder).partition("<main>")[2])).split())


@contextmanager
def alive(folder: Path) -> Iterator[None]:
    """Somebody trains the low expert."""
    with lock(folder / "low", "another one"):
        yield


# ---- curves


def test_what_a_later_attempt_did_again_replaces_what_was_there() -> None:
    first, second = [(step, 1.0) for step in range(1, 8)], [(step, 2.0) for step in (1, 2)]
    whole = charts.joined([(0, first), (5, second), (7, [])])
    assert whole == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2), (7, 2)]
    assert charts.joined([(0, first), (0, second)]) == second  # begun anew


def test_few_points_keep_the_extremes_and_the_mean() -> None:
    points = charts.reduced([(step, 5.0 if step == 7777 else 1.0) for step in range(1, 10_001)])
    assert len(points) == charts.MOST and points[-1].step == 10_000
    (spike,) = (point for point in points if point.high > 1)
    assert (spike.low, spike.high) == (1, 5) and 1 < spike.smooth < spike.mean < 5
    assert [p.mean for p in charts.reduced([(1, 1.0), (2, math.nan), (3, math.inf), (4, 3.0)])] == [1, 3]
    assert charts.reduced([]) == []
    assert [p.smooth for p in charts.reduced([(1, 1.0), (2, 3.0)], smooth=False)] == [1, 3]


def test_ticks_are_round_and_within() -> None:
    assert charts.ticks(0.31) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert charts.ticks(2500) == [0, 1000, 2000]
    assert charts.ticks(0) == [0]
    for most in (1e-9, 0.07, 1, 99, 12345):
        assert 2 <= len(charts.ticks(most)) <= 6 and charts.ticks(most)[-1] <= most * 1.01


def losses_drawn(base: Path, values: list[float], steps: int) -> str:
    """The first plot on the page of a run with these losses."""
    folder = run_folder(base, low=training(steps_planned=steps, attempts=[{"number": 1}]))
    events(folder / "low" / "logs" / "attempt-1", values)
    return text_of(folder).partition("<div class=plot ")[2].partition("</div>")[0]


@pytest.mark.parametrize(
    ("end", "told"), [(1, "01"), (2, "012"), (3, "0123"), (9, "05"), (10, "0 5 10"), (100, "0 25 50 75 100")]
)
def test_steps_are_whole_and_each_is_told_once_where_it_is(tmp_path: Path, end: int, told: str) -> None:
    drawn = losses_drawn(tmp_path, [0.5] * end, end)
    found = re.findall(r'<i class=x style="left:(.*?)%">(.*?)</i>', drawn)
    assert [label for _, label in found] == (told.split() if " " in told else [*told])
    assert [float(at) for at, _ in found] == pytest.approx([100 * int(label) / end for _, label in found], rel=1e-3)


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0]])
def test_one_step_or_zeros_alone_are_drawn(tmp_path: Path, values: list[float]) -> None:
    drawn = losses_drawn(tmp_path, values, 0)
    assert "<path" in drawn and "nan" not in drawn


def test_a_curve_is_as_high_as_its_values(tmp_path: Path) -> None:
    drawn = losses_drawn(tmp_path, [0.0, 1.0, 1.0], 3)  # 1.08 is at the top
    assert 'd="M1,100V100L2,7.407V7.407L3,7.407V7.407"' in drawn
    data = drawn.partition('data-points="')[2].partition('"')[0]
    assert json.loads(data) == [[1, 0, 0.5], [2, 1, 0.667], [3, 1, 1]]


def test_the_rate_that_an_optimizer_has_found_is_meant(tmp_path: Path) -> None:
    rows = [tfevents.scalar("lr/unet", 1, 1), tfevents.scalar("lr/d*lr/unet", 1, 0.25)]
    rows += [tfevents.scalar("lr/unet plus", 1, 2), tfevents.scalar("loss/current", 1, 0.5)]
    tfevents.write(tmp_path / "a" / "events.out.tfevents.1", rows)
    assert curves(tmp_path) == ([(1, 0.5)], [(1, 0.25)])
    assert curves(tmp_path / "nowhere") == ([], [])


# ---- what stands on it


def test_all_that_is_known_is_told(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, high=training("high"), low=training())
    sampled(folder)
    (folder / "comfyui_workflow.json").touch()
    (folder / "low" / "samples").mkdir()
    (folder / "low" / "samples" / f"{NAME}-low_e000005_00_20261120120000_42.png").touch()
    told = words_of(folder)
    for words in (
        f"{NAME} t2v-vanilla on cats",
        "low is fine",
        "a dog 64x48, 4 steps, seed 42",
        "without epoch 5 epoch 10",
        "While it was trained: Low noise",
        "loss",
        "learning rate",
        "can't be compared",
        f"{NAME}-low-000005.safetensors 5 1.5 MB {'f' * 64}",
        f"{NAME}-low.safetensors 10 1.5 MB",
        "Use: 4 steps, cfg 1, shift 5, 832x480, 81 frames (5.1 s)",
        "Lightning LoRA (t2v-v1.1) at 1 first",
        "begin with mycat",
        "comfyui_workflow.json",
        "rank 16 16",
        "20.0 GiB foretold, 21.0 GiB in use at most",
        "wan-low.safetensors",
        "12 items in 10 batches",
        "RTX 4090, 24.0 GiB",
        "optimizer_args a=1 b=2",
    ):
        assert words in told, words
    assert "/home/me" not in told and "goes on with" not in told  # what has ended is shown to others
    assert 'src="low/samples/' in text_of(folder) and 'src="samples/0-None.png"' in text_of(folder)


def test_curves_go_over_all_attempts(tmp_path: Path) -> None:
    found = gathered(run_folder(tmp_path, low=training()))
    assert [point.step for point in found.losses["low"]] == [*range(1, 111)]
    assert [round(point.mean, 2) for point in found.losses["low"]] == [0.11] * 50 + [0.12] * 60
    assert found.rates["low"][50].mean == pytest.approx(1e-4)  # the second attempt's first


def test_how_to_go_on_with_what_has_not_ended(tmp_path: Path) -> None:
    told = words_of(run_folder(tmp_path, high=training("high"), low=training(**{**GOING, "state": "failed"})))
    assert "It goes on with this, in /home/me: wanwrap run t2v-vanilla cats" in told


def test_settings_and_strengths_that_differ_are_kept_apart(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, low=training())
    first, second, *_ = sampled(folder)
    other = [Sample(**{**vars(second), "strength": 0.6, "loras": {"high": "h", "low": "l"}})]
    other += [Sample(**{**vars(second), "seed": 7}), Sample(**{**vars(second), "lightning": "v1.1"})]
    samples.write(folder, [first, second, *other])
    told = words_of(folder)
    assert "epoch 5 at 0.6 epoch 5 at 1, low alone" in told
    assert all(words in told for words in ("seed 42", "seed 7", "Lightning v1.1, seed 42"))


def test_what_differs_between_two_lines_of_a_file_of_prompts_is_a_row_of_its_own(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, low=training())
    first, second, *_ = sampled(folder, guidance_scale=4.0, flow_shift=5.0)
    assert "cfg" not in words_of(folder).partition("Curves")[0]  # the same for all
    others: list[dict[str, Any]] = [{"guidance_scale": 1.5}, {"flow_shift": 3.0}, {"negative_prompt": "ugly"}]
    samples.write(folder, [first, second, *(Sample(**{**vars(second), **other}) for other in others)])
    told = words_of(folder)
    for words in (
        "cfg 4, shift 5, seed",
        "cfg 1.5, shift 5, seed",
        "cfg 4, shift 3, seed",
        "negative prompt: ugly, seed",
    ):
        assert words in told
    assert text_of(folder).count("class=row") == 4


def test_a_pair_of_which_one_was_not_as_far_is_not_the_epochs_column(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, high=training("high"), low=training())
    first, second, *_ = sampled(folder)
    pairs = [{"high": f"{NAME}-high.safetensors", "low": f"{NAME}-low{end}.safetensors"} for end in ("", "-000005")]
    samples.write(folder, [first, *(Sample(**{**vars(second), "epoch": 10, "loras": pair}) for pair in pairs)])
    assert "without epoch 10 (high), 5 (low) epoch 10 " in words_of(folder)


def test_no_path_of_a_setting_is_told(tmp_path: Path) -> None:
    files = {"network_weights": "/home/me/old.safetensors", "base_weights": ["C:\\me\\a.safetensors", "/me/b"]}
    told = words_of(run_folder(tmp_path, low=training(settings=files)))
    assert "network_weights old.safetensors" in told and "base_weights a.safetensors b" in told
    assert "/home/me" not in told


def test_the_most_memory_of_all_attempts(tmp_path: Path) -> None:
    attempts = [
        {**each, "memory": {"used": 23 * GIB}} if each["number"] == 1 else each for each in training()["attempts"]
    ]
    assert "20.0 GiB foretold, 23.0 GiB in use at most" in words_of(
        run_folder(tmp_path, low=training(attempts=attempts))
    )


@pytest.mark.parametrize(
    ("last", "told"), [(10 * 3600, "trained for 11 h 30 min"), (None, "trained for at least 1 h 30 min")]
)
def test_the_time_of_an_attempt_that_was_killed(tmp_path: Path, last: int | None, told: str) -> None:
    attempts = training()["attempts"]
    del attempts[0]["ended"]
    attempts[1] |= {"started": "2026-01-09T03:00:00+00:00", "ended": "2026-01-09T04:30:00+00:00"}
    folder = run_folder(tmp_path, low=training(attempts=attempts))
    place = next((folder / "low" / "logs" / "attempt-1").rglob("*tfevents*"))
    begun = datetime.fromisoformat(attempts[0]["started"]).timestamp()
    tfevents.write(place, [tfevents.scalar("loss/current", 1, 0.5, wall=begun + last)] if last else [tfevents.VERSION])
    (expert,) = look(folder).experts
    assert any(line.startswith(told) for line in verb._said(expert)), [*verb._said(expert)]


def test_samples_while_training_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, low=training())
    made = folder / "low" / "attempt-1" / "sample"
    made.mkdir(parents=True)
    for prompt in ("00", "01", "09", "99", "100"):
        (made / f"{NAME}-low_e000002_{prompt}_20261120120000_42.png").touch()
    attempt: Any = SimpleNamespace(folder=made.parent, train=SimpleNamespace(folder=folder / "low"), epoch=5, step=50)
    Attempt.move_samples(attempt)
    rows, columns = gallery.while_training(folder / "low")
    assert [prompt for prompt, _ in rows] == ["prompt 1", "prompt 2", "prompt 10", "prompt 100", "prompt 101"]
    assert columns == ["epoch 7"]


@pytest.mark.parametrize(
    "change",
    [
        {"steps_per_epoch": HOSTILE},
        {"epochs_planned": HOSTILE, "files": [f"{NAME}-low.safetensors"]},
        {"inference": {**INFERENCE, "boundary": HOSTILE}},
        {"inference": {**INFERENCE, "size": [HOSTILE, HOSTILE]}},
    ],
)
def test_what_ought_to_be_a_number_is_escaped_too(tmp_path: Path, change: dict[str, Any]) -> None:
    shown = text_of(run_folder(tmp_path, low=training(**change)))
    assert "<img" not in shown and "owned&#39;" in shown


@pytest.mark.parametrize("lacking", [("inference", "examples", "trigger"), tuple(training())[6:]])
def test_records_of_earlier_versions(tmp_path: Path, lacking: tuple[str, ...]) -> None:
    record = {name: value for name, value in training().items() if name not in lacking}
    record |= {"steps_planned": 0, "epochs_planned": 0, "steps_per_epoch": 0, "state_every": 0}
    assert "Use:" not in words_of(run_folder(tmp_path, low=record))


def test_what_0_1_0_has_left(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / NAME
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "low.json").write_text(json.dumps({"state": "done", "settings": {"network_dim": 32}}))
    (folder / f"{NAME}-low.safetensors").write_bytes(b"a" * 2_000_000)
    told = words_of(folder)
    assert f"{NAME}-low.safetensors 2.0 MB" in told and "rank 32" in told


@pytest.mark.parametrize(
    "row",
    [
        {"file": "../../a.png"},
        {"file": "//elsewhere/a.png"},
        {"file": "C:\\a.png"},
        {"file": 5},
        {"prompt": None},
        {"negative_prompt": None},
        {"guidance_scale": "1"},
        {"frames": "many"},
        {"strength": "1"},
        {"loras": ["low"]},
        {"loras": {"low": 1}},
        {"epoch": [1]},
    ],
)
def test_a_list_of_samples_that_is_none_is_told(tmp_path: Path, row: dict[str, Any]) -> None:
    folder = run_folder(tmp_path, low=training())
    rows = [{**vars(each), **row} for each in sampled(folder)]
    (folder / samples.FILE).write_text(json.dumps({"samples": rows}))
    assert "is damaged" in words_of(folder)


def test_a_page_of_a_large_run_is_small_and_quick(tmp_path: Path) -> None:
    attempts = [{"number": n, "step": 900 * (n - 1)} for n in (1, 2, 3)]
    files = [f"{NAME}-low-{epoch:06d}.safetensors" for epoch in range(10)]
    folder = run_folder(
        tmp_path, high=training("high", attempts=attempts), low=training(attempts=attempts, files=files)
    )
    for expert in ("high", "low"):
        for attempt in (1, 2, 3):
            events(folder / expert / "logs" / f"attempt-{attempt}", [0.1 + step % 7 for step in range(1000)])
    sampled(folder, epochs=40)
    began = time.process_time()
    place = write(gathered(folder))
    assert time.process_time() - began < 3  # a tenth of that where nothing else runs
    assert place.name == FILE and place.stat().st_size < 500_000
    assert place.read_text(encoding="utf-8").count("<img") == 82


def test_the_policy_names_the_script_and_the_page_nothing_outside(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, low=training())
    sampled(folder)
    text = text_of(folder)
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in text  # who changes the script puts its sha256 into the template
    links = re.findall(r"""(?:src|href|url|action|@import)\s*[=(]\s*["']?([^"'\s>)]{5})""", text)
    assert {*links} == {"sampl"} and "http" not in text.replace("http-equiv", "")


def test_templates_trust_nothing() -> None:
    for path in ours("templates").glob("*.html"):
        assert not re.search(r"\|\s*safe|autoescape|=\{\{", path.read_text(encoding="utf-8")), path


def test_a_value_that_is_lacking_leaves_the_old_page(tmp_path: Path) -> None:
    place = tmp_path / "a.html"
    place.write_text("old")
    with pytest.raises(UndefinedError):
        template.write(place, template.render("contact_sheet.html", title="Cats"))
    assert place.read_text() == "old" and [*tmp_path.iterdir()] == [place]


@odd_names
def test_names_that_are_no_text_make_a_page_in_utf_8(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, low=training())
    sampled(folder)
    odd = os.fsdecode(b"samples/caf\xe9.png")
    (folder / "samples" / "0-5.png").rename(folder / odd)
    rows = json.loads((folder / samples.FILE).read_text())
    rows["samples"][1] |= {"file": odd, "prompt": "\ud800 cat"}
    (folder / samples.FILE).write_text(json.dumps(rows))
    assert 'src="samples/caf%E9.png"' in write(gathered(folder)).read_text(encoding="utf-8")


# ---- when it is made


def test_the_verb_in_a_process_of_its_own(tmp_path: Path, wanwrap: Wanwrap) -> None:
    base = tmp_path / "home" / "local_training"
    folder = run_folder(base, low=training())
    sampled(folder)
    done = wanwrap("report", NAME)
    assert (done.returncode, done.stdout.strip()) == (0, str(folder / FILE)), done.stderr
    text = (folder / FILE).read_text(encoding="utf-8")
    digest = hashlib.sha256(b"a" * 1_500_000).hexdigest()
    assert digest in text and "trained for 3 h 30 min in 2 attempts" in text
    found = json.loads(wanwrap("report", folder, "--json").stdout)
    assert found["page"] == str(folder / FILE) and found["experts"]["low"]["state"] == "done"
    assert len(found["samples"]) == 6 and found["loras"][0]["sha256"] == digest and len(found["losses"]["low"]) == 110
    none = wanwrap("report", "dogs")
    assert none.returncode == 11 and "dogs" in none.stderr


@pytest.mark.parametrize(("mischief", "code", "state"), [("", 0, "finished"), ("nan:31", 10, "failed")])
def test_a_run_leaves_it_however_it_ends(
    mischief: str, code: int, state: str, tmp_path: Path, cli: Wanwrap, low: tuple[object, ...]
) -> None:
    done = cli(*low, STANDIN_DO=mischief, STANDIN_CURVES="1")
    assert done.returncode == code, done.stderr
    told = re.sub("<[^>]*>", " ", (folder_of(tmp_path) / FILE).read_text(encoding="utf-8"))
    assert state in told and f"{NAME}-low-000002.safetensors" in told and "learning rate" in told


def test_while_a_gpu_trains_no_file_is_hashed(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, low=training(**GOING))
    with alive(folder):
        Renewal(folder).write()
    text = (folder / FILE).read_text(encoding="utf-8")
    assert "<code></code>" in text and "data-live" in text.partition("<main>")[0].rpartition("<body")[2]


def test_a_run_that_goes_on_makes_it_at_states_and_seldom_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clock, made = run_folder(tmp_path, low=training(**GOING)), [1e6], list[float]()
    monkeypatch.setattr(verb, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(verb, "write", lambda _: made.append(clock[0] - 1e6))
    page, run = Renewal(folder), look(folder)
    for second in range(1500):
        clock[0] = 1e6 + second
        if 100 <= second < 400:  # a state each few seconds
            run.experts[0].record.saved_epoch = second // 5
        page.look(run)
    gaps = [later - sooner for sooner, later in pairwise(made)]
    assert made[0] == 0 and all(60 <= gap <= 70 for gap in gaps[1:5])
    late = [gap for gap, when in zip(gaps, made, strict=False) if when > 410]
    assert late and all(300 <= gap <= 301 for gap in late)


def test_a_page_that_can_not_be_written_ends_nothing(tmp_path: Path, said: list[str]) -> None:
    folder = run_folder(tmp_path, low=training())
    (folder / FILE).mkdir()
    Renewal(folder).write()
    assert "report was not written" in said[-1]
    Renewal(tmp_path / "nowhere").write()
    assert len(said) == 1
    (folder / FILE).rmdir()
    Renewal(folder).write()
    assert str(folder / FILE) in said[-1] and (folder / FILE).is_file()


# ---- in a browser

FASTER = """
const began = Date.now(), real = Date.now, every = setInterval;
Date.now = () => began + (real() - began) * 100;
window.setInterval = (what, ms) => every(what, ms / 100);
"""


def shown(folder: Path, tmp_path: Path, **how: Any) -> Any:
    return browsing(write(gathered(folder)), tmp_path / "profile", **how)


def stage(browser: Page) -> list[str]:
    """What is large."""
    labels: list[str] = browser.js(
        "Array.from(document.querySelectorAll('#stage figcaption'), (n) => n.firstChild.data)"
    )
    return labels


@driven
@pytest.mark.parametrize(("size", "dark"), [((1300, 900), False), ((400, 860), True)])
def test_a_page_fits_its_screen(tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    folder = run_folder(tmp_path, high=training("high"), low=training(state="failed", reason="x" * 200))
    sampled(folder, epochs=8)
    with shown(folder, tmp_path, size=size, dark=dark) as browser:
        inner, whole = browser.js("[innerWidth, document.documentElement.scrollWidth]")
        assert whole <= inner == size[0]
        light = browser.js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] > 128")
        assert light != dark and not browser.complaints
        browser.until("Array.from(document.images).some((img) => img.naturalWidth === 64)")


@driven
def test_samples_are_compared(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, low=training())
    sampled(folder)
    with shown(folder, tmp_path) as browser:
        browser.point(".row button", click=True)
        for key, labels in (
            ("", ["without"]),
            ("ArrowLeft", ["without"]),
            ("ArrowRight", ["epoch 5"]),
            ("b", ["epoch 5", "epoch 10"]),
            ("ArrowLeft", ["epoch 5", "epoch 5"]),
            ("ArrowDown", ["epoch 5", "epoch 5"]),
            ("b", ["epoch 5"]),
        ):
            if key:
                browser.key(key)
            until(lambda labels=labels: stage(browser) == labels, 10)  # type: ignore[misc]
        assert "a dog" in browser.js("document.getElementById('prompt').textContent")
        assert browser.js("document.querySelector('#stage img').src").endswith("samples/1-5.png")
        browser.key("Escape")
        browser.until("!document.querySelector('dialog').open")
        assert browser.complaints == []


@driven
def test_clips_loop_in_silence(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, low=training())
    sampled(folder, clips=True)
    with shown(folder, tmp_path) as browser:
        browser.js("document.querySelector('.row').scrollIntoView()")
        browser.until(
            "Array.from(document.querySelectorAll('.row video')).every((v) => !v.paused && v.currentTime > 0)"
        )
        assert browser.js("Array.from(document.querySelectorAll('.row video')).every((v) => v.muted && v.loop)")
        browser.point(".row:last-child button", click=True)
        browser.until("Boolean(document.querySelector('#stage video'))")
        browser.key("b")
        large = "Array.from(document.querySelectorAll('#stage video'))"
        browser.until(
            f"{large}.length === 2 && {large}.every((v) => !v.paused && v.currentTime > 0 && v.muted && v.loop)"
        )


@driven
def test_a_curve_tells_its_values(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, low=training())
    with shown(folder, tmp_path) as browser:
        browser.point(".plot", across=0.5)
        words = "document.querySelector('output').textContent"
        browser.until(f"{words}.startsWith('step 5')")
        assert re.match(r"step 5\d \(epoch 6\): loss 0.1[12].*; learning rate 0.0", browser.js(words))


@driven
def test_names_and_words_run_nothing(tmp_path: Path) -> None:
    record = training(preset=HOSTILE, trigger=HOSTILE, state="failed", command=HOSTILE, cwd=HOSTILE)
    record |= {"settings": {HOSTILE: HOSTILE, "network_dim": [HOSTILE]}, "dataset": {"name": HOSTILE, "items": HOSTILE}}
    record |= {"inference": {**INFERENCE, "boundary": 1, "lightning": {"release": HOSTILE, "strength": 1}}}
    folder = run_folder(tmp_path, low=record)
    sampled(folder, prompt=HOSTILE, lightning=HOSTILE, loras={HOSTILE: HOSTILE})
    odd = f"'{QUOTE}a#?&%41 {{ run }};<b>.png" if QUOTE else "'a#&%41 {{ run }};.png"
    (folder / "low" / "samples").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "low" / "samples" / f"x_e000005_00_20261120120000_{odd}")
    (folder / f"{odd}.safetensors").touch()
    (folder / "low" / "record.json").write_text(json.dumps({**record, "files": [f"{odd}.safetensors"]}))
    run = look(folder)
    place = write(gather(run, {"low": [HOSTILE]}, lambda _: None))
    with browsing(place, tmp_path / "profile") as browser:
        browser.point(".row:last-child button", click=True)
        browser.until("document.querySelector('#stage img')?.naturalWidth === 64")
        assert browser.js("document.title") == NAME and browser.complaints == []
        assert browser.js("document.querySelectorAll('#x, main script').length") == 0
        assert browser.js("document.querySelectorAll('main img').length") == 4  # three samples and upstream's own


@driven
def test_what_is_not_escaped_would_not_run_either(tmp_path: Path) -> None:
    place = write(gathered(run_folder(tmp_path, low=training(trigger="PLACE"))))
    place.write_text(place.read_text(encoding="utf-8").replace("PLACE", HOSTILE), encoding="utf-8")
    with browsing(place, tmp_path / "profile") as browser:
        assert browser.js("document.title") == NAME
        assert any("Content Security Policy" in complaint for complaint in browser.complaints)


@driven
def test_a_page_that_nobody_renews_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed: its last page says for ever that it goes on."""
    folder = run_folder(tmp_path, low=training(**GOING))
    for minutes, told in ((20, "not renewed since"), (10, "renews itself")):
        made = (datetime.now(timezone.utc) - timedelta(minutes=minutes)).isoformat(timespec="seconds")
        monkeypatch.setattr(report, "now", lambda made=made: made)
        with alive(folder):
            place = write(gathered(folder))
        with browsing(place, tmp_path / str(minutes), before=FASTER) as browser:
            assert told in browser.js("document.getElementById('renewed').textContent")
            browser.js("window.old = true")
            time.sleep(3)
            assert bool(browser.js("window.old")) == (minutes == 20) and browser.complaints == []


@driven
def test_it_renews_itself_but_not_under_a_finger(tmp_path: Path) -> None:
    """A minute passes in 0.6 s."""
    folder = run_folder(tmp_path, low=training(**GOING))
    sampled(folder)
    with alive(folder):
        place = write(gathered(folder))
    with browsing(place, tmp_path / "profile", size=(500, 500), before=FASTER) as browser:
        browser.js("window.old = true; document.querySelector('details').open = true")
        for _ in range(15):
            browser.point("h1")
            time.sleep(0.2)
        assert browser.js("window.old")
        browser.point(".row button", click=True)
        time.sleep(3)
        assert browser.js("window.old && document.querySelector('dialog').open")
        browser.key("Escape")
        browser.js("scrollTo(0, 300)")
        browser.until("!window.old && document.readyState === 'complete'")
        browser.until("scrollY === 300 && document.querySelector('details').open")
    ended = write(gathered(folder))
    with browsing(ended, tmp_path / "again", before=FASTER) as browser:
        browser.js("window.old = true")
        time.sleep(3)
        assert browser.js("window.old")
