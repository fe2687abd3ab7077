"""The models that a run's samples are made with: its DiTs, VAE and text encoders where they are now, and Lightning's LoRAs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.errors import OptionError, WeightsError
from wanwrap.look.sample_request import SampleRequest
from wanwrap.preset import releases
from wanwrap.run.record import BASE, Record
from wanwrap.system.safetensors import read_header
from wanwrap.upstream.dit import PREFIX
from wanwrap.upstream.sampling import LIGHTNING, Loras
from wanwrap.weights.locate import locate
from wanwrap.weights.weight_file import WeightFile

ENCODERS = ("vae", "t5", "clip")


@dataclass(frozen=True, kw_only=True)
class Models:
    """The files that are sampled with: DiTs by expert, VAE and text encoders by upstream's options; Lightning's LoRAs by
    expert, where they are loaded beside the run's, with the files that these are to be made of, and the release that is loaded
    or was merged in.
    """

    task: str
    boundary: float | None
    dits: Mapping[str, Path]
    encoders: Mapping[str, str]
    beside: Loras = field(default_factory=dict)
    conversions: Sequence[tuple[Path, Path]] = ()
    lightning: str = ""


def find(request: SampleRequest, record: Record) -> Models:
    """The DiTs, with Lightning's LoRAs beside those in which it is not merged.

    Raises:
        OptionError: there is no Lightning for it, or it is merged in. WeightsError: a file is not there, or is another.
    """
    told = record.inference
    task, merged = str(told["task"]), told.get("lightning")
    release = merged["release"] if merged else ""
    if request.lightning:
        release = _release(task, merged=bool(merged))
    records = {each.name: each.record for each in request.run.experts if each.record.dit}
    trained = {expert: Path(each.dit) for expert, each in records.items() if Path(each.dit).is_file()}
    bare = [expert for expert in told["dits"] if release and not (merged and expert in trained)]
    converted = {each: request.models / "converted" / f"lightning-{release}-{each}-musubi.safetensors" for each in bare}
    return Models(
        task=task,
        boundary=told["boundary"],
        dits={each: trained.get(each) or _dit(request, records.get(each), name) for each, name in told["dits"].items()},
        encoders={name: str(_file(request, record, name)) for name in ENCODERS[: 3 if task == "i2v-14B" else 2]},
        beside={each: [(out, merged["strength"] if merged else 1.0)] for each, out in converted.items()},
        conversions=[(_file(request, record, f"lightning-{release}-{each}"), out) for each, out in converted.items()],
        lightning=release,
    )


def _file(request: SampleRequest, record: Record, name: str) -> Path:
    """A weight where the run has read it, or where it is now. Raises WeightsError: it is nowhere."""
    there = {row.get("name"): Path(row["path"]) for row in record.weights}
    return there[name] if name in there and there[name].is_file() else _usable(_located(request, name))


def _located(request: SampleRequest, name: str) -> WeightFile:
    return locate(name, request.models, None, request.workspace.weights.get(name))


def _usable(found: WeightFile) -> Path:
    if not found.usable:
        raise WeightsError(f"{found.reason} The run was trained with it; `wanwrap setup` gets what is missing.")
    return found.path


def _dit(request: SampleRequest, record: Record | None, name: str) -> Path:
    """The DiT that an expert was trained on, and that is no longer there, elsewhere; of one that was not trained any that
    serves.

    Raises:
        WeightsError: it is nowhere, or what is found is another.
    """
    found = _located(request, name)
    if record is None:
        return _usable(found)
    known = next((row for row in record.weights if row.get("name") == name), {})
    same = found.content == record.settings[BASE]
    if record.inference.get("lightning"):
        same = (found.path.name, found.size) == (Path(str(known.get("path"))).name, known.get("bytes") or 0)
    if not (found.usable and same):
        raise WeightsError(
            f"the {record.expert} LoRA was trained on {record.dit}, which is not there, nor is the same file elsewhere; put it back."
        )
    return found.path


def _release(task: str, *, merged: bool) -> str:
    """Lightning's first release for a task. Raises OptionError: there is none, or it is in the DiTs."""
    if merged:
        raise OptionError(
            "--lightning: this run was trained on DiTs with Lightning merged in, and is sampled on them as it is."
        )
    if not (known := releases(task)):
        raise OptionError(f"--lightning: there is none for {task}; leave it out.")
    return known[0]


def remarks(models: Models, trained: Mapping[str, Path]) -> Iterator[str]:
    """What is to be known of them; `trained` are the experts' newest LoRAs.

    Raises:
        WeightsError: Lightning is to be merged where upstream merges nothing, without a word (utils/lora_utils.py).
    """
    if models.beside:
        yield f"Lightning ({models.lightning}) is loaded beside the LoRAs: a preview in {LIGHTNING.infer_steps} steps."
    for expert in models.dits.keys() - trained.keys():
        yield f"the {expert}-noise expert has no LoRA yet: its DiT is taken as it is."
    for path in models.dits.values():
        if any(name.startswith(PREFIX) for name in read_header(path)):
            yield _prefixed(path.name, lightning=bool(models.beside))


def _prefixed(name: str, *, lightning: bool) -> str:
    without = f"{name}, whose keys begin with {PREFIX}: `wanwrap convert` makes a file without"
    if lightning:
        raise WeightsError(
            f"upstream merges no Lightning into {without}; train on that, or sample without --lightning."
        )
    return f"upstream's own commands, as --dry_run prints them, leave the LoRAs out for {without}. What is made here has them."
