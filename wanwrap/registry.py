"""The presets there are: one module each in `presets/`, or a file of the user's own."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from wanwrap.errors import OptionError, PresetError, closest
from wanwrap.paths import absolute, folder
from wanwrap.preset import Clips, Expert, Lightning, Pictures, Preset


def name_of(path: Path) -> str:
    """The preset's name: `wan21_t2v_1_3b.py` is wan21-t2v-1.3b."""
    return re.sub(r"(?<=\d)_(?=\d)", ".", path.stem).replace("_", "-")


def shipped() -> dict[str, Path]:
    """The presets that come with wanwrap, by name."""
    return {name_of(path): path for path in sorted(folder("presets").glob("[!_]*.py"))}


def path_of(name: str) -> Path:
    """The file of a preset: the shipped one of that name, or the user's own (`./mine.py`).

    Raises:
        PresetError: there is none.
    """
    if name.endswith(".py"):
        return absolute(name)
    presets = shipped()
    if name not in presets:
        own = f" Did you mean ./{name}.py?" if Path(f"{name}.py").is_file() else closest(name, presets)
        raise PresetError(
            f"there is no preset {name!r}.{own} `wanwrap presets` lists them; a file of your own must end in .py."
        )
    return presets[name]


def load(name: str) -> Preset:
    """The preset of that name, or the one in the user's own file.

    Raises:
        PresetError: there is none, or its file does not hold together.
    """
    path = path_of(name)
    if not path.is_file():
        raise PresetError(f"there is no preset file {path}.")
    if not re.fullmatch(r"\w[\w.-]*", path.stem):
        raise PresetError(f"{path.name}: a preset is named after its file; use letters, digits and _.")
    spec = importlib.util.spec_from_file_location(f"wanwrap_preset_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # it is the user's own code
        raise PresetError(f"{path.name}: {_mended(error)}") from error
    preset = getattr(module, "preset", None)
    if not isinstance(preset, Preset):
        raise PresetError(f"{path.name} must define `preset = Preset(...)`; `wanwrap show NAME --source` is a pattern.")
    object.__setattr__(preset, "name", name_of(path))
    object.__setattr__(preset, "doc", (module.__doc__ or "").strip())
    return preset


def _mended(error: BaseException) -> str:
    """The error with the field that was probably meant."""
    field_name = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}."
    if isinstance(error, (PresetError, OptionError)):
        return str(error)
    if not field_name:
        return f"{type(error).__name__}: {error}."
    known = {name for kind in (Preset, Expert, Pictures, Clips, Lightning) for name in kind.__dataclass_fields__}
    return f"there is no field {field_name[1]!r}.{closest(field_name[1], known)}"
