"""LoRAs of a run to the Hugging Face Hub: what is sent, and sending it, gone on with where it broke off.

What huggingface_hub 0.34 and 2.4 have in common is used; it is slow to import, so each function does. The token is the
library's own affair: HF_TOKEN, or what `hf auth login` has kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.errors import DownloadError, OptionError, OutputError
from wanwrap.look import samples
from wanwrap.look.card import MARK, Card, Lora, text
from wanwrap.look.checkpoints import checkpoints, choose, inference
from wanwrap.look.samples import Sample
from wanwrap.look.workflow import Uses, rendered, uses, workflow
from wanwrap.run.comfyui import WORKFLOW
from wanwrap.run.status import Run
from wanwrap.system.safetensors import read_header
from wanwrap.weights.patience import Fetching, causes, host, patiently, settle_library

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

README = "README.md"
MOST = 12  # samples
THE_HUBS = {".gitattributes"}  # in a repository in which nothing is yet
# a path from the root: none in `wan2.1/lora`, https://github.com/kohya-ss or 1/2; in JSON \\server\share has twice as many \
PATHS = re.compile(
    r"(?<!http:/)(?<!https:/)(?<![\w.-])/[\w.@-][\w.@ -]*/[\w.@-]|\b[A-Za-z]:[\\/]|(?<!\\)(\\\\?)\1[\w.$-]+\1[\w.$-]"
)


class Sending(Fetching):
    """What is said where files are sent."""

    again = "give the same command again: it goes on from there"

    @staticmethod
    def refused(status: int, error: Exception) -> tuple[str, str]:
        """What the Hub has answered, with its own words, and what the user must do."""
        said = [message for each in causes(error) if (message := getattr(each, "server_message", None))]
        why = f"{status}: {str(said[0]).splitlines()[0]}" if said else str(status)
        if status in (401, 403):
            token = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write there"
            return f"does not let this token write ({why})", f"{token}; then {Sending.again}"
        if status == 413:
            return f"takes no file as large as this ({why})", "look at what your account may keep there"
        return f"refuses it ({why})", "look at OWNER/NAME, and at HF_ENDPOINT if it is set"


@dataclass(frozen=True)
class There:
    """What a repository holds; `private` is None where there is none yet, `mark` tells which run it was made for."""

    private: bool | None = None
    files: frozenset[str] = frozenset()
    mark: str = ""


@dataclass(frozen=True)
class Publication:
    """What is sent: files or their bytes, by their paths in the repository, the model card among them.

    `remarks` are to be read before.
    """

    repo: str
    mark: str
    files: Mapping[str, Path | bytes]
    card: str
    remarks: Sequence[str]

    @property
    def url(self) -> str:
        """Where people find it."""
        return f"https://{host()}/{self.repo}"

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: len(it) if isinstance(it, bytes) else it.stat().st_size for name, it in self.files.items()}


def check_name(repo: str) -> None:
    """Raises OptionError: no repository can be called so."""
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is not in __all__

    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise OptionError(f"{repo!r} can't be a repository's name: {error}") from error
    if repo.count("/") != 1:
        raise OptionError(f"{repo!r}: give OWNER/NAME, where OWNER is you, or an organization at the Hub.")


def look(repo: str) -> There:
    """The repository, as the user's token shows it.

    Raises:
        DownloadError: there is no token, it is not good, or the Hub can't be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    settle_library()
    if not get_token():
        raise DownloadError(
            "no token for the Hub: log in with `hf auth login`, or set HF_TOKEN, with one that may write."
        )
    api = HfApi()

    def ask() -> ModelInfo | None:
        try:
            return api.model_info(repo)
        except RepositoryNotFoundError:
            return None

    patiently(repo, api.whoami, doing=Sending)
    if (found := patiently(repo, ask, doing=Sending)) is None:
        return There()
    names = frozenset(each.rfilename for each in found.siblings or ())
    return There(bool(found.private), names, str(found.card_data.get(MARK, "")) if found.card_data else "")


