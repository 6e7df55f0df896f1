"""The arguments of a model's forward pass, by the names that its version of transformers knows."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""The argument's names for the cache: since transformers 5.24, before that, and in older Mambas."""


class ModelInputs:
    """Builds the arguments of one module's forward pass, chosen by its signature."""

    def __init__(self, module: nn.Module) -> None:
        self._known = inspect.signature(without_adapter(module).forward).parameters
        others = inspect.Parameter.VAR_KEYWORD
        self._takes_others = any(p.kind is others for p in self._known.values())
        # The cache's name among the arguments and in the output.
        self.cache_name = next((n for n in CACHE_NAMES if n in self._known), CACHE_NAMES[0])

    def __call__(
        self,
        ids: Tensor,
        attention: Tensor,
        cache: Any = None,
        *,
        use_cache: bool | None = None,
        logits_to_keep: int | None = None,
    ) -> dict[str, Any]:
        """ids: [B, L]; attention: [B, C + L], with C the number of positions in the cache.

        cache: None: no cache; with use_cache=True one that the model makes itself.
        logits_to_keep: compute logits of this many last positions only, if the model can; None: of
            all.
        """
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        inputs = {
            "attention_mask": attention.long(),
            "position_ids": positions[:, -ids.shape[1] :],
            "use_cache": cache is not None if use_cache is None else use_cache,
        }
        if not self._takes_others:
            inputs = {name: value for name, value in inputs.items() if name in self._known}
        if cache is not None:
            inputs[self.cache_name] = cache
        if logits_to_keep is not None and "logits_to_keep" in self._known:
            inputs["logits_to_keep"] = logits_to_keep
        return {"input_ids": ids, **inputs}


def without_adapter(model: nn.Module) -> Any:
    """The transformers model inside a PeftModel (the adapter's layers are modules of it), or the
    model itself."""
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else inner()
