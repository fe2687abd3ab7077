"""UMT5 in ComfyUI's key names, and what its tensors are called in Wan's own file, which upstream loads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.system.safetensors import FLOATS, Source
from wanwrap.upstream.dit_file import scaled

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


def wan_names(source: Source) -> dict[str, str | None]:
    """Wan's name of each tensor; None for those that it has no use for.

    Raises:
        WeightsError: scaled, or a T5 of another model.
    """
    path = source.paths[0]
    if sign := scaled(source.rows):
        raise WeightsError(
            f"{path} is scaled fp8 (it holds {sign}): what was rounded away would stay lost; "
            "give umt5_xxl_fp16.safetensors, or download models_t5_umt5-xxl-enc-bf16.pth."
        )
    names = {name: t5_name(name) for name in source.rows}
    dtypes = {name: row.dtype for name, row in source.rows.items()}
    _check_t5(path, {name: new for name, new in names.items() if name not in T5_EXTRA}, dtypes)
    return names


def t5_name(name: str) -> str | None:
    """Wan's name of one of ComfyUI's tensors; None for others."""
    return next((re.sub(old, new, name) for old, new in T5_NAMES.items() if re.fullmatch(old, name)), None)


def _check_t5(path: Path, names: Mapping[str, str | None], dtypes: Mapping[str, str]) -> None:
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
