"""What is said of tokens before anything is trained, and what stops it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig

from chatllama_pipeline.errors import DataError, SettingsError
from chatllama_pipeline.models.bases import build as base
from chatllama_pipeline.models.bases.preflight import preflight, prompt_room, rows_in_words
from chatllama_pipeline.models.chat.template import CHAT_TEMPLATE, Example
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PROMPT_SCHEMA
from chatllama_pipeline.settings import ActorSettings
from chatllama_pipeline.training.ppo import stage as ppo
from chatllama_pipeline.training.sft import stage as sft
from tests.families.vocabulary import tokenizer_kinds
from tests.models.chat.test_rendering import OPENS_A_THOUGHT, WITHOUT_SYSTEM
from tests.tiny import QUIET


@pytest.fixture
def tokenizer(tiny_base_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base_folder)


@pytest.fixture
def config(tiny_base_folder: Path) -> Any:
    return AutoConfig.from_pretrained(tiny_base_folder)


def test_it_says_template_special_tokens_and_context(tokenizer: Any, config: Any) -> None:
    assert str(preflight(tokenizer, config, "actor_config", 64)) == (
        "our chat template, since the model has none; no BOS, as the model's tokenizer; a reply "
        "ends in '<|end|>'; padded with '<|pad|>'; at most 64 tokens a row "
        "(actor_config.max_sequence_length)"
    )


def test_it_says_when_the_pad_token_is_the_end_token_and_the_template_the_models(
    tokenizer: Any, config: Any
) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.bos_token = "<|user|>"
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE.replace("eos_token", "'<|pad|>'")
    found = preflight(tokenizer, config, "actor_config", 64)
    assert found.template == "the model's own chat template"
    assert found.bos == "one BOS"
    assert found.end == "'<|pad|>' or '<|end|>'"
    assert found.pad == "'<|end|>', the end token, told apart by masks"


@pytest.mark.parametrize(
    ("section", "room"),
    [
        ({"max_sequence_length": 64, "max_tokens": 8}, 56),
        ({"max_sequence_length": 2048, "max_tokens": 100}, 28),
        ({"max_sequence_length": 2048, "max_tokens": 128}, None),
    ],
)
def test_a_prompt_has_what_the_longest_reply_leaves_of_row_and_positions(
    tokenizer: Any, config: Any, section: dict[str, Any], room: int | None
) -> None:
    actor = ActorSettings(**section)
    if room is None:
        said = r"max_tokens 128 leaves no room .* actor's max_position_embeddings 128: set .* 64"
        with pytest.raises(SettingsError, match=said):
            prompt_room({"actor": config}, tokenizer, actor)
    else:
        assert prompt_room({"actor": config}, tokenizer, actor) == room


def test_a_critic_that_reads_less_than_the_actor_limits_both(tokenizer: Any, config: Any) -> None:
    shorter = LlamaConfig(max_position_embeddings=40)
    actor = ActorSettings(max_sequence_length=100, max_tokens=30)
    assert prompt_room({"actor": config, "critic": shorter}, tokenizer, actor) == 10
    actor = ActorSettings(max_sequence_length=100, max_tokens=40)
    with pytest.raises(SettingsError, match="the critic's max_position_embeddings 40"):
        prompt_room({"actor": config, "critic": shorter}, tokenizer, actor)


@pytest.mark.parametrize("stage", ["actor_base", "actor_sft"])
def test_a_reply_as_long_as_the_positions_is_refused_before_anything_is_trained(
    make_spec: Callable[..., StageSpec], tiny_base_folder: Path, stage: str
) -> None:
    section = {"model": str(tiny_base_folder), "max_sequence_length": 2048, "max_tokens": 128}
    inputs = {"actor_base": tiny_base_folder, "actor_training_data": tiny_base_folder}
    spec = make_spec(stage, {"actor_config": section}, inputs)
    with pytest.raises(SettingsError, match="max_tokens 128 leaves no room"):
        {"actor_base": base, "actor_sft": sft}[stage].run(spec, QUIET)


def test_a_row_may_have_no_more_tokens_than_the_model_has_positions(
    tokenizer: Any, config: Any
) -> None:
    found = preflight(tokenizer, config, "actor_config", 2048)
    assert found.context == 128
    assert "max_sequence_length 2048 is more than it has" in found.context_of


def test_rows_that_overflow_are_counted_by_what_became_of_them() -> None:
    examples = [Example([1, 2], 1), Example([1, 2], 1, cut_turns=2)]
    assert rows_in_words(examples, left_out=3) == (
        "2 rows, 1 of them without their oldest turns; 3 too long and left out"
    )


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('no questions') }}", r"refuses a single question \(no questions\)"),
        ("hello {{ eos_token }}", "leaves out what the user says"),
    ],
)
def test_a_template_that_cannot_carry_a_question_stops_it(
    tokenizer: Any, config: Any, template: str, told: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(SettingsError, match=rf"reward_config.model: its chat template {told}"):
        preflight(tokenizer, config, "reward_config", 64)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        # All turns but the last are dropped.
        (
            "{{ '<|user|>' + messages[-1].content + '<|end|>' }}",
            r"leaves out what the user says \('what was asked', of several turns\)",
        ),
        (
            "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}",
            r"leaves out what the assistant says \('what was said', of several turns\)",
        ),
        (
            "{% if messages | length > 2 %}{{ raise_exception('one at a time') }}{% endif %}"
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            r"refuses several turns \(one at a time\)",
        ),
        (
            "{% for m in messages[-6:] %}{{ m.content }}{% endfor %}",
            r"leaves out what the user says \('what was asked, 20 before', of many turns\)",
        ),
        (
            "{% for m in messages %}{{ m.content[:2000] }}{% endfor %}",
            r"cuts what the user says \(of 11,0\d\d characters\)",
        ),
        (
            "{% for m in messages %}{{ m.content[-2000:] }}{% endfor %}",
            r"cuts what the user says \(of 11,0\d\d characters\)",
        ),
    ],
)
def test_a_template_that_loses_one_of_several_turns_stops_it(
    tokenizer: Any, config: Any, template: str, told: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(SettingsError, match=rf"actor_config.model: its chat template {told}: mend"):
        preflight(tokenizer, config, "actor_config", 64)


def test_a_template_that_drops_the_system_turn_is_no_hindrance(tokenizer: Any, config: Any) -> None:
    tokenizer.chat_template = WITHOUT_SYSTEM
    assert preflight(tokenizer, config, "actor_config", 64).warnings == []


@pytest.mark.parametrize(
    ("content", "written"),
    [
        ("m.content | e", "&#34;A&#34; &amp; &lt;b&gt;B&lt;/b&gt;"),
        ("m.content | tojson", r'\\"A'),
        ("m.content | lower", '"a" & <b>b</b>'),
        ("m.content.replace('\n\n', '\n')", r"""makes '\n"A" &"""),
    ],
)
def test_a_template_that_writes_other_letters_than_people_do_is_told_with_both(
    tokenizer: Any, config: Any, content: str, written: str
) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", f"({content})").replace(
        "m.content", "message.content"
    )
    told = preflight(tokenizer, config, "actor_config", 64).warnings[-1]
    assert "rewrites what people say" in told
    assert written in told
    assert "& <b>B</b>" in told


