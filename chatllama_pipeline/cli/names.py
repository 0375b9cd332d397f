"""The argument NAME that most commands take."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def _complete(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    from chatllama_pipeline.settings.folder import assistant_names

    return [CompletionItem(name) for name in assistant_names() if name.startswith(begun)]


assistant_name = click.argument("name", shell_complete=_complete)
