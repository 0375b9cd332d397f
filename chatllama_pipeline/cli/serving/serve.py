"""`chatllama serve NAME`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatllama_pipeline.cli.names import assistant_name
from chatllama_pipeline.cli.serving.as_job import serve_as_job, told_by_job
from chatllama_pipeline.cli.serving.numbers import Number
from chatllama_pipeline.cli.versions.compare import open_trial

if TYPE_CHECKING:
    from chatllama_pipeline.serving.wanted import Wanted
    from chatllama_pipeline.store.versions import Store

# `ways.WAYS`, which only torch could tell.
ENGINES = ("pytorch", "accelerate", "deepspeed", "offload", "gguf", "vllm")
_GB = 10**9


@click.command()
@assistant_name
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free."
)
@click.option(
    "--version",
    "versions",
    multiple=True,
    metavar="ID[=WEIGHT]",
    help="Serve this version of the release; several share the requests by their weights.",
)
@click.option(
    "--streams", type=click.IntRange(1), default=32, show_default=True, help="Replies at once."
)
@click.option(
    "--queue", type=click.IntRange(0), default=64, show_default=True, help="Requests that may wait."
)
@click.option(
    "--body-bytes", type=click.IntRange(1), default=10**6, show_default=True, help="Longest body."
)
@click.option(
    "--cors", multiple=True, metavar="ORIGIN", help="Let pages of this origin ask; none by default."
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="pytorch",
    show_default=True,
    help="What writes the replies.",
)
@click.option(
    "--memory",
    type=Number(min=0, min_open=True),
    metavar="GB",
    help="Main memory for weights with --engine accelerate or offload; the rest stays on disk.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="With --engine deepspeed: how many share a model; one for each GPU.",
)
@click.option(
    "--nvme",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="With --engine deepspeed: a folder on a fast disk, where weights stand in files.",
)
@click.option(
    "--url",
    "urls",
    multiple=True,
    help="With --engine vllm: where a vLLM runs that holds the release, as http://HOST:PORT/v1.",
)
@click.option("--page", is_flag=True, help="Serve a page to talk and to rate, too.")
@click.option(
    "--compare",
    "compared",
    nargs=2,
    metavar="V1 V2",
    help="With --page: a page for a blind trial of two versions, as `chatllama compare` holds it.",
)
@click.option(
    "--job", is_flag=True, help="Serve on a node of the cluster that CHATLLAMA_COMPUTE names."
)
@click.option("--in-job", is_flag=True, hidden=True)
@click.pass_context
def serve(
    context: click.Context,
    name: str,
    host: str,
    port: int,
    versions: tuple[str, ...],
    streams: int,
    queue: int,
    body_bytes: int,
    cors: tuple[str, ...],
    engine: str,
    memory: float | None,
    processes: int | None,
    nvme: Path | None,
    urls: tuple[str, ...],
    page: bool,
    compared: tuple[str, str] | None,
    job: bool,
    in_job: bool,
) -> None:
    """Serve an assistant's release by an API like OpenAI's.

    The release in use is served, and the next one as soon as it is made, without a pause. Beyond
    loopback the variable CHATLLAMA_API_KEY must hold the key that clients send.
    """
    _require_fitting(context.params)
    from chatllama_pipeline.serving.api.access.place import Limits, open_place
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.feedback import FeedbackLog
    from chatllama_pipeline.store.versions import Store, store_root

    store = Store(store_root())
    wanted = _wanted(name, versions, store)
    wanted()
    if job:
        return serve_as_job(context, name, store.root)
    place = open_place(host, port, cors)
    url, say = told_by_job(place.url) if in_job else (place.url, _say)
    with contextlib.closing(place.listening):
        trial = open_trial(load_assistant(name), store, compared, None) if compared else None
        # torch and transformers take seconds to import: what is missing is told before.
        from chatllama_pipeline.serving.api.running import run
        from chatllama_pipeline.serving.api.versions import Versions
        from chatllama_pipeline.serving.engine.ways import Way

        limit = None if memory is None else int(memory * _GB)
        way = Way(engine, limit, processes, nvme, tuple(url.rstrip("/") for url in urls))
        speaking = Versions(name, wanted, streams, say, way)

        def ready() -> None:
            by = ", ".join(f"{one.id} ({one.engine.name})" for one in speaking.speakers)
            say(f"{name} answers at {url}/v1 by version {by}; Ctrl-C ends it")
            if page:
                say(f"{'rate' if trial else 'talk to it'} at {url}/")

        limits, log = Limits(streams, queue, body_bytes), FeedbackLog(store.root, name)
        run(place, speaking, limits, log, ready, page=page, trial=trial)


def _require_fitting(given: Mapping[str, Any]) -> None:
    """Raise UsageError for options that go with others alone."""
    engine = given["engine"]
    if given["compared"] and not given["page"]:
        raise click.UsageError("--compare is a page: add --page")
    if given["memory"] is not None and engine not in ("accelerate", "offload"):
        raise click.UsageError("--memory goes with --engine accelerate and offload alone")
    if (given["processes"], given["nvme"]) != (None, None) and engine != "deepspeed":
        raise click.UsageError("--processes and --nvme go with --engine deepspeed alone")
    if bool(given["urls"]) != (engine == "vllm"):
        raise click.UsageError("--engine vllm goes with --url, and neither without the other")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _wanted(name: str, versions: Sequence[str], store: Store) -> Callable[[], Sequence[Wanted]]:
    """What tells the versions to serve: those that are named, or always the release in use."""
    from chatllama_pipeline.lineage.recipes import read_in_use, version_in_use
    from chatllama_pipeline.serving.wanted import Wanted, named_versions
    from chatllama_pipeline.settings.folder import load_assistant

    if versions:
        named = named_versions(versions, name, store)
        return lambda: named
    known = [Wanted(read_in_use("release", load_assistant(name), store), 1.0)]

    def in_use() -> Sequence[Wanted]:
        assistant = load_assistant(name)
        current = version_in_use("release", assistant, store)
        # Files are hashed once: a version never changes.
        if current is None or current.id != known[0].version.id:
            known[0] = Wanted(read_in_use("release", assistant, store), 1.0)
        return known

    return in_use
