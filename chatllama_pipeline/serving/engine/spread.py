"""A model larger than the memory it may have: Accelerate's map of devices, and files on disk."""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor
from transformers import DynamicCache

from chatllama_pipeline.models.families.cached import Cached
from chatllama_pipeline.models.families.decoding import Decoding
from chatllama_pipeline.serving.engine.waves import WavesEngine
from chatllama_pipeline.serving.loaded import Loaded


class SpreadEngine(WavesEngine):
    """Decodes in the model's own manner, layers coming from wherever they stand."""

    name = "layers in memory and on disk (Accelerate)"

    def __init__(
        self, release: Loaded, streams: int, overflow: tempfile.TemporaryDirectory[str]
    ) -> None:
        self._overflow = overflow
        # Its first layer brings the ids to where it stands, its last the logits back.
        super().__init__(
            release.model, release.tokenizer.pad_token_id, streams, release.context, "cpu"
        )

    def close(self) -> None:
        super().close()
        self._overflow.cleanup()


class OffloadEngine(SpreadEngine):
    """The same for the most tokens a second: each reading of the layers writes for all rows.

    Waves would each read them again for a token: so one wave is written at a time. On a GPU its
    keys and values stand in main memory, but for the layer that computes.
    """

    name = "layers elsewhere, one wave at a time (Accelerate, transformers' offloaded cache)"
    one_at_a_time = True

    def _decoding(self, ids: Tensor, mask: Tensor, columns: int) -> Decoding:
        growing = super()._decoding(ids, mask, columns)
        if isinstance(growing, Cached) and torch.cuda.is_available():
            growing.cache = DynamicCache(config=growing.model.config, offloading=True)
        return growing
