"""`chatllama approve NAME`."""

from __future__ import annotations

import click

from chatllama_pipeline.cli.names import assistant_name


@click.command()
@assistant_name
def approve(name: str) -> None:
    """Release an assistant that the gate held back: a person's word for its evaluation.

    With release.judge: people it takes a blind trial that the candidate won.
    """
    import getpass

    from chatllama_pipeline.errors import CheckError
    from chatllama_pipeline.lineage.recipes import read_in_use
    from chatllama_pipeline.lineage.status import make_command
    from chatllama_pipeline.lineage.trials import missing_of_people
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.approvals import accept
    from chatllama_pipeline.store.approvals import approve as write_approval
    from chatllama_pipeline.store.versions import Store, store_root

    assistant, store = load_assistant(name), Store(store_root())
    evaluation = read_in_use("evaluation", assistant, store)
    candidate = evaluation.manifest.upstream[assistant.settings.release.stage]
    if missing := missing_of_people(assistant, store, candidate):
        raise CheckError(f"not approved: {missing}")
    write_approval(store.root, assistant.name, evaluation.id, by=getpass.getuser())
    accept(store.root, assistant.name, candidate)
    click.echo(f"approved evaluation {evaluation.id} of {name}; now make the release with")
    click.echo(f"  {make_command(name, 'release')}")
