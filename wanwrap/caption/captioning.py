"""Captions by upstream's own script: what has none is staged for it, and each answer is put in its place at once."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wanwrap.caption import model, prompts
from wanwrap.caption.request import CaptionRequest
from wanwrap.data import clips, media, pictures
from wanwrap.data.folder import find, media_in
from wanwrap.data.media import CAPTION, Item, filled, kind_of
from wanwrap.errors import FULL, GpuError, OutputError
from wanwrap.paths import absolute
from wanwrap.plan import preflight
from wanwrap.plan.request import slug, training_python, workspace_folder
from wanwrap.system import console, disk
from wanwrap.system.failures import failure
from wanwrap.system.files import lock, write_atomic
from wanwrap.system.log import run_logged
from wanwrap.system.process import Command, cores
from wanwrap.upstream import pin
from wanwrap.upstream.options import CAPTION as SCRIPT
from wanwrap.upstream.options import Options, check, spell
from wanwrap.weights.workspace import load as load_workspace

# below the folder in which upstream runs: plain names, whatever the user's are
STAGED, ANSWERS = "staged", "staged/captions.jsonl"
MODULES = {"musubi_tuner", "torch", "transformers", "accelerate"}
SPARE = 2_000_000_000  # bytes that a picture and its answer take on the GPU beside the model, about
ADVICE = {
    "gpu memory": "--fp8 halves the model, and a smaller --max_size each picture",
    "memory": "close other programs",
}
NARROWEST, LONGEST = 112, 100  # pixels of the short side, and as many times as long: upstream can fit all of these
MOST = 3000  # characters: more than the 512 tokens that training reads of a caption


class Captioning:
    """What is to be captioned, of which `replaced` have a caption, and what became of each.

    `kept` have a caption that stays, `written` is each new one, `failed` why there is none.
    """

    def __init__(self, asked: CaptionRequest) -> None:
        """Look at what is there.

        Raises:
            DatasetError, OptionError, UpstreamError, PackageError: what is asked for does not exist or can't be.
        """
        base = workspace_folder(asked.base_dir)
        self.workspace = load_workspace(base)
        self.asked, self.folder = asked, find(asked.dataset, base / "datasets")
        self.prompt = prompts.prompt(asked)
        self.upstream = pin.find(asked.musubi_dir, base, self.workspace.musubi_dir)
        self.python = training_python(asked.python or self.workspace.python)
        self.models = base / "models"
        self.usual_model = self.models / model.FILE
        self.work = base / "captions" / slug(self.folder.name)  # log, replaced captions, what is staged meanwhile
        self.log = self.work / "caption.log"
        everything = _targets(self.folder)
        captioned = {item.path for item in everything if filled(item.path.with_suffix(CAPTION))}
        self.targets = [item for item in everything if asked.overwrite or item.path not in captioned]
        self.replaced = captioned if asked.overwrite else set[Path]()
        self.kept = len(everything) - len(self.targets)
        self.written, self.failed = dict[Path, str](), dict[Path, str]()

    def find_model(self) -> Path:
        """The model, by its header one that upstream loads. Raises WeightsError."""
        if self.asked.model:
            return model.check(absolute(self.asked.model))
        return model.find(self.models, self.workspace.comfyui)

    def argv(self, model: Path) -> tuple[str, ...]:
        """Upstream's command, to be started in `work`."""
        options: Options = {
            "image_dir": STAGED,
            "model_path": str(model),
            "output_file": ANSWERS,
            "output_format": "jsonl",
            "max_size": self.asked.max_size,
            "max_new_tokens": self.asked.max_new_tokens,
            "fp8_vl": self.asked.fp8,
            "prompt": self.prompt,
        }
        check(options, SCRIPT)
        return (self.python, *self.upstream.start(SCRIPT), *spell(options))

    def check_machine(self) -> list[str]:
        """What is to be said of upstream and machine. Raises what they lack."""
        for folder in {self.work, *(item.path.parent for item in self.targets)}:
            disk.writable(folder)
        model.check_configs()
        answer = preflight.ask(self.python, self.upstream, MODULES)
        upstream = preflight.check_upstream(answer, self.python, self.upstream, any_upstream=self.asked.any_upstream)
        preflight.check_packages(answer, self.python)
        if not answer["gpus"] and not self.asked.cpu:
            raise GpuError(
                f"{self.python} sees no CUDA GPU; on the CPU upstream takes minutes a picture and about 20 GB of "
                "memory: give another --python, or --cpu if you want that."
            )
        notes, needed = upstream.remarks(), model.BYTES // (2 if self.asked.fp8 else 1) + SPARE
        if answer["gpus"] and (free := answer["gpus"][0]["free"]) < needed:
            way = "" if self.asked.fp8 else "; --fp8 takes half of it"
            notes.append(
                f"note: {free / 1e9:.0f} GB are free on the GPU, and about {needed / 1e9:.0f} are needed{way}."
            )
        return notes

    def carry_out(self, model: Path) -> None:
        """Show the model what has no caption, and write each answer beside its picture or clip as soon as it is there.

        Raises:
            StepError, or the error of system.failures: upstream failed; what it had answered until then is written.
            OutputError: another wanwrap does the same.
            KeyboardInterrupt: Ctrl-C; the same.
        """
        staging = self.work / STAGED
        self.work.mkdir(parents=True, exist_ok=True)
        with lock(self.work, f"another wanwrap is writing captions for {self.folder.name}; wait until it has ended."):
            shutil.rmtree(staging, ignore_errors=True)  # a power cut may have left it
            try:
                staging.mkdir()
                if staged := self._stage(staging):
                    self._keep_replaced(self.replaced & {*staged.values()})
                    self._follow(model, staged)
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def _stage(self, folder: Path) -> dict[str, Path]:
        """Put what the model is to see into `folder`, by the names there: upstream captions all pictures of one folder.

        Each is decoded first, since upstream ends at the first that it can't read.
        """
        names = dict[str, Item]()  # that every program takes
        for number, item in enumerate(self.targets, 1):
            names[f"{number:06}{item.path.suffix.lower() if item.kind == 'image' else '.png'}"] = item

        def one(name: str) -> None:
            path = names[name].path
            try:
                _show(names[name], folder / name)
            except Exception as error:  # whatever a decoder raises, the file is what is wrong
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                self.failed[path] = media.why(path, error)
            done()

        with console.bar("looking at file") as done, ThreadPoolExecutor(cores()) as pool:
            list(pool.map(one, names))
        return {name: item.path for name, item in names.items() if item.path not in self.failed}

    def _keep_replaced(self, replaced: set[Path]) -> None:
        """Write captions that are about to be replaced to a new file."""
        rows = list[str]()
        for path in sorted(replaced):
            caption = path.with_suffix(CAPTION).read_bytes().decode("utf-8", "surrogateescape")
            rows.append(json.dumps({"path": str(path), "caption": caption}) + "\n")
        if rows:
            place = self.work / f"replaced-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09}.jsonl"
            write_atomic(place, "".join(rows))
            console.say(f"{len(rows)} captions will be replaced; the old ones are in {place}")

    def _follow(self, model: Path, staged: dict[str, Path]) -> None:
        """Upstream's script, and what it answers to the files, by their names in its folder."""
        answers, read = self.work / ANSWERS, 0

        def look() -> None:
            """Write what has come. Raises OSError: the disk is full."""
            nonlocal read
            if answers.is_file():
                with answers.open("rb") as file:
                    file.seek(read)
                    lines = file.read().split(b"\n")[:-1]  # the last one is still being written
                for line in lines:
                    read += len(line) + 1
                    row = json.loads(line)
                    if path := staged.pop(Path(row["image_path"]).name, None):
                        self.put(path, prompts.caption(row["caption"], self.asked.trigger))

        try:
            command = Command(self.argv(model), self.work, {**self.upstream.env, **pin.SETTINGS})
            status, tail = run_logged("captioning", command, self.log, look)
        finally:
            look()
        if status:
            why = failure(status, tail, ADVICE)
            raise why.error(f"captioning {why.text}\n{tail}\nThe whole log: {self.log}")
        self.failed |= dict.fromkeys(staged.values(), "upstream gave no caption for it")

    def put(self, path: Path, text: str) -> None:
        """Put a caption beside its picture or clip; one that somebody has written meanwhile stays.

        Raises OSError: the disk is full.
        """
        place = path.with_suffix(CAPTION)
        if not text:
            self.failed[path] = "the model answered nothing"
        elif len(text) > MOST:
            self.failed[path] = f"the model ran on for {len(text):,} characters"
        elif filled(place) and not self.asked.overwrite:
            self.kept += 1
        else:
            try:
                write_atomic(place, f"{text}\n")
                self.written[path] = text
            except (OSError, OutputError) as error:
                if getattr(error, "errno", None) in FULL:
                    raise
                self.failed[path] = f"its caption {place.name} can't be written: {getattr(error, 'strerror', error)}"


