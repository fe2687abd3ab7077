"""Files that upstream would not read, or not in this precision: key names and types, found from the header."""

from __future__ import annotations

from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.rewrite.engine import Tensor, layout
from wanwrap.rewrite.job import OWN, Job, cast, check_published, worth_hashing
from wanwrap.rewrite.merge import main_dtype, native
from wanwrap.system.safetensors import FLOATS, Row, Source, open_source
from wanwrap.upstream.dit_file import BLOCK, PREFIX, scaled
from wanwrap.weights.models import comfy_t5


def job(*, file: Path, precision: str | None = None, sha256: str | None = None) -> Job:
    """What can be done for this file, whose `sha256` must turn out to be this one.

    Raises:
        WeightsError: nothing can be, or nothing needs to be.
    """
    source = open_source(file)
    return Job(
        source=source,
        tensors=_tensors(source, precision),
        made={"made": "convert", "precision": precision},
        hashed=worth_hashing(source, sha256),
        check=lambda marks: check_published(source, marks, sha256, OWN),
    )


def _tensors(source: Source, precision: str | None) -> list[Tensor]:
    if "shared.weight" in source.rows:
        return _t5(source, precision)
    if BLOCK in source.rows or PREFIX + BLOCK in source.rows:
        return _dit(source, precision)
    if "token_embedding.weight" in source.rows:
        raise WeightsError(f"{source.paths[0]} has Wan's own key names: there is nothing to convert.")
    raise WeightsError(
        f"{source.paths[0]} is neither a Wan DiT nor a UMT5 text encoder in ComfyUI's key names, which is what convert is for."
    )


def _dit(source: Source, precision: str | None) -> list[Tensor]:
    main = main_dtype(source, "another type would not bring them back")
    names = native(source)
    tensors = layout(source, lambda row: Tensor(row, names[row], cast(row.dtype, main, precision)))
    same = all(tensor.name == tensor.row.name and tensor.dtype == tensor.row.dtype for tensor in tensors)
    if same and len(source.paths) == 1:
        wish = f"is {precision} already" if precision else "is as upstream reads it; --precision fp16 or bf16 casts it"
        raise WeightsError(f"{source.paths[0]} {wish}: there is nothing to convert.")
    return tensors


def _t5(source: Source, precision: str | None) -> list[Tensor]:
    """Wan's key names, and unless another type is asked for bf16, in which upstream runs the encoder."""
    path, rows = source.paths[0], source.rows
    if sign := scaled(rows):
        raise WeightsError(
            f"{path} is scaled fp8 (it holds {sign}): what was rounded away would stay lost; "
            "give umt5_xxl_fp16.safetensors, or download models_t5_umt5-xxl-enc-bf16.pth."
        )
    names = comfy_t5({name: row.shape for name, row in rows.items()})
    if names is None or any(rows[name].dtype not in FLOATS for name in names):
        raise WeightsError(f"{path} is no UMT5-XXL as ComfyUI publishes it; take umt5_xxl_fp16.safetensors.")
    wans, main = names, rows["shared.weight"].dtype

    def change(row: Row) -> Tensor | None:
        if row.name not in wans:
            return None
        return Tensor(row, wans[row.name], cast(row.dtype, main, precision or "bf16"))

    return layout(source, change)
