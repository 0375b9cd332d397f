"""A local model as a provider: a child process that loads once and answers until it is idle.

    <run folder>/llm/<role>/     spec.json, then per list of requests:
        work-N.jsonl             what is asked, written whole
        answers-N.jsonl          what the child answered, a line each, appended as they come
        done-N                   nothing more will come

The child is `process.py`. It ends with this process, after `IDLE_SECONDS` without work, or when the
client is closed. As a job of a cluster it has a folder of its own below that one, and outlives this
process by those seconds at most.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chatllama_pipeline.errors import ChatllamaError, ChildError, ProviderError, SettingsError
from chatllama_pipeline.launch.child import child_environment, cores_at_hand, run_child
from chatllama_pipeline.llm.client.cache import Asked
from chatllama_pipeline.llm.client.calls import Keeper
from chatllama_pipeline.llm.client.replies import clean
from chatllama_pipeline.llm.client.requests import LlmFailure, LlmReply
from chatllama_pipeline.settings import RoleSettings
from chatllama_pipeline.settings.training.base_model import GGUF_SUFFIX

IDLE_SECONDS = 120.0
SPEC_FILE, ERROR_FILE, LOG_FILE = "spec.json", "error.json", "child.log"

_LOOK_SECONDS = 0.05
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


class Elsewhere(Protocol):
    """Runs a command on another machine that sees this one's folders."""

    def __call__(
        self, command: Sequence[str], spec: Path, refusal: Path, look: Callable[[], None]
    ) -> None:
        """Run `command`, which reads `spec` and says in `refusal` why it refuses, to its end.

        What `look` raises ends it, and is raised.
        """


@dataclass(frozen=True)
class Machine:
    """Where a local model runs; `Compute.machine` gives the one that the resource grants.

    `gpu_fds` hold the lease of its GPU: they stay open in the child. Where there is an `elsewhere`
    the model runs there.
    """

    device: str = "cpu"
    threads: int = field(default_factory=cores_at_hand)
    environment: Mapping[str, str] = field(default_factory=dict)
    gpu_fds: Sequence[int] = ()
    elsewhere: Elsewhere | None = None


