"""Room on a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import grow

from wanwrap.errors import OutputError
from wanwrap.system.disk import SPARE, lacking, large, writable


def test_bytes_as_a_person_reads_them() -> None:
    assert [large(count) for count in (0, 99_940_000, 100_000_000, 28_577_095_592)] == [
        "0.0 MB",
        "99.9 MB",
        "0.1 GB",
        "28.6 GB",
    ]


def test_what_is_lacking(tmp_path: Path) -> None:
    """Something is kept spare, and what an attempt has left counts as free."""
    free = shutil.disk_usage(tmp_path).free
    assert lacking(tmp_path / "not" / "yet", free // 2) is None
    assert "--base_dir" in str(lacking(tmp_path, free + SPARE))
    (tmp_path / "out.wanwrap-part").touch()
    grow(tmp_path / "out.wanwrap-part", free)
    assert lacking(tmp_path, free + SPARE, [tmp_path / "out"]) is None


def test_no_place_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        writable(tmp_path / "file" / "below")
    assert writable(tmp_path / "not" / "yet") == tmp_path
