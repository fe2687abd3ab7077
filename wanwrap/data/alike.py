"""Pictures that look the same, whatever their size, format or quality.

A difference hash, with the mean colour beside it. The package dhash does the first half only, calls every flat
picture 0 and takes noise for edges; ImageHash needs scipy and PyWavelets. What is left is shorter than their use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.data.media import SEEN

if TYPE_CHECKING:
    from PIL import Image

SIDE = 8  # of the grid whose neighbours are compared: 56 bits for rows, 56 for columns
EDGE = 2  # of 255: less is the noise of a flat area
SHADES = 64  # of each mean colour, one bit each, so that near ones differ in few bits
BITS = 2 * SIDE * (SIDE - 1) + 3 * SHADES
MOST = 6  # bits between two that are called alike: re-encoded ones are 1 or 2 apart, others 20 and more
# two that are so near share one of these bands of bits, so that only those that do are compared
BANDS = [sum(1 << bit for bit in range(first, BITS, MOST + 1)) for first in range(MOST + 1)]


def look(image: Image.Image) -> int:
    """BITS of which few differ where pictures look the same."""
    from PIL import Image

    rgb = image.convert("RGB")
    rgb.thumbnail((SEEN, SEEN))
    grey = rgb.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()
    rows = [grey[at + 1] > grey[at] + EDGE for at in range(SIDE * SIDE) if (at + 1) % SIDE]
    columns = [grey[at + SIDE] > grey[at] + EDGE for at in range(SIDE * (SIDE - 1))]
    means = rgb.resize((1, 1), Image.Resampling.BOX).tobytes()
    shades = [shade * 256 <= mean * SHADES for mean in means for shade in range(1, SHADES + 1)]
    return sum(bit << at for at, bit in enumerate(rows + columns + shades))


def groups(looks: Mapping[Path, int]) -> list[list[Path]]:
    """Those that look alike: MOST bits apart or fewer, or both alike a third; each group sorted, and all of them."""
    paths, free, found = [*looks], dict(enumerate(looks.values())), list[list[Path]]()
    sharing = [(band, defaultdict[int, list[int]](list)) for band in BANDS]
    for at, bits in free.items():
        for band, table in sharing:
            table[bits & band].append(at)
    while free:
        group = [free.popitem()]
        for _, bits in group:  # which grows
            for band, table in sharing:
                rest = table[bits & band] = [at for at in table[bits & band] if at in free]  # few rounds find a crowd
                group += [(at, free.pop(at)) for at in rest if (bits ^ free[at]).bit_count() <= MOST]
        if len(group) > 1:
            found.append(sorted(paths[at] for at, _ in group))
    return sorted(found)
