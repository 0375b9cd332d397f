"""Local models in their child process: decoder-only and encoder-decoder, with and without chat."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from chatllama_pipeline.errors import ProviderError, SettingsError
from chatllama_pipeline.launch.jobs.running import run_job
from chatllama_pipeline.launch.jobs.scheduler import Task
from chatllama_pipeline.llm.client.requests import LlmClient, LlmFailure, LlmReply, LlmRequest
from chatllama_pipeline.llm.clients import open_client
from chatllama_pipeline.llm.local import server
from chatllama_pipeline.llm.local.server import Machine, place_of
from chatllama_pipeline.models.chat.thoughts import spoken
from chatllama_pipeline.records import Message
from chatllama_pipeline.settings import AssistantSettings
from tests.families.every import make
from tests.launch.test_jobs import OneMachine
from tests.waiting import PATIENCE

OpenLocal = Callable[..., LlmClient]


@pytest.fixture(scope="session")
def flan_folder(tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 of one layer, in the hub's format."""
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("tiny_t5")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    tokenizer.chat_template = None
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def open_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenLocal:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))

    def open_(model: Path | str, machine: Machine | None = None, **keys: Any) -> LlmClient:
        settings = AssistantSettings.model_validate(
            {"llm": {"provider": "transformers", "model": str(model), **keys}}
        )
        return open_client(settings.role("writer"), tmp_path / "run", machine=machine)

    return open_


def ask(text: str, **changed: Any) -> LlmRequest:
    return LlmRequest((Message("user", text),), **{"temperature": 1.0, "max_tokens": 6, **changed})


@pytest.fixture
def children() -> Callable[[], list[psutil.Process]]:
    """What a test has started beneath this process, without what ended and nobody asked after."""
    before = psutil.Process().children(recursive=True)

    def started() -> list[psutil.Process]:
        found = psutil.Process().children(recursive=True)
        return [
            child
            for child in found
            if child not in before and child.status() != psutil.STATUS_ZOMBIE
        ]

    return started


def test_a_decoder_answers_all_in_batches_by_one_process_that_ends_with_the_client(
    tiny_base_folder: Path, open_local: OpenLocal, children: Callable[[], list[psutil.Process]]
) -> None:
    asked = [ask("alpha " * number, sample=number) for number in range(1, 8)]
    with open_local(tiny_base_folder, batch_size=3) as client:
        answers = client.answer(asked)
        greedy = client.answer([ask("bravo", temperature=0.0), ask("charlie", temperature=0.0)])
        (child,) = children()
        # The tiny Llama's context is 128.
        alone, too_long = client.answer(
            [ask("charlie", temperature=0.0, sample=1), ask("alpha " * 200)]
        )
        assert children() == [child]
        ledger = client.ledger()
    assert children() == []
    assert all(isinstance(answer, LlmReply) for answer in answers)
    # In the batch it stood behind padding: the text must not depend on that.
    assert greedy[1].text == alone.text  # type: ignore[union-attr]
    # <|user|> alpha ... : the template's marks and each word's tokens, one word more each time.
    grown = [answer.prompt_tokens for answer in answers]  # type: ignore[union-attr]
    assert grown == sorted(grown) and len(set(grown)) == 7
    assert isinstance(too_long, LlmFailure)
    assert (too_long.reason, too_long.retryable) == ("prompt_too_long", False)
    assert "the model's context is 128" in too_long.detail
    assert (ledger.calls, ledger.failed, ledger.usd) == (10, 1, 0.0)
    with open_local(tiny_base_folder) as again:
        assert [a.text for a in again.answer(asked)] == [a.text for a in answers]  # type: ignore[union-attr]
        assert again.ledger().cached == 7
        # What is cached needs no process.
        assert children() == []


def as_jobs(scheduler: OneMachine, after: Callable[[], None] = lambda: None) -> Machine:
    """Where a model runs as a job of `scheduler`; its end is heard of `after` a while."""

    def run(command: Sequence[str], spec: Path, refusal: Path, look: Callable[[], None]) -> None:
        log = spec.with_name("child.log")
        task = Task("llm", command, spec, log, refusal, lambda: None, lambda: True)
        run_job(task, scheduler, say=lambda line: None, stop_seconds=0.0, look=look)
        after()

    return Machine("cpu", elsewhere=run)


def test_a_model_that_is_a_job_answers_and_ends_with_the_client(
    tiny_base_folder: Path, open_local: OpenLocal, children: Callable[[], list[psutil.Process]]
) -> None:
    scheduler = OneMachine()
    asked = [ask("alpha", temperature=0.0), ask("bravo", temperature=0.0)]
    with open_local(tiny_base_folder, as_jobs(scheduler)) as client:
        answers = client.answer(asked)
        assert len(scheduler.jobs) == 1
    assert children() == [] and scheduler.jobs == {}
    alone = answers_of(tiny_base_folder, *asked)
    assert [a.text for a in answers] == [one["text"] for one in alone]  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_model_that_ended_unheard_is_started_again_for_what_it_was_asked_last(
    tiny_base_folder: Path, open_local: OpenLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.5)
    ended, heard = threading.Event(), threading.Event()

    def after() -> None:
        ended.set()
        assert heard.wait(PATIENCE)

    scheduler = OneMachine()
    with open_local(tiny_base_folder, as_jobs(scheduler, after)) as client:
        assert isinstance(client.answer([ask("alpha")])[0], LlmReply)
        assert ended.wait(PATIENCE)
        monkeypatch.setattr(server, "IDLE_SECONDS", 120.0)
        threading.Timer(0.2, heard.set).start()
        assert isinstance(client.answer([ask("bravo")])[0], LlmReply)
    assert len(scheduler.started) == 2


