"""A stand-in for upstream's LoRAs, as they are hooked onto a DiT."""

from __future__ import annotations

from typing import Any


class Network:
    """Remembers what was loaded last, and how strong it is."""

    def __init__(self) -> None:
        self.path, self.enabled, self.multiplier = "", True, 1.0

    def apply_to(self, _: Any, model: Any, __: bool, ___: bool) -> None:
        model.lora = self

    def to(self, *_: Any) -> None: ...

    def requires_grad_(self, _: bool) -> None: ...

    def load_state_dict(self, weights: Any, *, strict: bool) -> None:
        assert strict
        self.path = weights["path"].dtype

    def set_enabled(self, enabled: bool) -> None:
        self.enabled = enabled

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = multiplier


def create_arch_network_from_weights(*_: Any, **__: Any) -> Network:
    return Network()
