"""Write tests/comfyui_nodes.json: what ComfyUI says of the nodes that a run's workflow uses.

    COMFYUI_PYTHON scripts/comfyui_nodes.py COMFYUI_FOLDER (COMMIT | --check)

ComfyUI's own code is asked, on a CPU and without any model, in the Python that runs it, where wanwrap need not be installed. --check compares and writes nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))
from wanwrap.look.comfyui_nodes import NODES

TABLE = Path(__file__).resolve().parent.parent / "tests" / "comfyui_nodes.json"
EXTRAS = ("hunyuan", "model_advanced", "video", "wan")  # comfy_extras/nodes_*.py that have some of them


def start(folder: Path, home: str) -> dict[str, Any]:
    """ComfyUI's classes by their names, with the models and pictures of the folder `home`; in this process, once."""
    sys.argv[1:] = ["--cpu", "--base-directory", home]
    sys.path.insert(0, str(folder))
    import_module("comfy.options").enable_args_parsing()
    nodes = import_module("nodes")
    for name in EXTRAS:
        asyncio.run(
            nodes.load_custom_node(str(folder / "comfy_extras" / f"nodes_{name}.py"), module_parent="comfy_extras")
        )
    found: dict[str, Any] = nodes.NODE_CLASS_MAPPINGS
    return found


def node(kind: Any) -> dict[str, Any]:
    """One class as data: its inputs in their order, with the choices and limits that no folder decides on."""
    takes, inputs = kind.INPUT_TYPES(), dict[str, Any]()
    for group in ("required", "optional"):
        for name, (type_, *more) in takes.get(group, {}).items():
            told = dict(*more)
            if isinstance(type_, list):
                type_, told["options"] = "COMBO", type_
            limits = {key: told[key] for key in ("min", "max", "options") if told.get(key) not in (None, [])}
            inputs[name] = {"type": type_, "required": group == "required", **limits}
    outputs = [*map(str, kind.RETURN_TYPES)]
    return {"inputs": inputs, "outputs": outputs, "saves": bool(getattr(kind, "OUTPUT_NODE", False))}


def main() -> None:
    """Write or check."""
    folder, *words = sys.argv[1:]
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "input").mkdir()
        found = start(Path(folder).resolve(), home)
        nodes = {name: node(found[name]) for name in sorted({*NODES} - {"Note"})}  # which is the page's own
    if "--check" in words:
        known = json.loads(TABLE.read_text(encoding="utf-8"))["nodes"]
        changed = [name for name in {**known, **nodes} if known.get(name) != nodes.get(name)]
        sys.exit(f"{TABLE} differs from {folder} in {', '.join(changed)}" if changed else None)
    version = import_module("comfyui_version").__version__
    table = {"comfyui": "Comfy-Org/ComfyUI", "version": version, "commit": words[0], "nodes": nodes}
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
