"""A run through SkyPilot, which rents a machine, uploads, starts, and ends it: on RunPod, Vast and many others.

What the clouds can and how their cards are called: SkyPilot 0.14.1's sky/clouds, sky/provision/runpod/utils.py, catalogs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wanwrap.errors import OptionError
from wanwrap.launch.bash import IMAGE, codes, labels, plain, seconds, setups, template, values
from wanwrap.launch.job import AGAIN, MISTAKES, SETUP_MISTAKES, Engine, Job, Rendered
from wanwrap.launch.words import mark

OPTIONS = (
    ("infra", str, "Where, by SkyPilot's names, parted by commas; ssh/POOL and k8s too (default: runpod, and vast)."),
    ("idle", int, "Minutes that the machine stays when the run has ended, for the results (default: 60)."),
    ("volume", str, "RunPod's network volume, by SkyPilot's name, that keeps weights and results."),
)
ACCELERATORS = {  # where SkyPilot has other names than GPUS, or several: each of them will do
    "A10": ("A10", "A10G"),
    "RTX-PRO-6000": ("RTXPRO6000", "RTXPRO6000-WK", "RTXPRO6000S", "RTXPRO6000WS"),
    "A6000": ("RTXA6000", "A6000"),
    "A100-40GB": ("A100",),
    "A100-80GB": ("A100-80GB", "A100-80GB-SXM"),
    "H100": ("H100", "H100-SXM"),
    "H200": ("H200", "H200-SXM"),
}
START = "mkdir -p {0} && cd {0} || exit\ndeadline=~/deadline\nexport HF_HOME=$PWD/hf\n"
SETUP = """
uploads=~/uploads
echo $(($(date +%s) + seconds)) > "$deadline"
ln -sfnT "$PWD/local_training/outputs/$name" ~/results
placed "${places[@]}" && ready && again "$setup_mistakes" wanwrap setup "${setup[@]}"
"""
RUN = """
PATH=$PWD/venv/bin:$PATH
again "$mistakes" wanwrap run "${run[@]}"
"""
# by what SkyPilot reaches machines
ACCOUNTS = ".runpod/config.toml .config/vastai/vast_api_key .lambda_cloud/lambda_keys .sky/ssh_node_pools.yaml "
ACCOUNTS += ".sky/config.yaml .slurm/config .kube/config .aws/credentials .config/gcloud .azure"


def complaint(environ: Mapping[str, str], home: Path) -> str | None:
    """What to do where SkyPilot has no account."""
    named = {"SKYPILOT_API_SERVER_ENDPOINT", "KUBECONFIG", "AWS_ACCESS_KEY_ID"} & environ.keys()
    if named or any((home / place).exists() for place in ACCOUNTS.split()):
        return None
    return (
        "SkyPilot has no account yet: give it one with `runpod config` or `vastai set api-key KEY`; `sky check` tells."
    )


def render(job: Job, infra: str | None = None, idle: int = 60, volume: str | None = None) -> Rendered:
    """A file and a machine for each of the runs. Raises OptionError: SkyPilot can't do that."""
    # Vast has A100s of 40 and 80 GB under one name
    default = "runpod" if volume or job.gpu == "A100-80GB" else "runpod,vast"
    clouds = [*filter(None, (infra or default).replace(" ", "").split(","))]
    if volume and (len(clouds) > 1 or not clouds[0].startswith("runpod")):
        raise OptionError("--volume is RunPod's: leave out --infra, or give --infra runpod.")
    if volume and len(job.runs) > 1:
        raise OptionError("--volume is for one machine: another one sees no locks there. Both experts fit on one.")
    if idle < 1:
        raise OptionError("--idle must be a minute or more: the results go with the machine.")
    names = [plain(job.name) + label for label in labels(job)]
    files = [f"sky{label}.yaml" for label in labels(job)]
    resources = _resources(job, clouds, idle)
    tasks = [
        _task(job, name, setup, run, resources, volume)
        for name, setup, run in zip(names, setups(job), job.runs, strict=True)
    ]
    secrets = [word for secret in job.secrets for word in ("--secret", secret)]  # the name alone: sky takes the value
    starts = [
        ("sky", "launch", "-y", "-d", "-c", name, *secrets, file) for name, file in zip(names, files, strict=True)
    ]
    return Rendered(
        files={file: _yaml(task) for file, task in zip(files, tasks, strict=True)},
        start=starts,
        later={
            "status": (("sky", "status", *names),),
            "follow": [("sky", "logs", name) for name in names],
            "fetch": [("rsync", "-az", f"{name}:results/", "../") for name in names],
            "stop": (("sky", "down", "-y", *names),),
        },
        volume=volume or "",
        idle=idle / 60,
        after=AGAIN if volume else "the machine ends then, and all states with it; give more, or --volume.",
        notes=_notes(job, idle, volume),
    )


