"""Captions by upstream's own script: what has none is staged for it, and each answer is put in its place at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from wanwrap.caption import model, prompts
from wanwrap.data import clips, media
from wanwrap.data.folder import find, media_in
from wanwrap.data.media import CAPTION, Item, filled, kind_of
from wanwrap.data.read import read_files
from wanwrap.errors import FULL, DatasetError, GpuError, OutputError, listing
from wanwrap.plan import preflight
from wanwrap.plan.request import gone, slug, training_python, workspace_folder
from wanwrap.system import console, disk
from wanwrap.system.failures import failure
from wanwrap.system.files import lock, remove_tree, write_atomic
from wanwrap.system.log import run_logged
from wanwrap.system.process import Command
from wanwrap.upstream import pin
from wanwrap.upstream.options import CAPTION as SCRIPT
from wanwrap.upstream.options import spell
from wanwrap.weights.workspace import load as load_workspace

# below the folder in which upstream runs: plain names, whatever the user's are
STAGED, ANSWERS, LOG = "staged", "staged/captions.jsonl", "caption.log"
MODULES = {"musubi_tuner", "torch", "transformers", "accelerate"}
SPARE = 2_000_000_000  # bytes that a picture and its answer take on the GPU beside the model, about
ADVICE = {
    "gpu memory": "--fp8 halves the model, and a smaller --max_size each picture",
    "memory": "close other programs",
}
NARROWEST, LONGEST = 112, 100  # pixels of the short side, and as many times as long: upstream can fit all of these
MOST = 3000  # characters: more than the 512 tokens that training reads of a caption


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """A `caption` as it was asked for on one command line: options by their names, None where nothing was said."""

    dataset: str | None
    base_dir: Path
    kind: str | None = None
    trigger: str | None = None
    prompt: str | None = None
    prompt_file: Path | None = None
    overwrite: bool = False
    model: Path | None = None
    fp8: bool = False
    max_size: int | None = None
    max_new_tokens: int | None = None
    python: str | None = None
    musubi_dir: Path | None = None
    any_upstream: bool = False
    cpu: bool = False


class Captioning:
    """What is to be captioned, of which `replaced` have a caption, and what became of each.

    `kept` have a caption that stays, `written` is each new one, `failed` why there is none.
    """

    def __init__(self, request: CaptionRequest) -> None:
        """Look at what is there.

        Raises:
            DatasetError, OptionError, UpstreamError, PackageError: what is asked for does not exist or can't be.
        """
        base = workspace_folder(request.base_dir)
        workspace = load_workspace(base)
        self.request, self.folder = request, find(request.dataset, base / "datasets")
        self.prompt = prompts.prompt(request.kind, request.prompt, request.prompt_file, request.trigger)
        self.upstream = pin.find(request.musubi_dir, base, workspace.musubi_dir)
        self.python = training_python(request.python, workspace.python)
        self.gone = gone(workspace, base, request.python, request.musubi_dir)
        self.models, self.comfyui = base / "models", workspace.comfyui
        self.model = request.model or self.models / model.FILE
        self.work = base / "captions" / slug(self.folder.name)  # log, replaced captions, what is staged meanwhile
        there, _ = media_in(self.folder)
        found = dict[Path, Path]()  # by their captions: a clip shares that of the picture of its name
        for _, paths in sorted(there.items()):
            for path in filter(kind_of, paths):  # not what upstream passes over
                found.setdefault(path.with_suffix(CAPTION), path)
        everything = [*found.values()]
        captioned = {path for path in everything if filled(path.with_suffix(CAPTION))}
        self.replaced = captioned if request.overwrite else set[Path]()
        self.kept = len(captioned - self.replaced)
        self.targets = [path for path in everything if path not in captioned or path in self.replaced]
        self.written, self.failed = dict[Path, str](), dict[Path, str]()

    def find_model(self) -> None:
        """Have the model that upstream will load. Raises WeightsError: there is none that it can."""
        self.model = model.check(self.model) if self.request.model else model.find(self.models, self.comfyui)

    def argv(self) -> tuple[str, ...]:
        """Upstream's command, to be started in `work`."""
        options = {
            "image_dir": STAGED,
            "model_path": str(self.model),
            "output_file": ANSWERS,
            "output_format": "jsonl",
            "max_size": self.request.max_size,
            "max_new_tokens": self.request.max_new_tokens,
            "fp8_vl": self.request.fp8,
            "prompt": self.prompt,
        }
        return (self.python, *self.upstream.start(SCRIPT), *spell(options))

    def check(self) -> None:
        """Find the model, and say what will be done. Raises what upstream or the machine lacks."""
        preflight.check_recorded(self.gone)
        self.find_model()
        for folder in {self.work, *(path.parent for path in self.targets)}:
            disk.writable(folder)
        any_upstream = self.request.any_upstream
        answer, upstream = preflight.checked(self.python, self.upstream, MODULES, any_upstream=any_upstream)
        if not answer["gpus"] and not self.request.cpu:
            raise GpuError(
                f"{self.python} sees no CUDA GPU; on the CPU upstream takes minutes a picture and about 20 GB of "
                "memory: give another --python, or --cpu if you want that."
            )
        total = len(self.targets) + self.kept
        console.say(
            f"captioning {len(self.targets)} of {total} in {self.folder} with {self.model}", *upstream.remarks()
        )
        needed = SPARE + (model.BYTES // 2 if self.request.fp8 else model.BYTES)
        free = answer["gpus"][0]["free"] if answer["gpus"] else needed
        if free < needed:
            way = "" if self.request.fp8 else "; --fp8 takes half of it"
            console.say(f"note: {free / 1e9:.0f} GB are free on the GPU, and about {needed / 1e9:.0f} are needed{way}.")

    def carry_out(self) -> None:
        """Show the model what has no caption, and write each answer beside its picture or clip as soon as it is there.

        Raises:
            StepError, or the error of system.failures: upstream failed; what it had answered until then is written.
            DatasetError: some have got none.
            OutputError: another wanwrap does the same.
            KeyboardInterrupt: Ctrl-C; what was answered until then is written.
        """
        staging = self.work / STAGED
        self.work.mkdir(parents=True, exist_ok=True)
        with lock(self.work, f"another wanwrap is writing captions for {self.folder.name}; wait until it has ended."):
            remove_tree(staging)  # a power cut may have left it
            try:
                staging.mkdir()
                if staged := self._stage(staging):
                    self._keep_replaced()
                    self._run(staged)
            finally:
                remove_tree(staging)
        if self.failed:
            why = listing((f"{path.relative_to(self.folder)} ({why})" for path, why in self.failed.items()), 20)
            raise DatasetError(
                f"{len(self.failed)} got no caption: {why}; mend or remove them, or write theirs yourself."
            )

    def _stage(self, staging: Path) -> dict[str, Path]:
        """Put what the model is to see into a folder, by the names there: upstream captions all pictures of one.

        Each is read to its end first, since upstream ends at the first that it can't read.
        """
        staged = dict[str, Path]()
        files = {path: kind for path in self.targets if (kind := kind_of(path))}
        items = read_files(files, captions=dict.fromkeys(files, ""), whole=True)
        with console.bar("showing file", len(items)) as done:
            for item in items:
                with self._failing(item.path):
                    name = f"{len(staged):06}{item.path.suffix.lower() if item.kind == 'image' else '.png'}"
                    _show(item, staging / name)
                    staged[name] = item.path
                done()
        return staged

    @contextmanager
    def _failing(self, path: Path) -> Iterator[None]:
        """What goes wrong with one file is kept for the end, and the others go on; a full disk ends it all."""
        try:
            yield
        except Exception as error:  # whatever a decoder raises, the file is what is wrong
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            self.failed[path] = media.why(path, error)

    def _keep_replaced(self) -> None:
        """Write captions that are about to be replaced to a new file."""
        texts = {
            path: path.with_suffix(CAPTION).read_bytes().decode("utf-8", "surrogateescape") for path in self.replaced
        }
        rows = [json.dumps({"path": str(path), "caption": text}) for path, text in sorted(texts.items())]
        if rows:
            place = self.work / f"replaced-{datetime.now():%Y%m%d-%H%M%S-%f}.jsonl"
            write_atomic(place, "\n".join([*rows, ""]))
            console.say(f"{len(rows)} captions will be replaced; the old ones are in {place}")

    def _run(self, staged: dict[str, Path]) -> None:
        """Upstream's script, and what it answers to the files, by their names in its folder."""
        answers, taken = self.work / ANSWERS, 0

        def take() -> None:
            """Write what has come. Raises OSError: the disk is full."""
            nonlocal taken
            if answers.is_file():
                for line in answers.read_bytes().split(b"\n")[taken:-1]:  # the last one is still being written
                    row = json.loads(line)
                    name = Path(row["image_path"]).name
                    if name in staged and staged[name] not in self.written:
                        self.put(staged[name], row["caption"])
                    staged.pop(name, None)
                    taken += 1  # last: where Ctrl-C has come in between it is taken again

        try:
            command = Command(self.argv(), self.work, {**self.upstream.env, **pin.SETTINGS})
            status, tail = run_logged("captioning", command, self.work / LOG, take)
        finally:
            take()
        if status:
            why = failure(status, tail, ADVICE)
            raise why.error(f"captioning {why.text}\n{tail}\nThe whole log: {self.work / LOG}")
        self.failed |= dict.fromkeys(staged.values(), "upstream gave no caption for it")

    def put(self, path: Path, answer: str) -> None:
        """Put an answer beside its picture or clip; a caption that somebody has written meanwhile stays.

        Raises OSError: the disk is full.
        """
        text, place = prompts.caption(answer, self.request.trigger), path.with_suffix(CAPTION)
        with self._failing(path):
            if not text:
                raise ValueError("the model answered nothing")
            if len(text) > MOST:
                raise ValueError(f"the model ran on for {len(text):,} characters")
            if filled(place) and not self.request.overwrite:
                self.kept += 1
            else:
                _write(place, f"{text}\n")
                self.written[path] = text


def _write(place: Path, text: str) -> None:
    """A caption. Raises OSError: the disk is full. ValueError: it can't be written."""
    try:
        write_atomic(place, text)
    except (OSError, OutputError) as error:
        if getattr(error, "errno", None) in FULL:
            raise
        raise ValueError(f"its caption {place.name} can't be written: {getattr(error, 'strerror', error)}") from error


def _show(item: Item, place: Path) -> None:
    """A picture, or the frame in the middle of a clip, by another name. Raises what is wrong with it."""
    if item.problem:
        raise ValueError(item.problem)
    if min(item.size) < NARROWEST or max(item.size) > LONGEST * min(item.size):
        raise ValueError(f"its {item.size[0]}x{item.size[1]} pixels are too few or too narrow for the model")
    if item.kind == "video":
        clips.middle(item.path, item.frames).save(place)
        return
    try:
        if not os.access(item.path, os.W_OK):
            raise PermissionError  # Windows could not remove its second name
        os.link(os.path.realpath(item.path), place)  # takes no room, and stays where the user moves the first name
    except OSError:
        shutil.copyfile(item.path, place)
