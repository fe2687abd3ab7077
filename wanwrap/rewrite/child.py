"""Carries a rewrite out in the training Python, which has torch and need not have wanwrap.

    python child.py '{"verb": "merge", "out": ..., and the arguments of merge.job}'

Prints JSON lines: {"done": bytes read}, {"device": ...}, and last {"error": ..., "kind": ...} where a user can mend it.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import wanwrap  # noqa: F401  from now on it is found by itself, and what lies beside it must not shadow others

    del sys.path[0]

from wanwrap.errors import PackageError, WanwrapError, of_system
from wanwrap.rewrite import convert, merge
from wanwrap.rewrite.engine import rewrite
from wanwrap.rewrite.job import Job
from wanwrap.system.safetensors import sha256

JOBS: dict[str, Callable[..., Job]] = {"merge": merge.job, "convert": convert.job}
ROOM = 2**30  # bytes of the GPU's memory: several times what is used


def say(**words: Any) -> None:
    """One line to the parent. A parent that is gone ends this process: nobody waits for the file."""
    print(json.dumps(words), flush=True)


def best_device(torch: Any) -> str:
    """The GPU where there is one that works and has room, for the products; else the processor."""
    try:
        torch.zeros(1, device="cuda")
        return "cuda" if torch.cuda.mem_get_info()[0] > ROOM else "cpu"
    except Exception:  # no GPU, no driver, another's alone: whatever torch says
        return "cpu"


def carry_out(verb: str, out: str, **arguments: Any) -> None:
    """Make the file. Raises what engine.rewrite does; PackageError: there is no torch."""
    arguments |= {name: Path(arguments[name]) for name in ("dit", "lora", "file") if name in arguments}
    job = JOBS[verb](**arguments)
    pool = ThreadPoolExecutor()
    hashes = {path: pool.submit(sha256, path) for path in job.hashed}  # while torch is imported, and on
    try:
        import torch
    except ImportError as error:
        raise PackageError(
            f"{sys.executable} can't import torch ({error}); install it there, or name the Python that trains with --python."
        ) from error

    from wanwrap.rewrite.tensors import Worker

    torch.set_num_threads(1)  # the rewrite has threads of its own
    torch.set_float32_matmul_precision("highest")  # no TF32, whatever the environment says
    say(device=(device := best_device(torch)))
    job.check({path: hashes[path].result() for path in job.lora.paths} if job.lora else {})
    rewrite(job, Path(out), work=Worker(job, device), hashes=hashes, done=lambda count: say(done=count))
    say(done=job.source.bytes)


def main(order: str) -> None:
    """Make the file, or say why not."""
    try:
        carry_out(**json.loads(order))
        return
    except (WanwrapError, OSError) as caught:
        error = caught
        if isinstance(caught, OSError):
            error = of_system(caught, "reading or writing", "make room or give another place.")
        say(error=str(error), kind=type(error).__name__)
    except KeyboardInterrupt:
        pass
    except Exception:
        traceback.print_exc()
    os._exit(1)  # nobody waits for a sha256 any more


if __name__ == "__main__":
    main(sys.argv[1])
