"""`chatllama publish NAME HUB_ID`."""

from __future__ import annotations

from pathlib import Path

import click

from chatllama_pipeline.cli.names import assistant_name
from chatllama_pipeline.cli.serving.releases import asked_release

SHOWN_FILES = 5


@click.command()
@assistant_name
@click.argument("hub_id")
@click.option("--public", is_flag=True, help="Let everybody read a repository that this makes.")
@click.option("--version", help="This version of the release, in place of the one in use.")
@click.option(
    "--gguf",
    "exported",
    type=click.Path(path_type=Path),
    help="A folder that `chatllama export` wrote, to go with it.",
)
@click.option("--yes", is_flag=True, help="Replace what stands there without asking.")
def publish(
    name: str, hub_id: str, public: bool, version: str | None, exported: Path | None, yes: bool
) -> None:
    """Put an assistant's release on Hugging Face's hub, as HUB_ID (`me/my-assistant`).

    A repository that this makes is private. What stands in one that there is, is replaced, which
    is asked for first.
    """
    from chatllama_pipeline.serving.hub import Hub, files_to_send
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    release = asked_release(load_assistant(name), Store(store_root()), version)
    named = [file.path for file in release.manifest.files]
    files = files_to_send(release.path, named, exported)
    hub = Hub()
    target = hub.look(hub_id)
    if target.taken and not yes:
        shown = ", ".join(target.taken[:SHOWN_FILES])
        more = ", ..." if len(target.taken) > SHOWN_FILES else ""
        question = f"{hub_id} holds {len(target.taken)} files ({shown}{more}). Replace them"
        click.confirm(question, abort=True, err=True)
    if public and target.files is not None and target.private:
        click.echo(f"warning: {hub_id} stays private: --public is for new ones", err=True)
    message = f"{name}, version {release.id}"
    click.echo(hub.send(files, target, message, private=not public))
