"""A `sample` as it was asked for, and the run's own records: which models, prompts and LoRAs make the grid."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from wanwrap.errors import OptionError, WeightsError
from wanwrap.look import checkpoints as loras
from wanwrap.look import grid
from wanwrap.look.grid import Cell, Models, Prompt
from wanwrap.look.samples import FOLDER
from wanwrap.plan.card import Card
from wanwrap.preset import releases
from wanwrap.run.record import BASE, Record
from wanwrap.run.status import Run
from wanwrap.system.safetensors import read_header
from wanwrap.upstream import dit
from wanwrap.upstream.dit import PREFIX
from wanwrap.upstream.options import Options
from wanwrap.upstream.pin import Upstream
from wanwrap.upstream.sampling import LIGHTNING, Inference, Size
from wanwrap.weights.locate import locate
from wanwrap.weights.weight_file import WeightFile
from wanwrap.weights.workspace import Workspace

ENCODERS = ("vae", "t5", "clip")
CLIP_FRAMES = 33  # two seconds: enough to see it move, in half the time of a whole clip
SEED = 42
NETWORK = "networks.lora_wan"
Network = tuple[str, Mapping[str, str]]  # a module of upstream's, and its arguments


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """Samples of a run as they were asked for, by the options' names; what is None or empty is left to the run."""

    run: Run
    base_dir: Path
    epochs: Sequence[str] = ()
    strength: Sequence[float] = (1.0,)
    prompt: Sequence[str] = ()
    prompts: Path | None = None
    image: Path | None = None
    trigger: str | None = None
    clips: bool = False
    frames: int | None = None
    size: Size | None = None
    steps: int | None = None
    seed: int = SEED
    lightning: bool = False
    vram: float | None = None  # GB of the card, where it isn't this machine's
    blocks_to_swap: int | None = None
    python: str = sys.executable
    upstream: Upstream = field(default_factory=Upstream)
    any_upstream: bool = False
    workspace: Workspace = field(default_factory=Workspace)
    gone: Mapping[str, str] = field(default_factory=dict)  # see plan.request.gone

    @property
    def home(self) -> Path:
        """The workspace whose weights the run has read: of a rehearsal its own, for toys are no weights."""
        return self.run.folder.parents[1] if self.run.rehearsal else self.base_dir


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """The cells of the grid and their models, upstream's network of each expert's LoRAs, LoRAs that upstream can't read with
    the files to make of them first, and what is to be said.

    `options` change no sample: with them, and with `env` in its environment, it fits the `card`.
    """

    request: SampleRequest
    cells: Sequence[Cell]
    models: Models
    networks: Mapping[str, Network]
    use: Inference
    conversions: Sequence[tuple[Path, Path]]
    notes: Sequence[str]
    record: Record
    card: Card | None = None
    options: Options = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.request.run.folder


def make_plan(request: SampleRequest) -> SamplePlan:
    """The samples that are asked for, those that are there included; fitted to no card yet.

    Raises:
        OutputError: the run has no LoRAs, or is of an earlier wanwrap.
        OptionError: what is asked for can't be made. WeightsError: a file that is needed is not there.
    """
    run = request.run
    record, use = loras.inference(run)
    models, conversions, notes = _models(request, record, _Files(request, record))
    _check_blocks(request.blocks_to_swap, models.task)
    use = _use(request, LIGHTNING if models.beside and request.lightning else use)
    chosen = loras.choose(loras.checkpoints(run), request.epochs)
    for checkpoint in chosen:
        loras.check(checkpoint, models.task)
    asked = _prompts(request, record, run.folder / FOLDER / "inputs")
    columns = list(product(chosen, sorted({*request.strength})))
    cells = [*grid.cells(models, use, request.seed, asked, columns)]
    notes = [*notes, *_untrained(models, chosen[-1].loras), *_prefixed(models)]
    return SamplePlan(
        request=request,
        cells=cells,
        models=models,
        networks={each.name: _network(each.record) for each in run.experts},
        use=use,
        conversions=conversions,
        notes=notes,
        record=record,
    )


def _check_blocks(blocks: int | None, task: str) -> None:
    """Raises OptionError: the model has not so many."""
    most = dit.blocks(task) - 1
    if blocks is not None and blocks > most:
        raise OptionError(f"--blocks_to_swap {blocks}: of this model {most} at most can be swapped.")


def _network(record: Record) -> Network:
    """The module that LoRAs are hooked with, and its arguments. Raises OptionError: it is none of upstream's."""
    name = "musubi_tuner." + str(record.settings.get("network_module", NETWORK)).removeprefix("musubi_tuner.")
    if not name.startswith("musubi_tuner.networks."):
        raise OptionError(
            f"{name.removeprefix('musubi_tuner.')} is no network of upstream's; samples are made of those alone."
        )
    pairs = (str(pair).partition("=") for pair in record.settings.get("network_args", ()))
    return name, {key: value for key, _, value in pairs}


def _use(request: SampleRequest, use: Inference) -> Inference:
    """The settings of the run, as far as nothing else is asked for."""
    return replace(
        use,
        size=request.size or use.size,
        video_length=request.frames or (CLIP_FRAMES if request.clips else 1),
        infer_steps=request.steps or min(use.infer_steps, grid.STEPS),
    )


