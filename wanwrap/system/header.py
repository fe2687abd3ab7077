"""The header of a safetensors file: standard library, milliseconds, no torch."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from wanwrap.errors import WeightsError

MOST = 100_000_000  # bytes of JSON; safetensors' own limit


def read(path: Path) -> dict[str, Any]:
    """The header: `{"blocks.0...": {"dtype": "F16", "shape": [..], "data_offsets": [a, b]}, ...}`.

    Raises:
        WeightsError: not a safetensors file, or shorter than its own header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MOST, size):
                raise ValueError("its header would be larger than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        end = max((row["data_offsets"][1] for key, row in header.items() if key != "__metadata__"), default=0)
        if size >= 8 + length + end and not all(type(text) is str for text in header.get("__metadata__", {}).values()):
            raise ValueError("its metadata are no texts")
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {os.strerror(error.errno or 0)}.") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}); get it again.") from error
    if size < 8 + length + end:
        raise WeightsError(f"{path} is cut off: {size:,} of {8 + length + end:,} bytes are there; get it again.")
    return header
