"""`chatllama score NAME FILE`."""

from __future__ import annotations

from pathlib import Path

import click

from chatllama_pipeline.cli.names import assistant_name


@click.command()
@assistant_name
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", help="Where to write; FILE.scored.json beside it if not given, - for the terminal."
)
@click.option(
    "--rewards", "every", is_flag=True, help="Add what each of config.yaml's rewards says."
)
def score(name: str, file: Path, output: str | None, every: bool) -> None:
    """Score the replies in FILE with an assistant's reward model.

    FILE holds rows with user_input and completion, as reward_training_data.json does (JSON, JSONL,
    CSV or Parquet). It is read, never written: each row comes out with `reward` added, 0 being the
    mean of the replies that the model was trained on and 1 their standard deviation.

    With --rewards own functions are run and a judge is asked, which may cost up to llm.max_usd.
    """
    from chatllama_pipeline.lineage.recipes import read_in_use
    from chatllama_pipeline.serving.scores import (
        STDOUT,
        as_json,
        read_replies,
        summary,
        target_file,
    )
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    assistant = load_assistant(name)
    model = read_in_use("reward_model", assistant, Store(store_root()))
    replies = read_replies(file)
    target = None if output == STDOUT else target_file(file, output)
    # torch and transformers take seconds to import: what is wrong with FILE is told before.
    from chatllama_pipeline.serving.scorer import every_reward, reward_scores

    rewards, warning = reward_scores(model.path, replies)
    terms, warnings = every_reward(assistant, replies, rewards) if every else (None, [])
    text = as_json(replies, rewards, terms)
    if target is None:
        click.echo(text, nl=False)
    else:
        target.write_text(text, encoding="utf-8")
    click.echo(summary(model.id, rewards, target), err=True)
    for told in filter(None, [warning, *warnings]):
        click.echo(f"warning: {told}", err=True)
