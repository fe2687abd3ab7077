"""Files that upstream would not read, or not in this precision: key names and types, found from the header."""

from __future__ import annotations

import re
from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.rewrite.engine import Tensor, layout
from wanwrap.rewrite.job import OWN, Job, cast, check_published, worth_hashing
from wanwrap.rewrite.merge import main_dtype, native
from wanwrap.system.header import BLOCK, PREFIX, scaled
from wanwrap.system.safetensors import FLOATS, Row, Source, open_source

# UMT5 as transformers and ComfyUI name it -> as Wan does (the names that upstream's strict loading wants).
T5_NAMES = {
    r"shared\.weight": "token_embedding.weight",
    r"encoder\.final_layer_norm\.weight": "norm.weight",
    r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.weight": r"blocks.\1.attn.\2.weight",
    r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.weight": r"blocks.\1.pos_embedding.embedding.weight",
    r"encoder\.block\.(\d+)\.layer\.0\.layer_norm\.weight": r"blocks.\1.norm1.weight",
    r"encoder\.block\.(\d+)\.layer\.1\.layer_norm\.weight": r"blocks.\1.norm2.weight",
    r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.weight": r"blocks.\1.ffn.gate.0.weight",
    r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.weight": r"blocks.\1.ffn.fc1.weight",
    r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.weight": r"blocks.\1.ffn.fc2.weight",
}
T5_EXTRA = {"spiece_model", "encoder.embed_tokens.weight"}  # the tokenizer, and the embedding once more
T5_BLOCK = 10  # tensors: q k v o, positions, two norms, gate and two linears


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
    path = source.paths[0]
    if sign := scaled(source.rows):
        raise WeightsError(
            f"{path} is scaled fp8 (it holds {sign}): what was rounded away would stay lost; "
            "give umt5_xxl_fp16.safetensors, or download models_t5_umt5-xxl-enc-bf16.pth."
        )
    names = {name: t5_name(name) for name in source.rows}
    dtypes = {name: row.dtype for name, row in source.rows.items()}
    _check_t5(path, {name: new for name, new in names.items() if name not in T5_EXTRA}, dtypes)
    main = source.rows["shared.weight"].dtype

    def change(row: Row) -> Tensor | None:
        name = names[row.name]
        return Tensor(row, name, cast(row.dtype, main, precision or "bf16")) if name else None

    return layout(source, change)


def t5_name(name: str) -> str | None:
    """Wan's name of one of ComfyUI's tensors; None for others."""
    return next((re.sub(old, new, name) for old, new in T5_NAMES.items() if re.fullmatch(old, name)), None)


def _check_t5(path: Path, names: dict[str, str | None], dtypes: dict[str, str]) -> None:
    """Raises WeightsError: a T5 of another model, or with tensors too many or too few."""
    blocks = {found[1] for name in names if (found := re.match(r"encoder\.block\.(\d+)\.", name))}
    tables = [name for name in names if name.endswith("relative_attention_bias.weight")]
    if len(tables) < len(blocks):
        raise WeightsError(
            f"{path} is a T5 of another model: UMT5 has a table of positions in each block; get UMT5-XXL."
        )
    strange = [name for name, new in names.items() if new is None or dtypes[name] not in FLOATS]
    if strange or len(names) != 2 + T5_BLOCK * len(blocks):
        why = (
            f"it holds {strange[0]} as {dtypes[strange[0]]}"
            if strange
            else f"{len(names)} tensors for {len(blocks)} blocks"
        )
        raise WeightsError(
            f"{path} is no UMT5 encoder as ComfyUI publishes it ({why}); take umt5_xxl_fp16.safetensors."
        )
