"""What a training is made of: two that agree in all of it are one, and the second goes on where the first stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wanwrap.data.caches import WHAT, names
from wanwrap.data.dataset import Dataset
from wanwrap.plan.plan import Step
from wanwrap.upstream.options import Value
from wanwrap.weights.locate import digest

# How upstream works, saves and tells, not what it trains: these may change from one start to the next.
HARMLESS = {
    "save_every_n_epochs",
    "save_last_n_epochs",
    "save_precision",
    "blocks_to_swap",
    "use_pinned_memory_for_block_swap",
    "block_swap_h2d_only",
    "block_swap_ring_size",
    "sdpa",
    "xformers",
    "flash_attn",
    "flash3",
    "split_attn",
    "gradient_checkpointing",
    "gradient_checkpointing_cpu_offload",
    "disable_numpy_memmap",
    "max_data_loader_n_workers",
    "persistent_data_loader_workers",
    "vae",
    "t5",
    "clip",
    "fp8_t5",
    "vae_dtype",
    "vae_cache_cpu",
    "sample_prompts",
    "sample_every_n_epochs",
    "sample_every_n_steps",
    "sample_at_first",
    "no_metadata",
    "training_comment",
    "save_state",
    "save_state_on_train_end",
    "ddp_timeout",
    "ddp_gradient_as_bucket_view",
    "ddp_static_graph",
    "cuda_allow_tf32",
    "cuda_cudnn_benchmark",
    "async_upload",
}
PREFIXES = ("compile", "dynamo_", "log_", "wandb_", "metadata_", "huggingface_")
ENCODERS = "the VAE, the text encoder or CLIP"
DATA = "the data set (its files, captions, buckets or repeats)"


def settings(step: Step, dataset: Dataset) -> dict[str, Any]:
    """All that matters of a training, by upstream's names, as JSON keeps it."""
    assert step.recipe and step.training
    options = {
        name: [*map(str, value)] if isinstance(value, tuple | list) else _text(value)
        for name, value in step.recipe.options.items()
        if value is not None and value is not False and name not in HARMLESS and not name.startswith(PREFIXES)
    }
    made_of = {"the base model": step.training.base, ENCODERS: step.training.encoders}
    rest = {**made_of, "steps": step.recipe.steps, "epochs": step.recipe.epochs}
    return {**options, **rest, DATA: _mark(dataset)}


def _mark(dataset: Dataset) -> str:
    """A hash of what is trained: contents, captions, windows and sizes of all files, in no order."""
    entries = [
        digest(
            sorted((name, value) for name, value in entry.options.items() if not name.endswith("_directory")),
            *sorted(str(row) for what in WHAT for row in names(entry, what)),
        )
        for entry in dataset.entries
    ]
    return digest(*sorted(entries))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is another one now, a line each."""
    for name in dict.fromkeys((*before, *now)):
        was, is_ = before.get(name), now.get(name)
        if was != is_ and name in (DATA, ENCODERS, "the base model"):
            yield f"{name}: another one"
        elif was != is_:
            yield f"{name}: {_said(was)} -> {_said(is_)}"


def _text(value: Value) -> str:
    """A number is the same however it is written."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _said(value: Any) -> str:
    return "-" if value is None else " ".join(value) if isinstance(value, list) else str(value)
