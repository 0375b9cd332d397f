"""`chatllama completion SHELL`."""

from __future__ import annotations

import click

SCRIPT = "chatllama"
VARIABLE = "_CHATLLAMA_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what SHELL reads to complete commands, options and assistants' names.

    For bash: eval "$(chatllama completion bash)"
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click cannot complete in {shell}")
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, SCRIPT, VARIABLE).source())
