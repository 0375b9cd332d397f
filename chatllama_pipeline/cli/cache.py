"""`chatllama cache`: look into the answers that models gave, and prune them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from chatllama_pipeline.llm.client.cache import AnswerCache

_DAY_SECONDS = 86400


def _open() -> AnswerCache:
    from chatllama_pipeline.errors import AbsentError
    from chatllama_pipeline.llm.client.cache import AnswerCache, cache_file
    from chatllama_pipeline.store.versions import store_root

    path = cache_file(store_root())
    if not path.exists():
        raise AbsentError(f"{path} does not exist: no model was asked from this store yet")
    return AnswerCache(path)


@click.group()
def cache() -> None:
    """The answers of language models that are kept, so that none is paid twice."""


@cache.command()
@click.option("--rows", default=0, help="Also print so many of the newest requests and replies.")
@click.option("--model", help="Only this model's.")
def show(rows: int, model: str | None) -> None:
    """How many answers are kept per model, with their tokens and what they cost."""
    import json
    from datetime import UTC, datetime

    answers = _open()
    size = answers.path.stat().st_size / 1e6
    click.echo(f"{answers.path}  {size:.1f} MB")
    for kept in answers.by_model():
        if model in (None, kept.model):
            used = datetime.fromtimestamp(kept.last_used, UTC)
            place = kept.place if kept.provider == "openai" else "local"
            click.echo(
                f"{kept.model} ({place}): {kept.answers} answers, {kept.prompt_tokens} + "
                f"{kept.completion_tokens} tokens, {kept.usd:.4f} US dollars, last used "
                f"{used:%Y-%m-%d}"
            )
    for sample in answers.sample(rows, model):
        click.echo(json.dumps(sample, ensure_ascii=False))
    answers.close()


@cache.command()
@click.option("--unused-days", type=float, required=True, help="Remove what nobody used so long.")
@click.option("--model", help="Only this model's.")
def prune(unused_days: float, model: str | None) -> None:
    """Remove answers; what needs one again will ask and pay for it again."""
    import time

    unused_since = time.time() - unused_days * _DAY_SECONDS
    answers = _open()
    removed = answers.prune(unused_since, model)
    click.echo(f"removed {removed} answers from {answers.path}")
    answers.close()
