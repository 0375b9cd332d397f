"""Talk to a release in the terminal."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TextIO

import torch
from transformers.generation import BaseStreamer

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.chat.replies import reply_of, written_text
from chatllama_pipeline.models.chat.template import prompt_ids
from chatllama_pipeline.records import Message, Prompt
from chatllama_pipeline.serving.loaded import load_release
from chatllama_pipeline.serving.release import EXAMPLES_FILE
from chatllama_pipeline.serving.speech import Pieces, Speech

NEW, QUIT = "/new", "/quit"
YOU, ASSISTANT = "you> ", "assistant> "

Say = Callable[[str], None]


class Assistant:
    """A released folder, ready to reply; it samples as its generation config says."""

    def __init__(self, folder: Path) -> None:
        release = load_release(folder)
        self.tokenizer, self.model, self.stops = release.tokenizer, release.model, release.stops
        self.room = release.context - release.max_tokens

    def reply(self, history: Prompt, say: Say) -> str:
        """The reply to `history`, told to `say` in pieces while it is made.

        A history longer than the model's context loses its oldest turns; DataError where even the
        last turn is too long.
        """
        ids = prompt_ids(self.tokenizer, history, self.room, date.today())
        if len(ids) > self.room:
            raise DataError(
                f"your message takes {len(ids)} tokens, this assistant reads {self.room} at most: "
                "shorten it"
            )
        input_ids = torch.tensor([ids], device=self.model.device)
        output = self.model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            streamer=_Streamer(self.tokenizer, self.stops, say),
        )
        # An encoder-decoder's output holds the reply alone, behind its start token.
        start = 1 if self.model.config.is_encoder_decoder else len(ids)
        text = written_text(self.tokenizer, output[0, start:].tolist(), self.stops)
        return reply_of(self.tokenizer, text).reply


class _Streamer(BaseStreamer):  # type: ignore[misc]
    """Hands over the reply's words, as soon as they are whole; its thoughts stay unsaid."""

    def __init__(self, tokenizer: Any, stops: Sequence[int], say: Say) -> None:
        self._speech, self._pieces = Speech(tokenizer, stops), Pieces(say)
        self._ids: list[int] | None = None

    def put(self, value: torch.Tensor) -> None:
        if self._ids is None:  # the prompt
            self._ids = []
            return
        self._ids.append(int(value))
        self._pieces.tell(self._speech.said(self._ids, finished=False).text)

    def end(self) -> None:
        self._pieces.tell(self._speech.said(self._ids or [], finished=True).text)


def chat(
    folder: Path, source: TextIO | None = None, sink: TextIO | None = None, seed: int | None = None
) -> None:
    """Read messages from `source` (stdin) and stream replies to `sink` (stdout) until the end.

    `/new` forgets the conversation; `/quit`, the end of the input and Ctrl-C leave.
    """
    source, sink = source or sys.stdin, sink or sys.stdout

    def say(text: str) -> None:
        sink.write(text)
        sink.flush()

    with contextlib.suppress(KeyboardInterrupt):
        _converse(folder, source, say, seed)
    say("\n")


def chat_once(folder: Path, text: str, seed: int = 0) -> str:
    """The reply to a single message."""
    torch.manual_seed(seed)
    return Assistant(folder).reply([Message("user", text)], lambda piece: None)


def _converse(folder: Path, source: TextIO, say: Say, seed: int | None) -> None:
    assistant = Assistant(folder)
    # torch's own start is the same in every process: without a seed, chats must differ.
    torch.seed() if seed is None else torch.manual_seed(seed)
    say(_greeting(folder))
    history: Prompt = []
    while (text := _ask(source, say)) is not None and text != QUIT:
        if text == NEW:
            history = []
            say("A new conversation.\n")
        elif text:
            asked = [*history, Message("user", text)]
            say(ASSISTANT)
            try:
                history = [*asked, Message("assistant", assistant.reply(asked, say))]
            except DataError as error:
                say(str(error))
            say("\n")


def _greeting(folder: Path) -> str:
    text = f"Type a message. {NEW} starts a new conversation, {QUIT} leaves.\n"
    path = folder / EXAMPLES_FILE
    if path.is_file():
        examples = "".join(f"  {example}\n" for example in json.loads(path.read_text("utf-8")))
        text += f"It knows one small grammar; ask it, for example:\n{examples}"
    return text


def _ask(source: TextIO, say: Say) -> str | None:
    """The next message, stripped; None at the end of the input."""
    if source is sys.stdin and source.isatty():
        try:
            return input(YOU).strip()  # with the terminal's line editing
        except EOFError:
            return None
    say(YOU)
    line = source.readline()
    return line.strip() if line else None
