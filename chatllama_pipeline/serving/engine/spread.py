"""A model larger than the memory it may have: Accelerate's map of devices, and files on disk."""

from __future__ import annotations

import tempfile

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