def place_of(role: RoleSettings) -> str:
    """What tells a local model apart: its files, or its hub id.

    A folder counts by the names, sizes and times of its files, so that one that was trained on
    is another model. Raises SettingsError where the folder is no language model's.
    """
    folder = Path(role.model).expanduser()
    if role.model.endswith(GGUF_SUFFIX):
        raise SettingsError(
            f"{role.key}.model: {role.model} is a GGUF file, and provider: transformers reads "
            "folders and hub ids: serve the file with llama.cpp and ask it by provider: openai"
        )
    if not folder.is_dir():
        if role.model.startswith(("/", "./", "../", "~")):
            raise SettingsError(f"{role.key}.model: the folder {folder} does not exist")
        return role.model
    _check_folder(folder, f"{role.key}.model")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    told = json.dumps([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _check_folder(folder: Path, key: str) -> None:
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        missing.append("weights (model.safetensors)")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        missing.append("tokenizer (tokenizer.json)")
    if missing:
        raise SettingsError(
            f"{key}: the folder {folder} has no {' and no '.join(missing)}: it is no model; save "
            "model and tokenizer there with save_pretrained"
        )
    architectures = json.loads((folder / "config.json").read_text()).get("architectures") or []
    if any("ForSequenceClassification" in name for name in architectures):
        raise SettingsError(
            f"{key}: the folder {folder} holds a reward model or classifier ({architectures[0]}), "
            "which writes no text; as a term of PPO's reward it can't judge its outcome either"
        )


class LocalBackend:
    """Puts requests to a local model's child process."""

    def __init__(self, role: RoleSettings, machine: Machine, folder: Path) -> None:
        self._role, self._machine, self._home = role, machine, folder
        self._folder = folder
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._closing = False
        self._lists = 0

    def run(self, work: Sequence[Asked], keep: Keeper) -> None:
        """See `client.Backend`."""
        by_key = {asked.key: asked for asked in work}
        left = set(by_key)
        # One that has had nothing to do for long may end just as it gets some.
        for tries_left in (1, 0):
            self._put([asked for asked in work if asked.key in left])
            for answer in self._answers(again=tries_left > 0):
                key = answer.pop("key")
                left.discard(key)
                self._hand_on(by_key[key], answer, keep)
            if not left:
                return

    def _put(self, work: Sequence[Asked]) -> None:
        """Ask for a list of answers."""
        self._start()
        self._lists += 1
        lines = [json.dumps(_told(asked)) for asked in work]
        unfinished = self._folder / f".work-{self._lists}.new"
        unfinished.write_text("\n".join(lines), encoding="utf-8")
        unfinished.replace(self._folder / f"work-{self._lists}.jsonl")

    def _hand_on(self, asked: Asked, answer: dict[str, Any], keep: Keeper) -> None:
        if "reason" in answer:
            keep.failure(asked, LlmFailure(**answer))
            return
        text = clean(answer.pop("text"))
        keep.reply(asked, LlmReply(text=text, cached=False, model=self._role.model, **answer), 0.0)

    def close(self) -> None:
        """End the child, and wait until it is gone."""
        if self._thread is not None:
            self._closing = True
            self._thread.join()
            self._thread = None

    def _answers(self, again: bool) -> Iterator[dict[str, Any]]:
        """The answers to the newest list, as the child writes them.

        Where it ended well before it gave all, there are no more of them if it is asked `again`.
        """
        path, done = (
            self._folder / name for name in (f"answers-{self._lists}.jsonl", f"done-{self._lists}")
        )
        read = 0
        while True:
            # Looked at before the answers: what stands there after it was all.
            finished = done.exists()
            if path.exists():
                with path.open("rb") as file:
                    file.seek(read)
                    new = file.read()
                # A line that is still being written has no end yet.
                whole = new[: new.rfind(b"\n") + 1]
                read += len(whole)
                yield from (json.loads(line) for line in whole.splitlines())
            if finished:
                return
            if self._thread is None or not self._thread.is_alive():
                if again and self._error is None and not (self._folder / ERROR_FILE).exists():
                    return
                self._raise_why()
            time.sleep(_LOOK_SECONDS)

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        # What an earlier job's model still does there, it does for nobody.
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = self._home
        if self._machine.elsewhere is not None:
            self._folder = self._home / uuid.uuid4().hex
            self._folder.mkdir(mode=0o700)
        spec = {
            "key": self._role.key,
            "model": self._role.model,
            "device": self._machine.device,
            "batch_size": self._role.batch_size,
            "idle_seconds": IDLE_SECONDS,
        }
        (self._folder / SPEC_FILE).write_text(json.dumps(spec))
        self._error, self._closing, self._lists = None, False, 0
        # A thread, since run_child waits for its child; a daemon, since the kernel ends the child
        # with it.
        self._thread = threading.Thread(target=self._run_child, daemon=True)
        self._thread.start()

    def _run_child(self) -> None:
        command = [sys.executable, "-m", "chatllama_pipeline.llm.local.process", str(self._folder)]
        environment = {**os.environ, **self._machine.environment}
        try:
            if self._machine.elsewhere is not None:
                spec, refusal = self._folder / SPEC_FILE, self._folder / ERROR_FILE
                self._machine.elsewhere(command, spec, refusal, self._stop_if_closing)
                return
            run_child(
                command,
                env=child_environment(self._machine.threads, environment),
                log=self._folder / LOG_FILE,
                poll=self._stop_if_closing,
                pass_fds=self._machine.gpu_fds,
            )
        except BaseException as error:
            self._error = error

    def _stop_if_closing(self) -> None:
        if self._closing:
            raise ChildError("the local model is no longer needed")

    def _raise_why(self) -> None:
        told = self._folder / ERROR_FILE
        if told.exists():
            raise ProviderError(json.loads(told.read_text())["message"])
        if isinstance(self._error, ChatllamaError):
            raise self._error
        raise ProviderError(
            f"{self._role.key}: the local model {self._role.model} ended without answering all; "
            f"see {self._folder / LOG_FILE}"
        ) from self._error


def _told(asked: Asked) -> dict[str, Any]:
    request = dataclasses.asdict(asked.request)
    messages = [{**m, "content": clean(m["content"])} for m in request["messages"]]
    return {"key": asked.key, **request, "messages": messages}
