"""A run on a pod that the user rents by hand (RunPod, Vast, any Linux): one script that does all, and ends the pod."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from string import Template

from wanwrap.launch.bash import IMAGE, codes, labels, plain, seconds, setups, template, values
from wanwrap.launch.job import MISTAKES, SETUP_MISTAKES, Engine, Job, Rendered
from wanwrap.upstream.pin import COMMIT, PIP, URL

OPTIONS = (
    ("end", str, "Command that ends the pod when the run has ended or failed, as: runpodctl stop pod $RUNPOD_POD_ID"),
)


def render(job: Job, end: str | None = None) -> Rendered:
    """A script for a pod, for each of the runs, and an image in which it starts at once."""
    files = dict[str, str]()
    destroys = bool(re.search("destroy|remove|delete|terminate", end or ""))
    for label, setup, run in zip(labels(job), setups(job), job.runs, strict=True):
        named = {"script": f"start{label}.sh", "dockerfile": f"Dockerfile{label}", "image": IMAGE, "wheel": job.wheel}
        named["place"] = f"/workspace/{plain(job.name)}{label}"
        own = values(end=end or "", destroys="yes" if destroys else "", setup=setup, run=run)
        own += values(mistakes=codes(MISTAKES), setup_mistakes=codes(SETUP_MISTAKES))
        files[named["script"]] = _script(job, own, end or "", named)
        image = Template(template("Dockerfile"))
        files[named["dockerfile"]] = image.safe_substitute(named, url=URL, commit=COMMIT, packages=PIP["tensorboard"])
    scripts = [file for file in files if file.endswith(".sh")]
    lost = (
        ["--end destroys the pod, and the results with it, as soon as they are packed: take a command that stops it."]
        if destroys
        else []
    )
    costs = (
        [] if end else ["Nothing ends the pod when the run has ended: it costs until you do. --end COMMAND does it."]
    )
    return Rendered(
        files=files,
        after="start the script once more, when you have removed the file `ended`.",
        notes=[
            *(f"{script} tells at its top what to rent, to upload and to fetch." for script in scripts),
            *costs,
            *lost,
        ],
    )


def _script(job: Job, own: str, end: str, named: Mapping[str, str]) -> str:
    """What to do by hand, the run's `own` values, then what is the same for all runs."""
    heading = Template(template("start.txt")).substitute(named, **_heading(job, end, named))
    places = [
        word for number, (place, path) in enumerate(job.uploads.items(), 1) for word in (f"{number}/{path.name}", place)
    ]
    own += values(name=job.name, seconds=seconds(job), wheel=job.wheel, places=places)
    comments = "".join(f"# {line}".rstrip() + "\n" for line in heading.splitlines())  # whatever stands in a path
    return f"#!/bin/bash\n{comments}\n{own}\n" + "".join(map(template, ("try.sh", "ready.sh", "start.sh")))


def _heading(job: Job, end: str, named: Mapping[str, str]) -> dict[str, object]:
    """What stands in the commands: on the pod's side plain names alone, which any shell there leaves as they are."""
    copies = [
        f"     scp -r -P PORT {shlex.quote(str(path))} root@HOST:{named['place']}/uploads/{number}/"
        for number, path in enumerate(job.uploads.values(), 1)
    ]
    keep = (
        f"\n   Give it {', '.join(job.secrets)} in its environment, as one of the provider's secrets."
        if job.secrets
        else ""
    )
    return {
        "name": job.name,
        "gpus": job.gpus,
        "gpu": job.gpu,
        "ram": job.ram,
        "disk": job.disk,
        "hours": f"{job.hours:g}",
        "secrets": keep,
        "folders": " ".join(f"{named['place']}/uploads/{number}" for number in range(1, len(copies) + 1)),
        "file": shlex.quote(str(job.folder / "launch" / named["script"])),
        "uploads": "\n".join(copies),
        "outputs": shlex.quote(str(job.folder.parent)),
        "ended": f"then `{end}` ends the pod." if end else "you end the pod.",
    }


ENGINE = Engine(
    word="script",
    options=OPTIONS,
    render=render,
)