def _prompts(request: SampleRequest, record: Record, inputs: Path) -> list[Prompt]:
    """Raises OptionError: one without words."""
    asked = [Prompt(text) for text in request.prompt]
    asked += grid.read_prompts(request.prompts) if request.prompts else []
    if any(not each.text.strip() for each in asked):
        raise OptionError("--prompt is empty; give words, or leave it out.")
    trigger = record.trigger if request.trigger is None else request.trigger
    default = grid.prompts(record, trigger, inputs) if not asked or record.inference["task"].startswith("i2v") else []
    if asked:
        own = next((each.image for each in default if each.image), None)
        asked = [replace(each, image=request.image or each.image or own) for each in asked]
    else:  # each caption with its own picture
        asked = [replace(each, image=request.image or each.image) for each in default]
    return [*{(each.text, each.image, *each.changes.items()): each for each in asked}.values()]


@dataclass(frozen=True)
class _Files:
    """Weights where the run has read them, or where they are now."""

    request: SampleRequest
    record: Record

    def find(self, name: str) -> Path:
        """Raises WeightsError: it is nowhere."""
        there = {row.get("name"): Path(row["path"]) for row in self.record.weights}
        if name in there and there[name].is_file():
            return there[name]
        found = self._located(name)
        if not found.usable:
            raise WeightsError(f"{found.reason} The run was trained with it; `wanwrap setup` gets what is missing.")
        return found.path

    def base(self, expert: str, name: str) -> Path:
        """The DiT that an expert was trained on, where it is now; of one that was not trained any that serves.

        Raises:
            WeightsError: it is nowhere, or what is found is another.
        """
        record = self._record(expert)
        if record is None:
            return self.find(name)
        found = self._located(name)
        known = next((row for row in record.weights if row.get("name") == name), {})
        same = (found.path.name, found.size) == (Path(str(known.get("path"))).name, known.get("bytes") or 0)
        if not found.usable or not (
            same if record.inference.get("lightning") else found.content == record.settings[BASE]
        ):
            raise WeightsError(
                f"the {expert} LoRA was trained on {record.dit}, which is not there, nor is the same file elsewhere; put it back."
            )
        return found.path

    def trained(self, expert: str) -> Path | None:
        """The DiT that an expert was trained on, if it is still there."""
        record = self._record(expert)
        return Path(record.dit) if record and Path(record.dit).is_file() else None

    def _located(self, name: str) -> WeightFile:
        return locate(name, self.request.home / "models", None, self.request.workspace.weights.get(name))

    def _record(self, expert: str) -> Record | None:
        """An expert's, if it tells what it was trained on."""
        return next((each.record for each in self.request.run.experts if each.name == expert and each.record.dit), None)


def _models(request: SampleRequest, record: Record, files: _Files) -> tuple[Models, list[tuple[Path, Path]], list[str]]:
    """The DiTs, with Lightning's LoRAs beside those in which it is not merged, and these to be converted first."""
    told = record.inference
    task, merged = str(told["task"]), told.get("lightning")
    if request.lightning and merged:
        raise OptionError(
            "--lightning: this run was trained on DiTs with Lightning merged in, and is sampled on them as it is."
        )
    release = merged["release"] if merged else _release(task) if request.lightning else ""
    dits, beside, conversions = dict[str, Path](), dict[str, list[tuple[Path, float]]](), []
    for expert, name in told["dits"].items():
        trained = files.trained(expert)
        dits[expert] = trained or files.base(expert, name)
        if release and not (merged and trained):
            source = files.find(f"lightning-{release}-{expert}")
            out = request.home / "models" / "converted" / f"lightning-{release}-{expert}-musubi.safetensors"
            conversions.append((source, out))
            beside[expert] = [(out, merged["strength"] if merged else 1.0)]
    encoders = {name: str(files.find(name)) for name in ENCODERS[: 3 if task == "i2v-14B" else 2]}
    notes = (
        [f"Lightning ({release}) is loaded beside the LoRAs: a preview in {LIGHTNING.infer_steps} steps."]
        if beside
        else []
    )
    return Models(task, told["boundary"], dits, encoders, beside, release), conversions, notes


def _release(task: str) -> str:
    """Lightning's first release for a task. Raises OptionError: there is none."""
    if not (known := releases(task)):
        raise OptionError(f"--lightning: there is none for {task}; leave it out.")
    return known[0]


def _prefixed(models: Models) -> Iterator[str]:
    """Where upstream would merge no LoRA, without a word that tells (utils/lora_utils.py).

    Raises:
        WeightsError: Lightning is to be merged there.
    """
    for path in models.dits.values():
        if any(name.startswith(PREFIX) for name in read_header(path)):
            if models.beside:
                raise WeightsError(
                    f"upstream merges no Lightning into {path.name}, whose keys begin with {PREFIX}: `wanwrap convert` makes a "
                    "file without; train on that, or sample without --lightning."
                )
            yield (
                f"upstream's own commands, as --dry_run prints them, leave the LoRAs out for {path.name}, whose keys begin with "
                f"{PREFIX}: `wanwrap convert` makes a file without. What is made here has them."
            )


def _untrained(models: Models, trained: Mapping[str, Path]) -> Iterator[str]:
    for expert in models.dits:
        if expert not in trained:
            yield f"the {expert}-noise expert has no LoRA yet: its DiT is taken as it is."
