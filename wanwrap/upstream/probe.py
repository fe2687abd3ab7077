"""Asked of the training Python, as a script: what can it train with? Prints one JSON object.

Argument 1 is JSON: `modules`, a list of `module` or `module:attribute` to import, and `trainings`, upstream's options
and steps of each, which trial.py builds where all modules are there. That Python need not have wanwrap.
"""

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

PACKAGES = [
    "torch",
    "torchvision",
    "accelerate",
    "diffusers",
    "transformers",
    "xformers",
    "bitsandbytes",
    "safetensors",
]


def ask(name: str) -> "str | None":
    """None where the module imports, else why not (a wheel made for another torch fails here, not at night)."""
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
        if attribute:
            getattr(found, attribute)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def upstream() -> "dict[str, object]":
    """Version and commit of an installed musubi-tuner."""
    try:
        found = importlib.metadata.distribution("musubi-tuner")
    except importlib.metadata.PackageNotFoundError:
        return {}
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    return {"version": found.version, "commit": origin.get("vcs_info", {}).get("commit_id")}


def packages() -> "dict[str, str]":
    """The versions that a training depends on, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def gpus() -> "list[dict[str, object]]":
    """Name, bytes and free bytes of each CUDA GPU that torch can use."""
    try:
        import torch

        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [_gpu(torch, index) for index in range(number)]
    except Exception:
        return []


def _gpu(torch: "object", index: int) -> "dict[str, object]":
    cuda = torch.cuda  # type: ignore[attr-defined]
    properties = cuda.get_device_properties(index)
    return {"name": properties.name, "memory": properties.total_memory, "free": cuda.mem_get_info(index)[0]}


def problems(trainings: "dict[str, dict[str, object]]") -> "dict[str, dict[str, str]]":
    """What trial.py says of each training; only what is wrong."""
    import torch

    here = str(Path(__file__).resolve().parent)
    sys.path.insert(0, here)
    import trial  # type: ignore[import-not-found, unused-ignore]

    if not torch.cuda.is_available():
        import bare_cpu

        bare_cpu.help_if_needed()
    sys.path[:] = [path for path in sys.path if path != here]  # its modules must not shadow others
    return {name: found for name, asked in trainings.items() if (found := trial.attempt(**asked))}


if __name__ == "__main__":
    sys.path.pop(0)
    asked = json.loads(sys.argv[1])
    missing = {name: why for name in asked["modules"] if (why := ask(name))}
    answer = {
        "python": sys.version.split()[0],
        "missing": missing,
        "upstream": upstream(),
        "packages": packages(),
        "gpus": gpus(),
        "problems": problems(asked["trainings"]) if asked["trainings"] and not missing else {},
    }
    print("\n" + json.dumps(answer))