def test_a_thought_that_every_prompt_opens_is_told_with_both_forms(
    tokenizer: Any, config: Any
) -> None:
    tokenizer.chat_template = OPENS_A_THOUGHT
    [warning] = preflight(tokenizer, config, "actor_config", 64).warnings
    assert r"opens a thought ('<think>\n') before every reply" in warning
    assert r"assistant\n<think>\n\n</think>\n\nwhat is said'" in warning
    assert r"assistant\nwhat is said'" in warning


def test_a_reply_that_the_template_writes_with_an_empty_thought_is_told() -> None:
    thinker = tokenizer_kinds.qwen3_thinking()
    found = preflight(thinker, LlamaConfig(vocab_size=400), "actor_config", 64)
    assert r"a reply begins with '<think>\n\n</think>\n\n' and ends in" in str(found)
    assert found.warnings == []


# Mistral's, from v0.3 on: the system's words open the last turn, if that is a user's.
SYSTEM_IN_THE_LAST_TURN = (
    "{% if messages[0].role == 'system' %}{% set rule = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if loop.last and rule is defined %}{{ '[INST] ' + rule + '\n\n' + m.content + ' [/INST]' }}"
    "{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)


def test_a_system_turn_that_comes_last_and_goes_once_it_is_answered_is_told_with_both_forms(
    tokenizer: Any, config: Any
) -> None:
    tokenizer.chat_template = SYSTEM_IN_THE_LAST_TURN
    [warning] = preflight(tokenizer, config, "actor_config", 64).warnings
    assert "writes a talk otherwise once it is answered: a reply is trained behind" in warning
    trained, written = warning.split(", and the template writes ")
    assert r"[INST] what is ruled\n\nwhat is asked [/INST]" in trained
    assert "what is ruled" not in written


def test_a_tokenizer_of_more_ids_than_the_model_embeds_stops_it(tokenizer: Any) -> None:
    with pytest.raises(SettingsError, match=r"the tokenizer has 300 ids, the model .* for 200"):
        preflight(tokenizer, LlamaConfig(vocab_size=200), "actor_config", 64)


def test_a_tokenizer_without_an_end_token_stops_it(tokenizer: Any, config: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(SettingsError, match=r"actor_config.model: the tokenizer names no end"):
        preflight(tokenizer, config, "actor_config", 64)


@pytest.fixture
def short_gpt2(tokenizer: Any, tmp_path: Path) -> Path:
    """A model with twelve learned positions: reading further would be an index error."""
    kind = GPT2Config(vocab_size=304, n_embd=16, n_layer=1, n_head=2, n_positions=12)
    kind.bos_token_id = kind.eos_token_id = 1
    GPT2LMHeadModel(kind).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    return tmp_path / "short"


def rows(texts: list[str], **others: str) -> list[dict[str, Any]]:
    common = {"source": "test", "split": "train", **others}
    return [{"prompt": [{"role": "user", "content": text}], **common} for text in texts]


def test_sft_says_it_all_and_leaves_out_what_the_model_cannot_read(
    short_gpt2: Path, make_spec: Callable[..., StageSpec], write_table: Any, tmp_path: Path
) -> None:
    table = write_table(
        tmp_path / "rows", rows(["alpha", "x" * 40], completion="bravo"), ACTOR_SCHEMA
    )
    settings = {"actor_config": {"model": "local", "max_steps": 1, "batch_size": 1}}
    inputs = {"actor_base": short_gpt2, "actor_training_data": table}
    lines: list[str] = []
    outcome = sft.run(make_spec("actor_sft", settings, inputs), Progress("sft", lines.append))
    told = outcome.metrics["preflight"]
    assert "at most 12 tokens a row (the model's positions" in told
    assert told.endswith("1 rows, 0 of them without their oldest turns; 1 too long and left out")
    assert any(told in line for line in lines)


def test_a_context_shorter_than_the_prompts_stops_sft_and_ppo(
    short_gpt2: Path, make_spec: Callable[..., StageSpec], write_table: Any, tmp_path: Path
) -> None:
    long = ["x" * 40, "y" * 50]
    actor = write_table(tmp_path / "rows", rows(long, completion="bravo"), ACTOR_SCHEMA)
    prompts = write_table(tmp_path / "prompts", rows(long), PROMPT_SCHEMA)
    settings = {"actor_config": {"model": "local", "max_tokens": 4}}
    with pytest.raises(DataError, match=r"none of the 2 train rows fits in 12 tokens"):
        inputs = {"actor_base": short_gpt2, "actor_training_data": actor}
        sft.run(make_spec("actor_sft", settings, inputs), QUIET)
    inputs = {"actor_sft": short_gpt2, "reward_model": short_gpt2, "rlhf_training_data": prompts}
    with pytest.raises(DataError, match=r"none of the 2 train prompts fits in 8 tokens.*lower max"):
        ppo.run(make_spec("actor_ppo", settings, inputs), QUIET)
    too_long = {"actor_config": {"model": "local", "max_tokens": 12}}
    with pytest.raises(
        SettingsError, match=r"max_tokens 12 leaves no room .*position_embeddings 12"
    ):
        ppo.run(make_spec("actor_ppo", too_long, inputs, "b"), QUIET)
