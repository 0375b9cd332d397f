"""`chatllama store copy FROM TO`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--assistant", help="Versions of this assistant, and the public sources they need.")
@click.option("--asset", help="Versions of this asset alone.")
@click.option("--version", help="This version alone; the beginning of its id will do.")
def copy(
    source: str, target: str, assistant: str | None, asset: str | None, version: str | None
) -> None:
    """Copy versions from one store to another, with manifests, history and approvals.

    FROM and TO are folders or URLs. What stands in TO is passed over, and what is in use there
    stays in use: a copy that was killed goes on when it is started again. Exit code 1 where a
    version is damaged.
    """
    from chatllama_pipeline.store.copying.ends import opened, require_apart
    from chatllama_pipeline.store.copying.run import Copied, Wanted
    from chatllama_pipeline.store.copying.run import copy as copied_lines

    require_apart(source, target)
    start, end, counted = opened(source), opened(target), Copied()
    for line in copied_lines(start, end, Wanted(assistant, asset, version), counted):
        click.echo(line)
    for name in sorted(counted.assistants):
        for line in _missing_pins(name, target):
            click.echo(line, err=True)
    told = f"{counted.copied} versions copied, {counted.there} stood there already"
    if counted.damaged:
        click.echo(f"{told}, {counted.damaged} are damaged and were left out")
        sys.exit(1)
    click.echo(told)


def _missing_pins(name: str, target: str) -> Iterator[str]:
    """What an assistant pins and the other store hasn't: nothing can be told of an unknown one."""
    from chatllama_pipeline.errors import ChatllamaError
    from chatllama_pipeline.lineage.recipes import owner_of
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.copying.ends import opened

    try:
        assistant = load_assistant(name)
    except ChatllamaError:
        return
    end = opened(target)
    for asset, version in assistant.settings.store.pins.items():
        if end.manifest(asset, owner_of(asset, assistant), version) is None:
            yield f"{name} pins {asset} to {version}, which {target} hasn't: copy it too"
