"""Modal: one Python file, which its program uploads with the run's files, and starts.

Both experts are trained in one container: Modal's volumes have no locks between containers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from pprint import pformat

from wanwrap.errors import GpuError, OptionError
from wanwrap.launch.job import AGAIN, MISTAKES, SETUP_MISTAKES, WORKSPACE, Engine, Job, Rendered
from wanwrap.paths import folder
from wanwrap.upstream.pin import COMMIT, PIP, URL

PROGRAM = "modal"
OPTIONS = (
    ("volume", str, "Modal's volume for weights, caches and runs (default: wanwrap)."),
    ("secret", str, "Modal's secret that holds the variables which are asked for (default: wanwrap)."),
)
FILE = "modal_app.py"
CORES = 8
CARDS = ("T4", "L4", "A10", "L40S", "A100-40GB", "A100-80GB", "RTX-PRO-6000", "H100", "H200", "B200")
# Tries after the first: three for failures, and one for each 23 hours, as no try may take more than 24.
RETRIES, TRY, MOST = 3, 23, 10


def render(job: Job, volume: str | None = None, secret: str | None = None) -> Rendered:
    """The file, and the commands that start, follow, fetch and end the run; its `main` uploads.

    Raises:
        OptionError: Modal has no such GPU; or an expert each in a container of its own.
    """
    _check(job)
    volume, secret = volume or "wanwrap", secret or "wanwrap"
    fields = {**_fields(job, secret), '"$volume"': repr(volume)}
    text = (folder("templates") / "launch" / FILE).read_text(encoding="utf-8")
    marks = "|".join(map(re.escape, sorted(fields, key=len, reverse=True)))  # at once: a value may hold another's mark
    text = re.sub(marks, lambda found: fields[found[0]], text)
    return Rendered(
        files={FILE: text},
        start=((PROGRAM, "run", "--detach", FILE),),
        id_pattern=r"started (ap-\w+)",
        later={
            "status": ((PROGRAM, "app", "logs", "{id}", "--tail", "20"),),
            "follow": ((PROGRAM, "app", "logs", "{id}", "--follow"),),
            "stop": ((PROGRAM, "app", "stop", "{id}", "--yes"),),
            # what is there under its name in this folder is replaced; the mount point is no part of the path
            "fetch": ((PROGRAM, "volume", "get", "--force", volume, f"{WORKSPACE}/outputs/{job.name}", "."),),
        },
        results=job.name,
        volume=volume,
        after=AGAIN,
        notes=_notes(job, volume, secret),
    )


def complaint(environ: Mapping[str, str], home: Path) -> str | None:
    """What is missing before Modal lets anybody in, with the way out; None where a token is there."""
    if (environ.get("MODAL_TOKEN_ID") and environ.get("MODAL_TOKEN_SECRET")) or environ.get("MODAL_OAUTH_CLIENT_ID"):
        return None
    path = Path(environ.get("MODAL_CONFIG_PATH") or home / ".modal.toml")
    if path.is_file() and "token_id" in path.read_text(encoding="utf-8", errors="replace"):
        return None
    return f"Modal knows no token of yours: {path} holds none; run `modal setup`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."


def _check(job: Job) -> None:
    if job.gpu not in CARDS:
        raise OptionError(f"Modal has no {job.gpu}; it has {', '.join(CARDS)}.")
    if len(job.runs) > 1:
        raise OptionError(
            "on Modal both experts are trained in one container: its volumes have no locks between two, which would write "
            "the same caches. Launch them as one run, or each with --noise_level and with a --volume of its own."
        )


def _fields(job: Job, secret: str) -> dict[str, str]:
    """What stands in the template, and what in its place; of `"$name"` the quotes too."""
    uploads = {f"/{place}": str(path) for place, path in job.uploads.items() if place != job.wheel}
    held = f"[modal.Secret.from_name({secret!r}, required_keys={[*job.secrets]!r})]" if job.secrets else "[]"
    values = {
        "setup": _listed(["setup", *job.setup]),
        "run": _listed(["run", *job.runs[0]]),
        "uploads": _listed(uploads),
        "wheel": repr(str(job.uploads[job.wheel])),
        "hours": f"{job.hours:g}",
        "mistakes": repr(tuple(code for code in MISTAKES if code != GpuError.exit_code)),  # another machine has one
        "setup_mistakes": repr(SETUP_MISTAKES),
        "app": repr("wanwrap-" + re.sub(r"[^a-zA-Z0-9._-]+", "-", job.name)[:56]),  # Modal's names have 64 at most
        "gpu": repr(job.gpu if job.gpus == 1 else f"{job.gpu}:{job.gpus}"),
        "cores": str(CORES),
        "memory": str(job.ample_ram * 1024),
        "secrets": held,
        "retries": str(min(MOST, RETRIES + math.ceil(job.hours / TRY) - 1)),
    }
    words = {
        "$url": URL,
        "$commit": COMMIT,
        "$wheel_name": PurePosixPath(job.wheel).name,
        "$packages": PIP["tensorboard"],
    }
    return {**{f'"${name}"': value for name, value in values.items()}, **words}


def _listed(values: list[str] | dict[str, str]) -> str:
    """As Python, in lines that can be read."""
    return pformat(values, width=110, indent=4, compact=True, sort_dicts=False)


def _notes(job: Job, volume: str, secret: str) -> list[str]:
    notes = [
        f"no two runs at once on the volume {volume}: its locks don't hold between containers.",
        f"Modal bills {CORES} cores and {job.ample_ram} GB of RAM beside the card.",
        "The hours begin with the upload, and go by while Modal looks for a card.",
    ]
    if job.secrets:
        notes.append(f"the Modal secret {secret} must hold {', '.join(job.secrets)}; modal.com/secrets makes it.")
    return notes


ENGINE = Engine(
    word="modal",
    program=PROGRAM,
    install="`pipx install modal` (or `uv tool install modal`) gets it, in an environment of its own; then `modal setup`.",
    options=OPTIONS,
    render=render,
    complaint=complaint,
)
