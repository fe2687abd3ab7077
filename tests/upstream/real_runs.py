"""Run in the training Python: upstream's own scripts, one after the other in one process, on toy models.

python real_runs.py FILE     (JSON in: {"task": .., "files": {path: toy}, "calls": [[script, argument, ...], ...]};
what each call printed comes out as a JSON list on the last line)
"""

import contextlib
import importlib
import io
import json
import logging
import sys
from pathlib import Path

WANWRAP = Path(__file__).resolve().parents[2] / "wanwrap"
sys.path += [str(WANWRAP / room) for room in ("upstream", "rehearsal")]  # last: their modules shadow no others
import bare_cpu  # noqa: E402

bare_cpu.help_if_needed()
import toys  # noqa: E402

toys.shrink()


class Announced(BaseException):
    """Upstream has said how many steps it will train: all that is asked for here."""


def call(script, *arguments):
    """What a script prints and logs; a training until it has announced its steps."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    def announce(_, *words, **__):
        print(*words)
        if "total optimization steps" in words[0]:
            raise Announced

    Accelerator.print = announce
    AcceleratorState._reset_state()
    PartialState._reset_state()
    printed = io.StringIO()
    handler = logging.StreamHandler(printed)
    logging.getLogger().addHandler(handler)
    module = importlib.import_module(f"musubi_tuner.{script}")
    sys.argv = [str(module.__file__), *arguments]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            module.main()
    except Announced:
        pass
    except BaseException as error:
        printed.write(f"\nENDED BY {error!r}")
    logging.getLogger().removeHandler(handler)
    return printed.getvalue()


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for task, files in asked["toys"].items():
        toys.make({"task": task, "files": files})
    import torch

    torch.nn.Module.load_state_dict = toys._load_state_dict
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(logging.INFO)
    print("\n" + json.dumps([call(*each) for each in asked["calls"]]))