def _targets(folder: Path) -> list[Item]:
    """All that the data set holds; a picture and a clip of one name share a caption, which is the picture's.

    What upstream passes over is not captioned; `check` tells of it. Raises DatasetError: the folder holds none.
    """
    there, _ = media_in(folder)
    found = dict[Path, Item]()
    for (_, kind), paths in sorted(there.items()):
        for path in filter(kind_of, paths):
            found.setdefault(path.with_suffix(CAPTION), Item(path=path, kind=kind))
    return list(found.values())


def _show(item: Item, place: Path) -> None:
    """A picture, or the frame in the middle of a clip, by another name. Raises what is wrong with it."""
    path, caption = item.path, item.path.with_suffix(CAPTION)
    if caption.exists() and not caption.is_file():
        raise ValueError(f"its caption {caption.name} is no file")
    read = pictures.read(path, whole=True) if item.kind == "image" else clips.read(path, whole=False)
    if min(read.size) < NARROWEST or max(read.size) > LONGEST * min(read.size):
        raise ValueError(f"its {read.size[0]}x{read.size[1]} pixels are too few or too narrow for the model")
    if item.kind == "video":
        clips.middle(path, read.frames).save(place)
        return
    try:
        if not os.access(path, os.W_OK):
            raise PermissionError  # Windows could not remove its second name
        os.link(os.path.realpath(path), place)  # which takes no room
    except OSError:
        shutil.copyfile(path, place)
