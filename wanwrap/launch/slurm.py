"""Slurm: a batch file for each run, submitted where `sbatch` is; the compute nodes share that machine's file system.

So nothing is uploaded or fetched: each job starts the wanwrap that is installed here. Setup, which downloads, comes
before, since compute nodes often have no network.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wanwrap.errors import OptionError
from wanwrap.launch.job import INTERRUPTED, Engine, Job, Rendered

OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("account", str, "Whom the time is charged to."),
    ("partition", str, "The nodes, by a name that `sinfo` lists."),
    ("gres", str, "A GPU as the cluster calls it: gpu:a100 (default: gpu, any of them)."),
    ("cpus", str, "CPU cores of each job (default: 8)."),
    ("mem", str, "RAM of each job as Slurm writes it: 96G (default: 64G, or what the run needs)."),
    ("modules", list, "What each job loads by `module load`."),
    ("torch", str, "Build of PyTorch that setup gets where there is no GPU to ask: cu128."),
    ("sbatch", list, "Any other option of sbatch: --qos=long."),
)
BEFORE = 300  # seconds before its limit that a job is told; Slurm may do so up to 60 s earlier (sbatch's manual)
LEAST = 0.25  # hours, of which those are a part
REQUEUES = 20  # at most, or a limit that is too short for a single state would use the cluster for ever
COLUMNS = "%.12i %.40j %.10T %.11M %.11L %R"  # id, name, state, time, time left, nodes or what it waits for

BATCH = """\
#!/bin/bash
# {title}
# By hand it is submitted in its own folder: sbatch {expert}.sbatch
{options}

cd {cwd} || exit
{modules}export HF_HUB_OFFLINE=1  # setup has fetched all

again=${{SLURM_RESTART_COUNT:-0}}
echo "$(date '+%F %T') job $SLURM_JOB_ID on $(hostname), requeued $again times"
near=
trap 'near=1; kill -TERM "$run"' USR1  # the limit is near: wanwrap ends as with Ctrl-C
trap : TERM                            # scancel, preemption: Slurm tells wanwrap itself; only wait for it
{command} &
run=$!
while kill -0 "$run" 2> /dev/null; do sleep 1; done  # a signal that ends `wait` can cost it the exit code
wait "$run"
code=$?
echo "$(date '+%F %T') wanwrap has ended with $code"
if [ "$near" ] && [ "$code" = {interrupted} ] && [ "$again" -lt {requeues} ]; then
    scontrol requeue "$SLURM_JOB_ID" && sleep 60  # this script ends here; in 2 minutes or more the job goes on
fi
exit "$code"
"""


def render(job: Job, *, python: str, cwd: Path, **options: Any) -> Rendered:
    """Each run as a job in which `python -m wanwrap` carries it out in `cwd`; `options` are those of OPTIONS.

    Raises:
        OptionError: too few hours.
    """
    if job.hours < LEAST:
        raise OptionError(
            f"--hours {job.hours:g}: {BEFORE // 60} minutes of it are for ending; give {LEAST:g} or more."
        )
    wanwrap = (python, "-m", "wanwrap")
    files = {
        f"{expert}.sbatch": _batch(job, expert, shlex.join((*wanwrap, "run", *words)), cwd, options)
        for expert, words in zip(job.experts, job.runs, strict=True)
    }
    build = ("--torch", options["torch"]) if options.get("torch") else ()
    setup = f"cd {shlex.quote(str(cwd))} && {shlex.join((*wanwrap, 'setup', *job.setup, *build))}"
    return Rendered(
        files=files,
        before=(
            *(("sbatch", "--test-only", name) for name in files),
            ("bash", "-c", setup),
        ),  # which downloads for long
        start=[("sbatch", "--parsable", name) for name in files],
        id_pattern=r"(?m)^(\d+)",
        later={
            "status": (("squeue", "--states=all", f"--format={COLUMNS}", "--jobs={id}"),),
            "follow": (("tail", "-F", *(f"{expert}.log" for expert in job.experts)),),
            "stop": (("scancel", "{id}"),),
        },
        after="the job goes back into the queue, and goes on.",
        notes=tuple(_notes(job, options)),
    )


def _batch(job: Job, expert: str, command: str, cwd: Path, options: Mapping[str, Any]) -> str:
    modules = shlex.join(options.get("modules") or ())
    return BATCH.format(
        title=_one_line(f"{job.preset}: {job.name}, {expert}"),
        expert=expert,
        options="\n".join(f"#SBATCH {_one_line(each)}" for each in _options(job, expert, options)),
        cwd=shlex.quote(str(cwd)),
        modules=f"module load {modules} || exit\n" if modules else "",
        command=command,
        interrupted=INTERRUPTED,
        requeues=REQUEUES,
    )


def _options(job: Job, expert: str, given: Mapping[str, Any]) -> Iterator[str]:
    """What is asked of sbatch. The log's place is relative to the folder of the file."""
    minutes = math.ceil(job.hours * 60)
    kind = re.sub(r":\d+$", "", given.get("gres") or "gpu")
    asked = {
        "job-name": f"{job.name}-{expert}",
        "account": given.get("account"),
        "partition": given.get("partition"),
        "gres": f"{kind}:{job.gpus}",
        "cpus-per-task": given.get("cpus") or 8,
        "mem": given.get("mem") or f"{job.ample_ram}G",
        "time": f"{minutes // 60}:{minutes % 60:02}:00",
        "signal": f"B:USR1@{BEFORE}",
        "output": f"{expert}.log",
        "open-mode": "append",
    }
    yield from (f"--{name}={shlex.quote(str(value))}" for name, value in asked.items() if value)
    yield "--requeue"
    yield from given.get("sbatch") or ()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _notes(job: Job, options: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{BEFORE // 60} minutes before {job.hours:g} h are over the run ends and goes back into the queue, where it "
        f"goes on with its last state, {REQUEUES} times at most."
    )
    if ":" not in (options.get("gres") or ""):
        yield f"Slurm gives any of its GPUs; for {job.gpu} alone add --gres gpu:KIND (`sinfo -o %G` lists the kinds)."


ENGINE = Engine(
    word="slurm",
    program="sbatch",
    install="sbatch belongs to Slurm, which a cluster has or has not: type this command on the cluster's login node.",
    options=OPTIONS,
    render=render,
    shared_files=True,
)
