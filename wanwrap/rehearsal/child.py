"""One step of a rehearsal: upstream's own script, on toy models.

Started by path in the training Python, which may know nothing of wanwrap; so
only the standard library, torch, safetensors and upstream are imported here.

    python child.py make SPEC             write toy weights (SPEC is JSON)
    python child.py wan_train_network …   upstream's script of that name
    python child.py FILE.py …             another script, which uses upstream
"""

import importlib
import json
import runpy
import sys
from pathlib import Path

# Only these siblings are looked for in these folders. Spawned data loader workers
# import this file anew with a sys.path that lacks them already.
HERE = Path(__file__).resolve().parent
PLACES = (HERE, HERE.parent / "upstream")
sys.path[:0] = map(str, PLACES)
import bare_cpu  # noqa: E402

bare_cpu.help_if_needed()  # before upstream is first imported, which toys does
import toys  # noqa: E402

sys.path[:] = [path for path in sys.path if Path(path).resolve() not in PLACES]
toys.shrink()


def main(verb: str, *arguments: str) -> None:
    if verb == "make":
        toys.make(json.loads(arguments[0]))
        return
    if verb.endswith(".py"):
        sys.argv = [verb, *arguments]
        runpy.run_path(verb, run_name="__main__")
        return
    module = importlib.import_module(f"musubi_tuner.{verb}")
    sys.argv = [str(module.__file__), *arguments]
    module.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
