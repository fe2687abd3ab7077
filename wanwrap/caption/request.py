"""Captions as they are asked for on one command line, and whether they can be had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanwrap.caption import model, prompts
from wanwrap.data.folder import find, media_in
from wanwrap.data.media import CAPTION, Item, filled, kind_of
from wanwrap.errors import GpuError, WeightsError
from wanwrap.paths import absolute
from wanwrap.plan import preflight
from wanwrap.plan.request import slug, training_python, workspace_folder
from wanwrap.system import disk
from wanwrap.upstream import pin
from wanwrap.upstream.options import CAPTION as SCRIPT
from wanwrap.upstream.options import Options, check, spell
from wanwrap.upstream.pin import SETTINGS, Upstream
from wanwrap.weights.workspace import Workspace
from wanwrap.weights.workspace import load as load_workspace

# below the folder in which upstream runs: plain names, whatever the user's are
STAGED, ANSWERS = "staged", "staged/captions.jsonl"
MODULES = {"musubi_tuner", "torch", "transformers", "accelerate"}
SPARE = 2_000_000_000  # bytes that a picture and its answer take on the GPU beside the model, about


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """One captioning as it was asked for. `targets` are to be captioned, of which `replaced` have a caption."""

    folder: Path
    targets: tuple[Item, ...]
    replaced: tuple[Item, ...]
    kept: int
    base_dir: Path
    python: str
    upstream: Upstream
    workspace: Workspace
    model: Path | None
    options: Options
    trigger: str | None = None
    overwrite: bool = False
    cpu: bool = False
    any_upstream: bool = False

    @property
    def work(self) -> Path:
        """Where log, replaced captions and, while it goes on, the staged pictures are."""
        return self.base_dir / "captions" / slug(self.folder.name)

    @property
    def log(self) -> Path:
        return self.work / "caption.log"

    @property
    def env(self) -> dict[str, str]:
        return {**self.upstream.env, **SETTINGS}

    def found_model(self) -> Path:
        """The model, by its header one that upstream loads. Raises WeightsError."""
        if self.model:
            return model.check(self.model)
        return model.find(self.base_dir / "models", self.workspace.comfyui)

    def argv(self, model: Path) -> tuple[str, ...]:
        """Upstream's command, to be started in `work`."""
        paths: Options = {
            "image_dir": STAGED,
            "model_path": str(model),
            "output_file": ANSWERS,
            "output_format": "jsonl",
        }
        options = {**paths, **self.options}
        check(options, SCRIPT)
        return (self.python, *self.upstream.start(SCRIPT), *spell(options))

    def missing(self) -> tuple[Path, list[str]]:
        """For a dry run: the model, or where it would be; and what is not there."""
        try:
            return self.found_model(), []
        except WeightsError as error:
            return self.model or self.base_dir / "models" / model.FILE, [str(error)]

    def ask(self) -> list[str]:
        """What is to be said of upstream and machine before they write. Raises what they lack."""
        for folder in {self.work, *(each.path.parent for each in self.targets)}:
            disk.writable(folder)
        notes = model.check_configs()
        answer = preflight.ask(self.python, self.upstream, MODULES)
        upstream = preflight.check_upstream(answer, self.python, self.upstream, any_upstream=self.any_upstream)
        preflight.check_packages(answer, self.python)
        if not answer["gpus"] and not self.cpu:
            raise GpuError(
                f"{self.python} sees no CUDA GPU; on the CPU upstream takes minutes a picture and about 20 GB of "
                "memory: give another --python, or --cpu if you want that."
            )
        needed = model.BYTES // (2 if self.options.get("fp8_vl") else 1) + SPARE
        if answer["gpus"] and answer["gpus"][0]["free"] < needed:
            free, way = answer["gpus"][0]["free"], "" if self.options.get("fp8_vl") else "; --fp8 takes half of it"
            notes.append(f"{free / 1e9:.0f} GB are free on the GPU, and about {needed / 1e9:.0f} are needed{way}.")
        return [*upstream.remarks(), *(f"note: {note}" for note in notes)]


def read(
    *,
    dataset: str | None,
    kind: str | None = None,
    base_dir: Path,
    prompt: str | None = None,
    prompt_file: Path | None = None,
    trigger: str | None = None,
    overwrite: bool = False,
    model: Path | None = None,
    fp8: bool = False,
    python: str | None = None,
    musubi_dir: Path | None = None,
    max_size: int | None = None,
    max_new_tokens: int | None = None,
    **asked: Any,
) -> CaptionRequest:
    """The request behind one command line.

    Raises:
        DatasetError, OptionError, UpstreamError, PackageError: what is asked for does not exist or can't be.
    """
    base = workspace_folder(base_dir)
    found, folder = load_workspace(base), find(dataset, base / "datasets")
    text = prompts.prompt(kind, prompt, prompt_file, trigger)
    everything = _targets(folder)
    captioned = {item: None for item in everything if filled(item.path.with_suffix(CAPTION))}
    return CaptionRequest(
        folder=folder,
        targets=tuple(item for item in everything if overwrite or item not in captioned),
        replaced=tuple(captioned if overwrite else ()),
        kept=0 if overwrite else len(captioned),
        base_dir=base,
        upstream=pin.find(musubi_dir, base, found.musubi_dir),
        python=training_python(python or found.python),
        workspace=found,
        model=absolute(model) if model else None,
        options={"max_size": max_size, "max_new_tokens": max_new_tokens, "fp8_vl": fp8, "prompt": text},
        trigger=trigger,
        overwrite=overwrite,
        **asked,
    )


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
