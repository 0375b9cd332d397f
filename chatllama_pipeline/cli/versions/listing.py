"""`chatllama versions NAME [ASSET]` and `chatllama diff NAME ASSET [A] [B]`."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from chatllama_pipeline.cli.names import assistant_name


def _complete(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    from chatllama_pipeline.lineage.assets import ASSETS

    return [CompletionItem(asset) for asset in ASSETS if asset.startswith(begun)]


asset_name = click.argument("asset", required=False, shell_complete=_complete)


@click.command()
@assistant_name
@asset_name
def versions(name: str, asset: str | None) -> None:
    """Every version of an assistant's assets, or of ASSET: when, why, its price, its use."""
    from chatllama_pipeline.lineage.history.listing import require_asset, used_assets, version_lines
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    assistant, store = load_assistant(name), Store(store_root())
    assets = [require_asset(asset)] if asset else used_assets(assistant)
    for line in version_lines(assistant, store, assets):
        click.echo(line)


@click.command()
@assistant_name
@click.argument("asset", shell_complete=_complete)
@click.argument("before", required=False)
@click.argument("after", required=False)
def diff(name: str, asset: str, before: str | None, after: str | None) -> None:
    """What differs between two versions of ASSET: settings, data, figures, code, upstream.

    BEFORE and AFTER are ids or their beginnings. Without AFTER, the one in use; without both, that
    and the one made before it.
    """
    from chatllama_pipeline.lineage.history.listing import diff_lines, require_asset, two_versions
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    assistant, store = load_assistant(name), Store(store_root())
    pair = two_versions(require_asset(asset), assistant, store, before, after)
    for line in diff_lines(*pair):
        click.echo(line)
