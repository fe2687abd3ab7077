"""Pictures that look the same, whatever their size, format or quality.

A difference hash, with the mean colour beside it. The package dhash does the first half only, calls every flat
picture 0 and takes noise for edges; ImageHash needs scipy and PyWavelets. What is left is shorter than their use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from wanwrap.data.media import SEEN

if TYPE_CHECKING:
    from _typeshed import SupportsRichComparison
    from PIL import Image

K = TypeVar("K", bound="SupportsRichComparison")

SIDE = 8  # of the grid whose neighbours are compared: 56 bits for rows, 56 for columns
EDGE = 2  # of 255: less is the noise of a flat area
SHADES = 64  # of each mean colour, one bit each, so that near ones differ in few bits
BITS = 2 * SIDE * (SIDE - 1) + 3 * SHADES
MOST = 6  # bits between two that are called alike: re-encoded ones are 1 or 2 apart, others 20 and more


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


def groups(looks: Mapping[K, int], most: int = MOST) -> list[list[K]]:
    """Those that look alike: `most` bits apart or fewer, or both alike a third; each group sorted, and all of them."""
    # of most + 1 bands of bits two near looks share one, so only those that share one are compared
    bands = [sum(1 << bit for bit in range(band, BITS, most + 1)) for band in range(most + 1)]
    tables = [(mask, defaultdict[int, list[int]](list)) for mask in bands]
    keys, seen = [*looks], [*looks.values()]
    for at, bits in enumerate(seen):
        for mask, table in tables:
            table[bits & mask].append(at)
    found, free = list[list[K]](), set(range(len(keys)))
    while free:
        group = [free.pop()]
        for at in group:  # which grows
            for mask, table in tables:
                band = seen[at] & mask
                table[band] = [other for other in table[band] if other in free]
                near = [other for other in table[band] if (seen[at] ^ seen[other]).bit_count() <= most]
                group += near
                free.difference_update(near)  # a crowd is found in few rounds
        found.append(sorted(keys[at] for at in group))
    return sorted(group for group in found if len(group) > 1)
