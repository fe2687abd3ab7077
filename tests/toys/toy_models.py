"""Makes models out of the tests' toys, so that a DiT of one tensor is one that upstream loads."""

from __future__ import annotations

import dataclasses

from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
from wanwrap.weights.models import MODELS, Model, structure

DITS = tuple(name for name, weight in CATALOGUE.items() if weight.role == "dit" and not name.endswith("-fp8"))
KEY = "blocks.{}.cross_attn.k.weight"
DIT = {KEY.format(0): [4, 4]}
LARGE = {KEY.format(n): [4096, 4096] for n in range(16)}  # takes long enough to be stopped
HUGE = {KEY.format(0): [10**6, 2 * 10**6]}  # for no disk
VAE = {"decoder.conv1.weight": [1], "conv2.weight": [16]}
PARTS = [
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.o",
    "pos_embedding.embedding",
    "norm1",
    "norm2",
    "ffn.gate.0",
    "ffn.fc1",
    "ffn.fc2",
]
T5 = ("token_embedding", "norm", *(f"blocks.0.{part}" for part in PARTS))  # once it is converted

MODELS[structure({f"{name}.weight": [2, 2] for name in T5})] = Model(role="t5", what="a toy", names=("t5",))
for dit in (DIT, LARGE, HUGE):
    MODELS[structure(dit)] = Model(role="dit", what="a toy", names=DITS)
MODELS[structure(VAE)] = Model(role="vae", what="a toy", names=("vae",))
for name, tokenizer in TOKENIZERS.items():  # any bytes do
    TOKENIZERS[name] = dataclasses.replace(tokenizer, files=dict.fromkeys(tokenizer.files))
