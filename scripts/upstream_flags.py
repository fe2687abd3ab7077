"""Write tests/upstream_flags.json: every option of upstream's scripts that wanwrap starts, read from its source.

    python scripts/upstream_flags.py MUSUBI_TUNER_FOLDER [--check]

Upstream is read, not imported, so neither torch nor a GPU is needed. --check compares and writes nothing.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wanwrap.upstream.pin import COMMIT, VERSION, find

TABLE = Path(__file__).resolve().parent.parent / "tests" / "upstream_flags.json"
PARSERS: dict[str, list[tuple[str, str | None]]] = {  # script -> files and the functions in them that add its options
    "wan_train_network.py": [("training/parser_common.py", None), ("wan_train_network.py", "wan_setup_parser")],
    "wan_cache_latents.py": [("cache_latents.py", "setup_parser_common"), ("wan_cache_latents.py", "wan_setup_parser")],
    "wan_cache_text_encoder_outputs.py": [
        ("cache_text_encoder_outputs.py", "setup_parser_common"),
        ("wan_cache_text_encoder_outputs.py", "wan_setup_parser"),
    ],
    "caption_images_by_qwen_vl.py": [("caption_images_by_qwen_vl.py", "parse_args")],
    "wan_generate_video.py": [("wan_generate_video.py", "parse_args")],
    "convert_lora.py": [("convert_lora.py", "parse_args")],
}
# accelerate 1.6.0's DynamoBackend, which can't be imported without torch.
DYNAMO = [
    "NO",
    "EAGER",
    "AOT_EAGER",
    "INDUCTOR",
    "AOT_TS_NVFUSER",
    "NVPRIMS_NVFUSER",
    "CUDAGRAPHS",
    "OFI",
    "FX2TRT",
    "ONNXRT",
    "TENSORRT",
    "AOT_TORCHXLA_TRACE_ONCE",
    "TORCHXLA_TRACE_ONCE",
    "IPEX",
    "TVM",
    "HPU_BACKEND",
]


def options(source: Path, function: str | None, tasks: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The options that a file, or one function of it, adds to a parser."""
    tree: ast.AST = ast.parse(source.read_text(encoding="utf-8"))
    if function:
        tree = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
            flag = next(ast.literal_eval(word) for word in call.args if ast.literal_eval(word).startswith("--"))
            yield flag, row({word.arg: word.value for word in call.keywords if word.arg}, tasks)


def row(given: dict[str, ast.expr], tasks: list[str]) -> dict[str, Any]:
    """One option as data."""
    if "action" in given:
        assert ast.literal_eval(given["action"]) == "store_true", "an action that wanwrap doesn't know"
        return {"kind": "flag"}
    found: dict[str, Any] = {
        "kind": "value",
        "type": ast.unparse(given["type"]).split(".")[-1] if "type" in given else "str",
    }
    if "nargs" in given:
        found["nargs"] = ast.literal_eval(given["nargs"])
    if "choices" in given:
        text = ast.unparse(given["choices"])
        found["choices"] = tasks if "WAN_CONFIGS" in text else DYNAMO if "Dynamo" in text else ast.literal_eval(text)
    named = isinstance(
        given.get("default"), ast.Name
    )  # a constant of upstream's: its prompt, which is no option's form
    default = ast.literal_eval(given["default"]) if "default" in given and not named else None
    if default is not None:
        found["default"] = str(default)
    if "required" in given and ast.literal_eval(given["required"]):
        found["required"] = True
    return found


def tasks_of(package: Path) -> list[str]:
    """The keys of WAN_CONFIGS."""
    tree = ast.parse((package / "wan" / "configs" / "__init__.py").read_text(encoding="utf-8"))
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WAN_CONFIGS"
    )
    assert isinstance(table, ast.Dict)
    return [ast.literal_eval(key) for key in table.keys if key]


def read(folder: Path) -> dict[str, Any]:
    """The whole table."""
    upstream, package = find(folder, folder), folder / "src" / "musubi_tuner"
    tasks = tasks_of(package)
    scripts = {
        script: dict(pair for file, function in parts for pair in options(package / file, function, tasks))
        for script, parts in PARSERS.items()
    }
    commit = upstream.commit or (COMMIT if upstream.version == VERSION else None)  # an exported folder has no .git
    return {"upstream": "kohya-ss/musubi-tuner", "version": upstream.version, "commit": commit, "scripts": scripts}


def main() -> None:
    """Write or check."""
    table = read(Path(sys.argv[1]))
    if "--check" in sys.argv:
        known = json.loads(TABLE.read_text(encoding="utf-8"))
        sys.exit(
            None if known["scripts"] == table["scripts"] else f"{TABLE} differs from {sys.argv[1]}: run without --check"
        )
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
