"""Asked of the training Python, as a script: what can it train with? Prints one JSON object.

Argument 1 is a JSON list of `module` or `module:attribute` to import. Standard library only: that Python need not have wanwrap.
"""

import importlib
import importlib.metadata
import json
import sys


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
    names = (
        "torch",
        "torchvision",
        "accelerate",
        "diffusers",
        "transformers",
        "xformers",
        "bitsandbytes",
        "safetensors",
    )
    found = {}
    for name in names:
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


if __name__ == "__main__":
    modules = json.loads(sys.argv[1])
    answer = {
        "python": sys.version.split()[0],
        "missing": {name: why for name in modules if (why := ask(name))},
        "upstream": upstream(),
        "packages": packages(),
        "gpus": gpus(),
    }
    print("\n" + json.dumps(answer))
