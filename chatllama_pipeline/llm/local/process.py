"""`python -m chatllama_pipeline.llm.local.process FOLDER`: the child process of `local.py`.

Loads a decoder-only or encoder-decoder model (Flan-T5) and answers lists of requests, in batches of
prompts of like length.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from chatllama_pipeline.errors import ChatllamaError, SettingsError
from chatllama_pipeline.launch.source import require_same_source
from chatllama_pipeline.llm.client.openai_calls import completion_prompt
from chatllama_pipeline.llm.client.requests import LlmRequest
from chatllama_pipeline.llm.local.server import ERROR_FILE, SPEC_FILE
from chatllama_pipeline.models.chat.rendering import reply_form
from chatllama_pipeline.models.chat.template import (
    ensure_chat_template,
    prompt_ids,
    stop_ids,
    text_ids,
)
from chatllama_pipeline.models.chat.thoughts import spoken
from chatllama_pipeline.models.families.kinds import Kind, kind_of
from chatllama_pipeline.models.families.recorded import same
from chatllama_pipeline.models.families.switches import set_switches
from chatllama_pipeline.models.generation import end_ids, generate_plainly
from chatllama_pipeline.models.loading import as_they_are
from chatllama_pipeline.models.positions import longest_row
from chatllama_pipeline.models.probe.base import probe_writer
from chatllama_pipeline.models.probe.failure import Failure
from chatllama_pipeline.models.probe.rows import probe_rows
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.records import Message

_LOOK_SECONDS = 0.05
_NO_LIMIT = 10**9


@dataclass(frozen=True)
class _Prompt:
    key: str
    request: LlmRequest
    ids: list[int]


def main(argv: list[str]) -> int:
    """Serve the folder `argv[0]` until nobody asks any more; returns the exit code."""
    folder = Path(argv[0])
    spec = json.loads((folder / SPEC_FILE).read_text())
    quiet_transformers()
    try:
        require_same_source()
        model = LocalModel(spec["model"], spec["device"], spec["batch_size"], spec["key"])
        _serve(model, folder, spec["idle_seconds"])
    except ChatllamaError as error:
        (folder / ERROR_FILE).write_text(json.dumps({"message": str(error)}))
        return 2
    return 0


def _serve(model: LocalModel, folder: Path, idle_seconds: float) -> None:
    number, since = 1, time.monotonic()
    while time.monotonic() - since < idle_seconds:
        work = folder / f"work-{number}.jsonl"
        if not work.exists():
            time.sleep(_LOOK_SECONDS)
            continue
        asked = [json.loads(line) for line in work.read_text(encoding="utf-8").splitlines()]
        with (folder / f"answers-{number}.jsonl").open("w", encoding="utf-8") as answers:
            for answer in model.answer(asked):
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
        (folder / f"done-{number}").touch()
        number, since = number + 1, time.monotonic()


class LocalModel:
    """A model with its tokenizer. Raises SettingsError, naming `key`, where it can't be loaded."""

    def __init__(self, name: str, device: str, batch_size: int, key: str) -> None:
        self._device, self._batch_size = device, batch_size
        try:
            config = set_switches(AutoConfig.from_pretrained(name))
            if kind_of(config) is Kind.ENCODER:
                raise ValueError(f"{config.model_type} is an encoder, which writes no text")
            self._seq2seq = kind_of(config) is Kind.ENCODER_DECODER
            kind = AutoModelForSeq2SeqLM if self._seq2seq else AutoModelForCausalLM
            self._tokenizer: Any = as_they_are(AutoTokenizer.from_pretrained(name))
            # Half precision is slow on CPUs, and some operations lack it there.
            dtype = torch.float32 if device == "cpu" else "auto"
            model = kind.from_pretrained(name, config=config, dtype=dtype)
            self._model: Any = model.to(device).eval()
        except (OSError, ValueError, KeyError) as error:
            raise SettingsError(
                f"{key}.model: {name} could not be loaded ({str(error).splitlines()[0]}); give a "
                "local folder with a causal or encoder-decoder language model, or a hub id"
            ) from error
        self._chats = self._seq2seq or self._tokenizer.chat_template is not None
        ensure_chat_template(self._tokenizer, config)
        self._context = longest_row(config, self._tokenizer) or _NO_LIMIT
        stops = stop_ids(self._tokenizer) if self._chats else []
        generate_plainly(self._model, self._tokenizer, stops)
        self._stops = end_ids([], self._model)
        self._probe(f"{key}.model: {name}")
        # A thought that the prompt begins is part of what the model says.
        self._begun = reply_form(self._tokenizer).opened if self._chats else ""

    def _probe(self, named: str) -> None:
        """Find out whether the model's cache is of use; rows that it can't pad are read alone."""
        try:
            manner = probe_writer(self._model, self._tokenizer)
        except Failure as failure:
            raise SettingsError(f"{named} {failure}; name another model") from failure
        except Exception as error:  # a family's own code may fail in any way
            raise SettingsError(
                f"{named} can't be run on a few ordinary tokens ({type(error).__name__}: {error}); "
                "name another model"
            ) from error
        self._cached = manner.steps != "whole"
        rows = probe_rows(self._tokenizer, self._model.config.get_text_config().vocab_size).prompts
        together = self._first_logits(rows)
        alone = torch.cat([self._first_logits([row]) for row in rows])
        if not all(map(same, together, alone)):
            self._batch_size = 1

    def _first_logits(self, rows: list[list[int]]) -> torch.Tensor:
        """The logits `[B,V]` of what is written behind each row first."""
        told = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
        logits: torch.Tensor = self._written(rows, **told).logits[0]
        return logits

    def answer(self, asked: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """An answer per request, as JSON data, in the order in which they are ready."""
        groups: dict[tuple[float, int], list[_Prompt]] = {}
        for one in asked:
            prompt = self._prompt(one)
            request = prompt.request
            read, written = len(prompt.ids), request.max_tokens
            # The two halves of an encoder-decoder count their positions apart.
            if (max(read, written) if self._seq2seq else read + written) > self._context:
                told = (
                    f"{read} tokens and {written} for the reply, "
                    f"the model's context is {self._context}"
                )
                yield _failure(prompt, "prompt_too_long", told)
            else:
                groups.setdefault((request.temperature, request.max_tokens), []).append(prompt)
        for prompts in groups.values():
            # The longest first: what doesn't fit into memory shows at once.
            prompts.sort(key=lambda prompt: len(prompt.ids), reverse=True)
            for start in range(0, len(prompts), self._batch_size):
                yield from self._batch(prompts[start : start + self._batch_size])

    def _prompt(self, one: dict[str, Any]) -> _Prompt:
        key = one.pop("key")
        messages = tuple(Message(**message) for message in one.pop("messages"))
        request = LlmRequest(messages=messages, **one)
        if self._chats:
            return _Prompt(key, request, prompt_ids(self._tokenizer, list(messages), _NO_LIMIT))
        ids = text_ids(self._tokenizer, completion_prompt(request), goes_on=True)
        return _Prompt(key, request, ids)

    def _batch(self, prompts: list[_Prompt]) -> Iterator[dict[str, Any]]:
        try:
            yield from self._generate(prompts)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if len(prompts) == 1:
                yield _failure(prompts[0], "out_of_memory", str(error))
                return
            half = len(prompts) // 2
            yield from self._batch(prompts[:half])
            yield from self._batch(prompts[half:])

    def _generate(self, prompts: list[_Prompt]) -> list[dict[str, Any]]:
        request = prompts[0].request
        sampled: dict[str, Any] = {}
        if request.temperature > 0:
            sampled = {"do_sample": True, "temperature": request.temperature}
            sampled |= {"top_k": 0, "top_p": 1.0}
        torch.manual_seed(_seed(prompts))
        rows = [prompt.ids for prompt in prompts]
        generated = self._written(rows, max_new_tokens=request.max_tokens, **sampled)
        # A decoder repeats its prompt; a seq2seq model begins with its start token.
        begun = 1 if self._seq2seq else max(map(len, rows))
        new = generated[:, begun:].tolist()
        return [self._reply(prompt, ids) for prompt, ids in zip(prompts, new, strict=True)]

    @torch.inference_mode()
    def _written(self, rows: list[list[int]], **asked: Any) -> Any:
        """What `generate` makes of rows side by side."""
        width, pad = max(map(len, rows)), self._tokenizer.pad_token_id
        counts, places = torch.tensor([len(row) for row in rows])[:, None], torch.arange(width)
        # An encoder takes padding anywhere; a decoder goes on where its prompt ends, on the right.
        if self._seq2seq:
            ids, mask = [row + [pad] * (width - len(row)) for row in rows], places < counts
        else:
            ids, mask = [[pad] * (width - len(row)) + row for row in rows], places >= width - counts
        return self._model.generate(
            input_ids=torch.tensor(ids).to(self._device),
            attention_mask=mask.long().to(self._device),
            use_cache=self._cached,
            **{"do_sample": False, **asked},
        )

    def _reply(self, prompt: _Prompt, ids: list[int]) -> dict[str, Any]:
        end = next((place for place, token in enumerate(ids) if token in self._stops), None)
        return {
            "key": prompt.key,
            "text": self._begun + self._text(ids[:end]).strip(),
            "finish_reason": "length" if end is None else "stop",
            "prompt_tokens": len(prompt.ids),
            "completion_tokens": len(ids) if end is None else end + 1,
        }

    def _text(self, ids: list[int]) -> str:
        """The text of a reply; the marks of a thought stay, though they may be special tokens."""
        marked = str(self._tokenizer.decode(ids, skip_special_tokens=False))
        found = spoken(marked)
        if found.thought or not found.finished:
            return marked
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _seed(prompts: Sequence[_Prompt]) -> int:
    """The same requests in the same batch draw the same replies."""
    told = json.dumps([[prompt.key, prompt.request.seed] for prompt in prompts])
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:4], "big")


def _failure(prompt: _Prompt, reason: str, detail: str) -> dict[str, Any]:
    return {"key": prompt.key, "reason": reason, "detail": detail, "retryable": False}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
