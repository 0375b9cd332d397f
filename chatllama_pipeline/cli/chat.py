"""`chatllama chat NAME`."""

from __future__ import annotations

import click

from chatllama_pipeline.cli.names import assistant_name


@click.command()
@assistant_name
def chat(name: str) -> None:
    """Talk to an assistant's release in the terminal."""
    from chatllama_pipeline.lineage.recipes import read_in_use
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    release = read_in_use("release", load_assistant(name), Store(store_root()))
    # torch and transformers take seconds to import: what is missing is told before.
    from chatllama_pipeline.serving.chat import chat as talk

    talk(release.path)