def answers_of(folder: Path, *requests: LlmRequest) -> list[dict[str, Any]]:
    """What the child process would answer; how it is asked and heard is the same for each model."""
    from chatllama_pipeline.llm.local.process import LocalModel

    model = LocalModel(str(folder), "cpu", batch_size=4, key="llm.writer")
    asked = [{"key": str(n), **dataclasses.asdict(one)} for n, one in enumerate(requests)]
    return list(model.answer(asked))


def test_an_encoder_decoder_answers_too(flan_folder: Path) -> None:
    requests = [ask("alpha bravo"), ask("golf", temperature=0.0)]
    one, two = answers_of(flan_folder, *requests)
    assert one.keys() == two.keys() >= {"text", "finish_reason"}
    assert 1 <= two["completion_tokens"] <= 6


def test_a_model_answers_whatever_its_config_has_switched_on(tmp_path: Path) -> None:
    source = make("mixtral", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    turned = {"output_router_logits": True, "return_dict": False, "output_hidden_states": True}
    (source / "config.json").write_text(json.dumps({**config, **turned}))
    (reply,) = answers_of(source, ask("alpha"))
    assert reply["completion_tokens"] >= 1


def test_a_model_that_was_trained_on_is_another_one(tiny_base_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base_folder, tmp_path / "model")
    settings = AssistantSettings.model_validate(
        {"llm": {"provider": "transformers", "model": str(folder)}}
    )
    before = place_of(settings.role("judge"))
    assert place_of(settings.role("judge")) == before
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert place_of(settings.role("judge")) != before


def test_a_folder_that_is_no_model_is_told_before_anything_starts(
    tiny_base_folder: Path, open_local: OpenLocal, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"llm\.model: the folder .*/gone does not exist"):
        open_local(tmp_path / "gone")
    with pytest.raises(SettingsError, match=r"llm\.model: .*a\.gguf is a GGUF file.*llama\.cpp"):
        open_local(tmp_path / "a.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"has no config\.json and no weights .* and no tok"):
        open_local(tmp_path / "empty")
    (tmp_path / "store").mkdir(exist_ok=True)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_reward_model_can_be_no_judge(
    tiny_base_folder: Path, open_local: OpenLocal, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_base_folder, tmp_path / "reward")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]})
    )
    with pytest.raises(SettingsError, match=r"as a term of PPO's reward it can't judge"):
        open_local(folder)


@pytest.mark.parametrize(
    "is_job", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "as a job"]
)
def test_weights_that_cannot_be_loaded_are_told_by_the_child(
    tiny_base_folder: Path, open_local: OpenLocal, tmp_path: Path, is_job: bool
) -> None:
    folder = shutil.copytree(tiny_base_folder, tmp_path / "broken")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-model"}))
    with (
        open_local(folder, as_jobs(OneMachine()) if is_job else None) as client,
        pytest.raises(ProviderError, match=r"llm\.model: .*/broken could not be loaded"),
    ):
        client.answer([ask("alpha")])


def test_marks_of_thoughts_that_are_special_tokens_are_kept_for_who_reads_the_reply(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    from chatllama_pipeline.llm.local.process import LocalModel

    model = LocalModel(str(tiny_base_folder), "cpu", 1, "llm.judge")
    tokenizer = model._tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})

    def text(written: str) -> str:
        return model._text(tokenizer.encode(written, add_special_tokens=False))

    thoughtful = text("<think> alpha </think> bravo")
    assert spoken(thoughtful).reply.strip() == "bravo"
    assert not spoken(text("<think> alpha")).finished
    assert text(f"bravo {tokenizer.eos_token}").strip() == "bravo"


@pytest.mark.parametrize("family", ["rwkv", "openai-gpt"])
def test_a_family_that_decodes_in_a_manner_of_its_own_answers_in_a_batch_as_alone(
    family: str, tmp_path: Path
) -> None:
    """RWKV is disturbed by padding before a row, and GPT's cache is of no use."""
    source = make(family, tmp_path / "source")
    texts = ["alpha", "alpha bravo charlie delta echo foxtrot", "kilo lima"]
    requests = [ask(text, temperature=0.0) for text in texts]
    together = {reply["key"]: reply["text"] for reply in answers_of(source, *requests)}
    alone = [greedy(source, request) for request in requests]
    assert [together[str(number)] for number in range(3)] == alone


def greedy(folder: Path, request: LlmRequest) -> str:
    """The likeliest reply by plain forwards on the whole row, one for each token."""
    import torch

    from chatllama_pipeline.llm.local.process import LocalModel

    local = LocalModel(str(folder), "cpu", batch_size=1, key="llm.writer")
    prompt = local._prompt({"key": "", **dataclasses.asdict(request)})
    said: list[int] = []
    with torch.no_grad():
        while len(said) < request.max_tokens and not {*said} & {*local._stops}:
            logits = local._model(
                input_ids=torch.tensor([prompt.ids + said]), use_cache=False
            ).logits
            said.append(int(logits[0, -1].argmax()))
    text: str = local._reply(prompt, said)["text"]
    return text
