"""The house stands: imports go down only, nothing goes in circles, few start programs, the planner touches no files."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from helpers import ROOT, golden_plan

from wanwrap.plan.planner import make_plan

HOUSE = ROOT / "wanwrap"
ROOMS = (
    "system upstream weights preset data rewrite plan caption prepare machine run launch look rehearsal cli __main__"
)
FLOOR = {"": 0, "errors": 0, "paths": 0, **{room: floor for floor, room in enumerate(ROOMS.split(), 1)}}
STARTS = r"subprocess\.(run|Popen|call|check_\w+|get\w*output)|multiprocessing\.\w+|os\.(exec|spawn|fork|popen|system|posix_spawn|startfile)\w*"
STARTERS = {
    "system.process",  # all that a run needs
    "system.guard",  # what ends that
    "machine.torch_index",  # as a script of its own it becomes pip
}
FILES = {"open", "stat", "exists", "is_file", "is_dir", "iterdir", "glob", "rglob", "mkdir", "touch", "unlink", "rename", "write_text", "write_bytes", "read_bytes", "samefile", "resolve"}  # fmt: skip


def name_of(path: Path) -> str:
    """`plan.planner`; a room's `__init__` is the room, wanwrap's the empty name."""
    return ".".join(part for part in path.relative_to(HOUSE).with_suffix("").parts if part != "__init__")


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in HOUSE.rglob("*.py")}


def nodes(tree: ast.AST, *, late: bool) -> Iterator[ast.AST]:
    """All of a module; without `late` what is not done when it is imported is left out."""
    for child in ast.iter_child_nodes(tree):
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if late or not (typing or isinstance(child, ast.FunctionDef)):
            yield from (child, *nodes(child, late=late))


def imports(name: str, *, late: bool = True) -> set[str]:
    """The modules of wanwrap that one imports."""
    found = set[str]()
    for node in nodes(TREES[name], late=late):
        if isinstance(node, ast.ImportFrom):
            whole = {f"{'.' * node.level}{node.module}.{each.name}" for each in node.names}
            found |= {each if each.removeprefix("wanwrap.") in TREES else each.rpartition(".")[0] for each in whole}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    assert not [each for each in found if each.startswith(".")], name  # relative ones would be missed
    return {each.partition(".")[2] for each in found if each.split(".")[0] == "wanwrap"}


def test_imports_go_down() -> None:
    """From one room into another only if that lies below; on the ground errors alone is imported."""
    for name in TREES:
        room = name.split(".")[0]
        others = {other for other in imports(name) if other.split(".")[0] != room}
        above = {other for other in others if FLOOR[other.split(".")[0]] >= (FLOOR[room] or other == "errors")}
        assert not above, name


def test_nothing_goes_in_circles() -> None:
    """Of what is imported at once."""
    order = [
        *TopologicalSorter({name: imports(name, late=False) for name in TREES}).static_order()
    ]  # raises CycleError
    assert order.index("plan.plan") < order.index("plan.planner")


def test_few_start_programs() -> None:
    found = set[str]()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            words = list[str]()
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                words = [f"{node.value.id}.{node.attr}"]
            elif isinstance(node, ast.ImportFrom):
                words = [f"{node.module}.{each.name}" for each in node.names]
            found |= {name for word in words if re.fullmatch(STARTS, word)}
    assert found == STARTERS


def test_the_planner_touches_no_files() -> None:
    """But wanwrap's own templates."""
    assert not FILES & {node.attr for node in ast.walk(TREES["plan.planner"]) if isinstance(node, ast.Attribute)}
    plan, events, listening = golden_plan("t2v-lightning", precision="bf16"), list[tuple[str, Any]](), [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event.split(".")[0] in ("open", "os", "subprocess", "shutil"):
            events.append((event, arguments[0]))

    sys.addaudithook(hook)  # which can't be taken away
    again = make_plan(plan.request, plan.dataset, plan.weights)
    listening.clear()
    assert again == plan
    assert {(event, Path(place).parent.name) for event, place in events} == {("open", "templates")}
