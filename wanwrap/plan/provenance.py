"""What a LoRA was trained on and by, for its own metadata: upstream leaves out what a wrapper must know later.

It goes in as upstream's `--training_comment`; weights/provenance.py reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wanwrap import __version__
from wanwrap.plan.request import Request
from wanwrap.preset import Expert
from wanwrap.upstream.options import Options
from wanwrap.upstream.rules import window
from wanwrap.weights.locate import Located


def provenance(request: Request, expert: Expert, options: Options, weights: Mapping[str, Located]) -> dict[str, Any]:
    """The record of one training; a comment of the user's is kept within."""
    lightning, preset = request.lightning, request.preset
    merged = {**_file(weights[lightning.lora(expert)]), "strength": lightning.strength} if lightning else None
    return {
        "wanwrap": __version__,
        "upstream": {"version": request.upstream.version, "commit": request.upstream.commit},
        "preset": request.called,
        "toy": bool(request.upstream.child),
        "task": preset.task,
        "expert": expert.noise_level,
        "boundary": preset.boundary,
        "timesteps": window(options),
        "preserve_distribution_shape": options.get("preserve_distribution_shape"),
        "fp8": "scaled" if options.get("fp8_scaled") else "base" if options.get("fp8_base") else None,
        "base": _file(weights[expert.dit]),
        "lightning": merged,
        "comment": options.get("training_comment"),
    }


def _file(weight: Located) -> dict[str, Any]:
    """A weight by its name, its size and the best mark that is known without reading all of it."""
    size = weight.size if weight.exists else weight.weight.size if weight.weight else None
    mark = {"sha256": weight.sha256} if weight.sha256 else {"header_sha256": weight.header_sha256}
    row = {"name": weight.path.name, "dtype": weight.dtype, "bytes": size, **mark}
    return {name: value for name, value in row.items() if value}
