"""How a child ended, in words."""

from __future__ import annotations

import re
import signal

DIED = re.compile(r"died with <Signals\.(\w+)")


def ended(status: int, tail: str) -> str:
    """How a child ended, in words. accelerate turns its child's signal into an exit status of 1."""
    if "out of memory" in tail.lower():
        return "failed: the GPU ran out of memory; raise --blocks_to_swap, or take fewer frames or smaller pictures."
    died = DIED.search(tail)
    name = died[1] if died else signal.Signals(-status).name if status < 0 else None
    if name is None:
        return f"failed with exit status {status}."
    hint = " (usually: out of RAM; close other programs, or swap fewer blocks)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}."
