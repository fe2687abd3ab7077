"""Carries a rewrite out in the training Python, which has torch and need not have wanwrap.

    python child.py '{"verb": "merge", "out": ..., and the arguments of merge.job}'

Prints JSON lines: {"done": bytes read}, {"device": ...}, and last {"error": ..., "kind": ...} where a user can mend it.
"""

import importlib
import importlib.util
import json
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
OFTEN = 0.2  # seconds between two reports
ROOM = 2**30  # bytes of the GPU's memory: several times what is used


def find_wanwrap() -> None:
    """Make `import wanwrap` find this folder and nothing else; its modules must not shadow others."""
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != HERE]
    spec = importlib.util.spec_from_file_location(
        "wanwrap", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    assert spec and spec.loader
    sys.modules["wanwrap"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


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
    from wanwrap.errors import PackageError

    arguments |= {name: Path(arguments[name]) for name in ("dit", "lora", "file") if name in arguments}
    job = importlib.import_module(f"wanwrap.rewrite.{verb}").job(**arguments)
    hashes = {path: in_background(path) for path in job.hashed}  # while torch is imported, and on
    try:
        import torch
    except ImportError as error:
        raise PackageError(
            f"{sys.executable} can't import torch ({error}); install it there, or name the Python that trains with --python."
        ) from error

    from wanwrap.rewrite.engine import rewrite
    from wanwrap.rewrite.tensors import Worker

    torch.set_num_threads(1)  # the rewrite has threads of its own
    torch.set_float32_matmul_precision("highest")  # no TF32, whatever the environment says
    say(device=(device := best_device(torch)))
    marks = dict.fromkeys(job.hashed, "0" * 64)
    if job.lora:
        job.check({path: hashes[path].result() for path in job.lora.paths})

    def check() -> None:
        marks.update({path: future.result() for path, future in hashes.items()})
        job.check(marks)

    rewrite(
        job.source,
        job.tensors,
        Path(out),
        work=Worker(str(job.source.paths[0]), job.lora, job.match.patches, device),
        metadata=lambda: job.metadata(marks),
        check=check,
        done=Progress(),
    )
    say(done=job.source.bytes)


class Progress:
    """Tells the parent now and then how many bytes are done."""

    def __init__(self) -> None:
        self.read, self.last = 0, 0.0

    def __call__(self, count: int) -> None:
        self.read += count
        if time.monotonic() - self.last > OFTEN:
            self.last = time.monotonic()
            say(done=self.read)


def in_background(path: Path) -> "Future[str]":
    """The sha256 of a file, some time. Nobody waits for it when the rewrite has failed."""
    from wanwrap.system.safetensors import sha256

    future: Future[str] = Future()

    def work() -> None:
        try:
            future.set_result(sha256(path))
        except BaseException as error:  # whoever waits is to hear of it
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


if __name__ == "__main__":
    find_wanwrap()
    from wanwrap.errors import FULL, WanwrapError

    try:
        carry_out(**json.loads(sys.argv[1]))
    except WanwrapError as error:
        say(error=str(error), kind=type(error).__name__)
        sys.exit(1)
    except OSError as error:
        say(
            error=f"{error.filename or 'reading or writing'}: {error.strerror or error}; make room or give another place.",
            kind="RoomError" if error.errno in FULL else "OutputError",
        )
        sys.exit(1)
