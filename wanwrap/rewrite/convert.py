"""Files that upstream would not read, or not in this precision: key names and types, found from the header."""

from __future__ import annotations

from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.rewrite.job import Job, Tensor, cast, main_dtype, native_names
from wanwrap.system.safetensors import FLOATS, Row, Source, open_source
from wanwrap.upstream.dit import BLOCK, PREFIX, scaled
from wanwrap.weights.models import comfy_t5

T5 = "shared.weight"  # ComfyUI's name of a text encoder's embedding


def job(*, file: Path, precision: str | None = None, sha256: str | None = None) -> Job:
    """What can be done for this file. A text encoder becomes bf16 by default, in which upstream runs it.

    Raises:
        WeightsError: nothing can be, or nothing needs to be.
    """
    source = open_source(file)
    if T5 in source.rows:
        names, main = _t5_names(source), source.rows[T5].dtype
    elif {BLOCK, PREFIX + BLOCK} & source.rows.keys():
        main, names = main_dtype(source, "another type would not bring them back"), native_names(source)
    else:
        raise WeightsError(
            f"{file} is neither a Wan DiT nor a UMT5 text encoder in ComfyUI's key names, which is what convert is for."
        )
    wanted = precision or ("bf16" if T5 in source.rows else None)
    tensors = [Tensor(row, name, cast(row.dtype, main, wanted)) for row, name in names.items()]
    if len(source.paths) == 1 and all((each.name, each.dtype) == each.row[:2] for each in tensors):
        how = f"is {precision} already" if precision else "is as upstream reads it; --precision fp16 or bf16 casts it"
        raise WeightsError(f"{file} {how}: there is nothing to convert.")
    return Job(source=source, tensors=tensors, made={"made": "convert", "precision": precision}, sha256=sha256)


def _t5_names(source: Source) -> dict[Row, str]:
    """Wan's key names of what upstream reads."""
    path, rows = source.paths[0], source.rows
    if sign := scaled(rows):
        raise WeightsError(
            f"{path} is scaled fp8 (it holds {sign}): what was rounded away would stay lost; "
            "give umt5_xxl_fp16.safetensors, or download models_t5_umt5-xxl-enc-bf16.pth."
        )
    names = comfy_t5({name: row.shape for name, row in rows.items()})
    if names is None or any(rows[name].dtype not in FLOATS for name in names):
        raise WeightsError(f"{path} is no UMT5-XXL as ComfyUI publishes it; take umt5_xxl_fp16.safetensors.")
    return {rows[name]: wans for name, wans in names.items()}
