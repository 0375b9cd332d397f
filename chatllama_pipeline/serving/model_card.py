"""The model card of a release: what it is, what it learnt from, how it did, where it ends."""

from __future__ import annotations

from pathlib import Path

from chatllama_pipeline.evaluation.figures import ActorFigures, Evaluation, Figures
from chatllama_pipeline.settings import SCRATCH, AssistantSettings
from chatllama_pipeline.settings.training.methods import FROM_ROWS

SOURCES = {
    "grammar": "`grammar`: templated conversations, written by this project's embedded grammar",
    "hh_rlhf": "`hh_rlhf`: [Anthropic/hh-rlhf](https://huggingface.co/datasets/Anthropic/hh-rlhf), "
    "human preferences on helpful and harmless replies",
    "shp": "`shp`: [stanfordnlp/SHP](https://huggingface.co/datasets/stanfordnlp/SHP), "
    "replies on Reddit with their votes",
}

HEAD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- chatllama
- rlhf
---
"""

USE = """\
from transformers import pipeline

chat = pipeline("text-generation", "path/to/this/folder")
print(chat([{"role": "user", "content": "Hello!"}])[0]["generated_text"][-1]["content"])"""
# transformers has no pipeline for models that read with an encoder.
ENCODER_DECODER_USE = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
asked = [{"role": "user", "content": "Hello!"}]
ids = tokenizer.apply_chat_template(
    asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(tokenizer.decode(model.generate(**ids)[0], skip_special_tokens=True))"""

# Of training and this project's own chat it holds without a word.
TEXT_IS_TEXT = """\
It was trained to read what people write as text, spellings of control tokens included. Where
strangers write to it, apply the chat template with `sanitize_control_tokens=True` (transformers
from 5.23 on)."""


def model_card(
    assistant: str, settings: AssistantSettings, evaluation: Evaluation, *, is_encoder_decoder: bool
) -> str:
    """`README.md` of a release, as Hugging Face's hub reads it."""
    parts = [
        HEAD + f"# {assistant}",
        _what(settings),
        "## Use\n\n```python\n" + (ENCODER_DECODER_USE if is_encoder_decoder else USE) + "\n```",
        TEXT_IS_TEXT,
        "## Data\n\n" + _data(settings),
        "## Evaluation\n\n" + _evaluation(evaluation),
        "## Limits\n\n" + _limits(settings),
    ]
    return "\n\n".join(parts) + "\n"


def _what(settings: AssistantSettings) -> str:
    actor, ppo = settings.actor_config, settings.trainer_config
    made = (
        f"a Llama of {actor.scratch_layers} layers, made from scratch"
        if actor.model == SCRATCH
        else f"made from `{_called(actor.model)}`"
    )
    stages = "fine-tuned on conversations (SFT)"
    if settings.release.stage == "actor_ppo" and settings.improve_by in FROM_ROWS:
        learned_from = {"dpo": "preference pairs", "kto": "thumbs"}[settings.improve_by]
        stages += f", then improved by {learned_from} ({settings.improve_by.upper()})"
    elif settings.release.stage == "actor_ppo" and settings.improve_by == "best_of_n":
        n = settings.best_of_n_config.replies_per_prompt
        stages += f", then fine-tuned on the best of {n} replies of its own to each prompt"
    elif settings.release.stage == "actor_ppo":
        stages += (
            f", then improved by reinforcement learning ({settings.improve_by.upper()}, "
            f"{ppo.iterations} iterations of {ppo.prompts_per_iteration} prompts) against a reward "
            "model"
        )
    return f"A personal assistant, {made}; {stages}. Seed {settings.seed}."


def _called(model: str) -> str:
    """A hub id, or the name of a folder or file: where it stands is nobody's business."""
    return Path(model).name if Path(model).is_absolute() else model


def _data(settings: AssistantSettings) -> str:
    lines = [SOURCES[name] for name in settings.data.sources]
    lines.append("the assistant's own datasets, where it has any")
    llm = settings.llm
    if llm.synthetic_conversations + llm.synthetic_prompts + llm.synthetic_completions:
        lines.append(f"synthetic rows, written by the provider `{llm.provider}`")
    text = "\n".join(f"- {line}" for line in lines)
    if settings.data.label_noise:
        share = f"{settings.data.label_noise:.0%}"
        text += f"\n\nThe labels of {share} of the preference pairs were flipped on purpose."
    return text


def _evaluation(evaluation: Evaluation) -> str:
    figures, verdict = evaluation.figures, evaluation.verdict
    before, after = figures.actor_sft, figures.actor_ppo
    rows = [
        f"| {name} | {_shown(_at(before, key))} | {_shown(_at(after, key))} |"
        for name, key in (
            ("rubric score, 0 to 1", "rubric_score"),
            ("names the item asked about", "names_item"),
            ("reward", "reward"),
            ("length in tokens", "reply_tokens"),
            ("share finished", "share_finished"),
        )
    ]
    table = "\n".join(["| mean of a reply | SFT | PPO |", "|---|---|---|", *rows])
    lines = [
        f"On {figures.prompts} test prompts that no training has seen:",
        table,
        f"Win rate of PPO over SFT {_shown(figures.win_rate)} (95 % interval "
        f"{_shown(figures.win_rate_low)} to {_shown(figures.win_rate_high)}); KL "
        f"{_shown(figures.kl)} nats per reply{_reward_model(figures)}.",
        *([f"Questions with known answers: {known}."] if (known := figures.known_answers) else []),
        f"The gate released it: {verdict.reason}."
        if verdict.released
        else f"Released on a person's approval. The gate had held it back: {verdict.reason}.",
    ]
    return "\n\n".join(lines)


def _reward_model(figures: Figures) -> str:
    if figures.actor_ppo.reward is None:
        return ""  # nobody was paid by one
    accuracy = _shown(figures.reward_model_accuracy)
    return f"; the reward model is right on {accuracy} of {figures.reward_model_pairs} unseen pairs"


def _limits(settings: AssistantSettings) -> str:
    toy = settings.actor_config.model == SCRATCH or "grammar" in settings.data.sources
    if toy:
        return (
            "This is a toy. It was made to show that the whole chain from data to a released "
            "assistant works and learns: it answers questions of one small grammar, mixes up items "
            "and advice in part of its replies, and knows nothing of the world. Use it for nothing "
            "but trying the pipeline."
        )
    return (
        "Its replies can be wrong, biased or harmful: the figures above say how it does on prompts "
        "like those it was trained on, and nothing of others. The base model's and the datasets' "
        "licences hold for it too."
    )


def _at(figures: ActorFigures, key: str) -> float | None:
    value: float | None = getattr(figures, key)
    return value


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