def collect(run: Run, epochs: Sequence[str], repo: str, license: str, there: There) -> Publication:
    """The LoRAs of these epochs, and those of the run that are in the repository already: the card tells of all.

    Raises:
        OutputError: there is nothing to publish.
        OptionError: there are no LoRAs of such an epoch.
    """
    if run.rehearsal:
        raise OutputError(f"{run.name} is a rehearsal: its toys have learned nothing.")
    (record, use), found = inference(run), checkpoints(run)
    wanted = choose(found, epochs)
    chosen = [each for each in found if each in wanted or there.files & {path.name for path in each.loras.values()}]
    experts = {path: expert for each in chosen for expert, path in each.loras.items()}
    loras = [Lora(path, expert, read_header(path).get("__metadata__", {})) for path, expert in experts.items()]
    made_of = [{expert: path.name for expert, path in each.loras.items()} for each in chosen]
    shown = [each for each in samples.read(run.folder) if each.loras in made_of][:MOST]
    files: dict[str, Path | bytes] = {lora.name: lora.path for lora in loras}
    files |= {each.file: run.folder / each.file for each in shown}
    known = _uses(run, loras, shown, chosen[-1].epoch or 0) if (run.folder / WORKFLOW).is_file() else None
    if known:
        files[WORKFLOW] = rendered(workflow(known)).encode()
    card = Card(
        title=run.name,
        repo=repo,
        license=license,
        mark=f"{run.name} {min(each.record.started for each in run.experts)}",
        records={each.name: each.record for each in run.experts if each.name in experts.values()},
        record=record,
        use=use,
        loras=loras,
        samples=shown,
        workflow=WORKFLOW in files,
    )
    words = text(card)
    return Publication(repo, card.mark, {README: words.encode(), **files}, words, [*_remarks(loras, known)])


def _uses(run: Run, loras: Sequence[Lora], shown: Sequence[Sample], epoch: int) -> Uses | None:
    """What the workflow of the youngest LoRAs is made of, without a caption of the data set; None where nothing tells."""
    known = uses(run.name, [each.record for each in run.experts])
    return known and replace(
        known,
        loras={lora.expert: (lora.name, lora.trained.get("epoch", epoch)) for lora in loras},
        prompt=shown[0].prompt if shown else known.trigger,
        prompt_is="a sample's" if shown else "left to you",
    )


def _remarks(loras: Sequence[Lora], known: Uses | None) -> Iterator[str]:
    """The workflow's prompt, and what tells of the user's machine: options of upstream's may write paths into a LoRA."""
    for lora in loras:
        if keys := [key for key, value in lora.metadata.items() if PATHS.search(value)]:
            yield f"{lora.name} holds a path in its metadata, which everybody will see ({', '.join(keys)})."
    if known:
        yield f"the prompt in {WORKFLOW} is {json.dumps(known.prompt, ensure_ascii=False)}."
        if PATHS.search(rendered(workflow(known))):
            yield f"{WORKFLOW} holds a path, which everybody will see."


def check(publication: Publication, there: There, *, private: bool, overwrite: bool) -> None:
    """Raises OutputError: the repository holds something else, or is public where it should not be."""
    repo = publication.repo
    if private and there.private is False:
        raise OutputError(
            f"{repo} is public already; make it private in its settings at the Hub, or give another name."
        )
    if there.files - THE_HUBS and there.mark != publication.mark and not overwrite:
        raise OutputError(
            f"{repo} is there already, with {'LoRAs of another run' if there.mark else 'other files'}; give another name, "
            "or --overwrite: the model card and files of the same names are replaced, and all others stay."
        )


def send(publication: Publication, *, private: bool) -> None:
    """All of it in one commit; a file that is there already isn't sent again.

    Raises:
        DownloadError: the Hub refuses it, or the connection is gone; the files that are there stay.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, repo, sent = HfApi(), publication.repo, 0
    ask = partial(patiently, repo, done=lambda: sent, doing=Sending)
    sizes = publication.sizes
    adds = [CommitOperationAdd(name, content) for name, content in publication.files.items()]
    try:
        ask(partial(api.create_repo, repo, private=private, exist_ok=True))
        for add in adds:  # one by one: those that are whole need not be sent again
            ask(partial(api.preupload_lfs_files, repo, [add]))
            sent += sizes[add.path_in_repo]
        ask(partial(api.create_commit, repo, adds, commit_message=f"{publication.mark.split()[0]}, by wanwrap publish"))
    except ValueError as error:  # as the library has it where the Hub takes a file not
        raise DownloadError(f"{host()} refuses it: {str(error).splitlines()[-1]}") from error
