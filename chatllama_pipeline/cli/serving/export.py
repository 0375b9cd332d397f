"""`chatllama export NAME`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatllama_pipeline.cli.names import assistant_name
from chatllama_pipeline.cli.serving.numbers import Number
from chatllama_pipeline.cli.serving.releases import asked_release

if TYPE_CHECKING:
    from chatllama_pipeline.serving.gguf.probes import Probe
    from chatllama_pipeline.settings.folder import Assistant
    from chatllama_pipeline.store.manifests import Version
    from chatllama_pipeline.store.versions import Store

# `export.KINDS`, which only torch could tell.
KINDS = ("f16", "q8_0", "q4_k_m")
DEFAULT_KINDS = ("q8_0",)


@click.command()
@assistant_name
@click.option(
    "--gguf",
    "kinds",
    type=click.Choice(KINDS),
    multiple=True,
    help="The numbers of a file; give it again for another. release.gguf's, else q8_0.",
)
@click.option(
    "--to", "target", type=click.Path(path_type=Path), required=True, help="The folder to write to."
)
@click.option("--version", help="This version of the release, in place of the one in use.")
@click.option(
    "--min-agreement",
    type=Number(0, 1),
    help="In place of checks.min_gguf_agreement: of the next tokens, the share that must be the "
    "full model's own.",
)
@click.option("--judge", is_flag=True, help="Let an LLM judge too, which may cost llm.max_usd.")
def export(
    name: str,
    kinds: tuple[str, ...],
    target: Path,
    version: str | None,
    min_agreement: float | None,
    judge: bool,
) -> None:
    """Write an assistant's release as GGUF, with an Ollama Modelfile.

    Each file is run on the evaluation's test prompts first, beside the full model; what reads or
    answers otherwise is not written. A judge that costs nothing compares the replies.
    """
    from chatllama_pipeline.models.bases.exportable import converter_folder
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    assistant, store = load_assistant(name), Store(store_root())
    converter_folder("chatllama export")
    release = asked_release(assistant, store, version)
    probes = _probes(assistant, store, release)
    # torch and transformers take seconds to import: what is missing is told before.
    from chatllama_pipeline.llm.providers import open_judge
    from chatllama_pipeline.llm.templates import load_templates
    from chatllama_pipeline.progress import Progress
    from chatllama_pipeline.serving.gguf.export import export as write
    from chatllama_pipeline.store.manifests import RUNS

    role = assistant.settings.role("evaluation_judge")
    if role.asks_a_model and not judge:
        role = dataclasses.replace(role, provider="none")
    progress = Progress("export", lambda line: click.echo(line, err=True))
    run_folder = store.root / RUNS / "export" / name / release.id
    template = load_templates(assistant.folder)["reward"]
    least = assistant.settings.checks.min_gguf_agreement
    with open_judge(role, template, run_folder) as asked:
        write(
            release.path,
            name,
            list(dict.fromkeys(kinds or assistant.settings.release.gguf or DEFAULT_KINDS)),
            probes,
            target,
            floor=least if min_agreement is None else min_agreement,
            judge=asked,
            progress=progress,
        )


def _probes(assistant: Assistant, store: Store, release: Version) -> list[Probe]:
    """The test prompts that the release was evaluated on; those of the evaluation in use where
    that version is gone. The replies to them are those of the released stage."""
    from chatllama_pipeline.lineage.recipes import read_in_use
    from chatllama_pipeline.serving.gguf.probes import evaluated

    number = release.manifest.upstream.get("evaluation")
    found = number and store.version("evaluation", assistant.name, number)
    evaluation = found or read_in_use("evaluation", assistant, store)
    stage = str(release.manifest.metrics.get("stage", assistant.settings.release.stage))
    return evaluated(evaluation.path, stage)
