"""transformers' continuous batching: requests join and leave a batch token by token.

Its cache of keys and values stands in pages, so that rows of any length share it. What it reads is
right for models of attention alone; `opening` tries whether it is for a model.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from chatllama_pipeline.errors import EngineError
from chatllama_pipeline.machine import free_bytes
from chatllama_pipeline.models.memory.sizes import cached_floats
from chatllama_pipeline.serving.engine.jobs import Job, Listener, Written
from chatllama_pipeline.serving.engine.sampling import Chances, choose

# Tokens in a block of the cache, which is transformers' own number (it has changed its name).
PAGE = 256
# Tokens read in one step: a long prompt is read in parts, between which others go on.
READ_AT_ONCE = 512
# Of the memory that is free once the model is loaded.
CACHE_SHARE = 0.5
NO_STOP = -1
_STOP_SECONDS = 10.0


class PagedEngine:
    """Up to `streams` rows at once of a decoder-only `model`, each `context` tokens at most."""

    name, why = "continuous batching (transformers)", ""

    def __init__(self, model: Any, streams: int, context: int) -> None:
        self._model, self._streams = model, streams
        per_row = ceil(context / PAGE)
        block = PAGE * _bytes_per_token(model)
        affordable = int(CACHE_SHARE * free_bytes(model.device.type)) // block
        # One row must always fit, or it could never be written.
        self._blocks = max(1, min(streams * per_row, affordable))
        self.longest = min(context, self._blocks * PAGE)
        self._chooser = _Chooser()
        self._lock, self._closed = threading.Lock(), False
        self._manager = self._begun()

    def start(self, number: str, job: Job, listen: Listener) -> None:
        # An error may have ended the manager: then the next one takes the job.
        if not (self._taken(number, job, listen) or self._taken(number, job, listen)):
            raise EngineError("the engine takes no request: it is closed, or its thread is stuck")

    def cancel(self, number: str) -> None:
        if number in self._chooser.rows:
            self._manager.cancel_request(number)
            self._forget(self._manager, number)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._manager.stop(block=True, timeout=_STOP_SECONDS, hard_stop=True)

    def _taken(self, number: str, job: Job, listen: Listener) -> bool:
        """Give `job` to the manager; where that takes none, another is begun for the next try."""

        def told(output: Any) -> None:
            over = output.is_finished()
            if over:
                self._chooser.rows.pop(number, None)
            listen(Written(output.generated_tokens, over, output.error or ""))

        manager = self._manager
        self._chooser.rows[number] = Chances(job.sampling)
        manager.register_result_handler(number, told)
        taken = manager.is_running() and manager.add_request(
            list(job.ids),
            request_id=number,
            max_new_tokens=job.most,
            eos_token_id=sorted(job.stops) or NO_STOP,
            streaming=True,
        )
        if not taken:
            self._forget(manager, number)
            self._replace(manager)
        return bool(taken)

    def _forget(self, manager: Any, number: str) -> None:
        """A request that is cancelled hears no end, so that nobody else would forget it."""
        self._chooser.rows.pop(number, None)
        with manager.output_router._lock:
            manager.output_router.result_handlers.pop(number, None)

    def _replace(self, ended: Any) -> None:
        with self._lock:
            if not self._closed and self._manager is ended:
                ended.stop(block=True, timeout=_STOP_SECONDS)
                self._manager = self._begun()

    def _begun(self) -> Any:
        manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=NO_STOP),
            continuous_batching_config=ContinuousBatchingConfig(
                num_blocks=self._blocks,
                max_batch_tokens=READ_AT_ONCE,
                max_requests_per_batch=self._streams,
                # What chooses tokens looks at each request, which a recorded graph can't.
                use_cuda_graph=False,
                use_async_batching=False,
            ),
        )
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self._chooser]))
        processors.tensors_required = 1
        manager.logit_processor = processors
        manager.start()
        return manager


class _Chooser(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Chooses each row's token by the settings of its request, and leaves no other."""

    def __init__(self) -> None:
        self.supported_kwargs: dict[str, type] = {}
        self.ignored_kwargs: tuple[str, ...] = ()
        self.rows: dict[str, Chances] = {}
        self._asked: Sequence[Chances | None] = ()

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        # In the order of the rows that `__call__` is shown next.
        self._asked = [self.rows.get(one.state.request_id) for one in requests_with_new_token]
        return torch.zeros(len(self._asked), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        asked = [(place, row) for place, row in enumerate(self._asked) if row is not None]
        tokens = scores.argmax(-1)  # of those cancelled since, which nobody reads
        if asked:
            places = torch.tensor([place for place, _ in asked], device=scores.device)
            tokens[places] = choose(scores[places], [row for _, row in asked])
        alone = torch.full_like(scores, -torch.inf)
        return alone.scatter(1, tokens[:, None], 0.0)


def _bytes_per_token(model: Any) -> int:
    """What keys and values of one token take over all layers, at most."""
    layers = int(model.config.get_text_config().num_hidden_layers)
    return cached_floats(model.config, layers) * int(model.dtype.itemsize)