def _notes(job: Job, idle: int, volume: str | None) -> list[str]:
    kept = (
        f"The volume {volume}, of {job.disk} GB or more, keeps weights and results; --again brings a machine to fetch them from."
        if volume
        else "The results go with it: fetch them before, or give --idle more minutes, or --volume."
    )
    most = [f"No machine that costs more than {job.price:g} dollars a card and hour is taken."] if job.price else []
    return [
        "Until `launched:` appears leave this computer on: only then the machine knows when to end itself.",
        f"The machine ends itself {idle} minutes after the run has ended or failed. {kept}",
        *most,
    ]


def _resources(job: Job, clouds: Sequence[str], idle: int) -> dict[str, Any]:
    """What is rented, and when it is given back."""
    where = {"any_of": [{"infra": cloud} for cloud in clouds]} if len(clouds) > 1 else {"infra": clouds[0]}
    # in dollars, as SkyPilot counts
    most = {"max_hourly_cost": round(job.price * job.gpus, 4)} if job.price else {}
    return {
        **where,
        "accelerators": dict.fromkeys(ACCELERATORS.get(job.gpu, (job.gpu,)), job.gpus),
        "memory": f"{job.ram}+",
        "disk_size": job.disk,
        "image_id": f"docker:{IMAGE}",
        **most,
        "autostop": {"idle_minutes": idle, "down": True, "wait_for": "jobs"},  # not for a forgotten SSH session
    }


def _task(
    job: Job,
    name: str,
    setup: Sequence[str],
    run: Sequence[str],
    resources: Mapping[str, Any],
    volume: str | None,
) -> dict[str, object]:
    """Uploads have plain names there until the setup has put them in place: SkyPilot quotes none for the other shell. A
    data set that has changed goes to another place: SkyPilot deletes nothing on a machine that is there still.
    """
    marks = [mark(path) for path in job.uploads.values()]
    start = START.format("/workspace/wanwrap" if volume else "~/wanwrap")
    secrets = {"secrets": dict.fromkeys(job.secrets)} if job.secrets else {}
    volumes = {"volumes": {"/workspace": volume}} if volume else {}
    return {
        "name": name,
        "resources": dict(resources),
        **secrets,
        **volumes,
        "file_mounts": {f"~/uploads/{m}": _local(path) for m, path in zip(marks, job.uploads.values(), strict=True)},
        "setup": start + _setup(job, setup, marks),
        "run": start + values(mistakes=codes(MISTAKES), run=run) + template("try.sh") + RUN,
    }


def _setup(job: Job, setup: Sequence[str], marks: Sequence[str]) -> str:
    places = [word for pair in zip(marks, job.uploads, strict=True) for word in pair]
    never = codes(SETUP_MISTAKES)
    named = values(
        name=job.name, seconds=seconds(job), wheel=job.wheel, places=places, setup=setup, setup_mistakes=never
    )
    return named + template("try.sh") + template("ready.sh") + SETUP


def _local(path: Path) -> str:
    """SkyPilot's rsync is a line for a shell, where it writes a path as Python's repr does. Raises OptionError: it is another
    path there."""
    text = str(path)
    if repr(text)[1:-1] != text or ("'" in text and re.search("[$`]", text)):
        raise OptionError(f"{text}: SkyPilot can't upload a folder of this name; rename it.")
    return text


def _yaml(task: Mapping[str, object]) -> str:
    """Scripts as blocks, all else as PyYAML writes it."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        def represent_str(self, text: str) -> Any:
            return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, Dumper.represent_str)
    return str(yaml.dump(task, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000))


ENGINE = Engine(
    word="sky",
    program="sky",
    install=(
        "Install SkyPilot in an environment of its own: `uv tool install 'skypilot[runpod,vast]'`, or the same with pipx."
    ),
    options=OPTIONS,
    render=render,
    complaint=complaint,
    ignore_files=(".gitignore", ".skyignore"),
)
