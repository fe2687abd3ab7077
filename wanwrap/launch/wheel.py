"""This wanwrap as a wheel, made of its own files without a network, so that both sides are one version."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from wanwrap import __version__
from wanwrap.errors import PackageError
from wanwrap.paths import PACKAGE, folder, upstream_flags
from wanwrap.system.files import atomic_file

NAME = f"wanwrap-{__version__}-py3-none-any.whl"
INFO = f"wanwrap-{__version__}.dist-info"
WHEEL = "Wheel-Version: 1.0\nGenerator: wanwrap\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
ENTRY = "[console_scripts]\nwanwrap = wanwrap.cli.main:main\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files make the same wheel, which need not be sent again


def write(place: Path) -> Path:
    """The wheel in that folder.

    Raises:
        PackageError: this wanwrap is no installed package, so that nobody knows what it needs.
    """
    try:
        about = metadata.distribution("wanwrap").read_text("METADATA")
    except metadata.PackageNotFoundError:
        about = None
    if not about:
        raise PackageError(
            "wanwrap is run from a folder and not installed, so that it can't be sent; install it: pip install ."
        )
    files = {**dict(_files()), f"{INFO}/METADATA": about.encode(), f"{INFO}/WHEEL": WHEEL.encode()}
    files[f"{INFO}/entry_points.txt"] = ENTRY.encode()
    record = "".join(f"{name},sha256={_mark(content)},{len(content)}\n" for name, content in files.items())
    files[f"{INFO}/RECORD"] = f"{record}{INFO}/RECORD,,\n".encode()
    place.mkdir(parents=True, exist_ok=True)
    with atomic_file(place / NAME) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return place / NAME


def _files() -> Iterator[tuple[str, bytes]]:
    """What is installed, by its place there: presets and templates lie beside the code in a checkout, and in it else."""
    roots = {"wanwrap": PACKAGE, "wanwrap/presets": folder("presets"), "wanwrap/templates": folder("templates")}
    found = dict[str, Path]()
    for name, root in roots.items():
        for path in root.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[f"{name}/{path.relative_to(root).as_posix()}"] = path
    found["wanwrap/templates/upstream_flags.json"] = upstream_flags()
    return ((name, path.read_bytes()) for name, path in sorted(found.items()))


def _mark(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
