"""What base, SFT and PPO model still know: questions with known answers, asked alike."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from chatllama_pipeline.evaluation.replies import answer
from chatllama_pipeline.models.bases.preflight import prompt_room
from chatllama_pipeline.models.chat.template import prompt_ids
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec, user_prompt
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.known_questions import (
    KnownAnswers,
    KnownQuestion,
    read_known_questions,
)

MODELS = ("actor_base", "actor_sft", "actor_ppo")
KNOWN_FILE = "known_answers.jsonl"
# So cold that the likeliest token is drawn.
GREEDY = 1e-6


def ask_known_questions(
    spec: StageSpec, settings: AssistantSettings, progress: Progress
) -> KnownAnswers | None:
    """Ask each model the questions of `evaluation.known_answers`, greedily; None without any.

    Writes `known_answers.jsonl`: a question a line, with every model's reply and whether it is
    right.
    """
    if settings.evaluation.known_answers is None:
        return None
    file = Path(settings.evaluation.known_answers)
    questions = read_known_questions(file, "evaluation.known_answers")
    progress.say(f"base, SFT and PPO model answer {len(questions)} questions with known answers")
    replies = {model: _replies(spec, settings, model, questions) for model in MODELS}
    right = {
        model: [known.is_answered(text) for known, text in zip(questions, texts, strict=True)]
        for model, texts in replies.items()
    }
    with (Path(spec.output) / KNOWN_FILE).open("w", encoding="utf-8") as lines:
        for row, known in enumerate(questions):
            told = {
                model: {"reply": replies[model][row], "right": right[model][row]}
                for model in MODELS
            }
            content = {"question": known.question, "accepted": known.accepted, **told}
            lines.write(json.dumps(content, ensure_ascii=False) + "\n")
    return KnownAnswers.count(*(right[model] for model in MODELS))


def _replies(
    spec: StageSpec, settings: AssistantSettings, model: str, questions: list[KnownQuestion]
) -> list[str]:
    """A model's likeliest reply to each question."""
    folder = spec.inputs[model]
    tokenizer = load_tokenizer(folder)
    actor = load_actor(folder, torch.float32).to(spec.device)
    room = prompt_room({"actor": actor.config}, tokenizer, settings.actor_config)
    prompts = [prompt_ids(tokenizer, user_prompt(known.question), room) for known in questions]
    replies = answer(
        actor,
        tokenizer,
        prompts,
        max_new_tokens=settings.actor_config.max_tokens,
        temperature=GREEDY,
        seed=0,
    )
    return [reply.text for reply in replies]
