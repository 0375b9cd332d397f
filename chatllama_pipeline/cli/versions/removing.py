"""`chatllama prune [NAME]` and `chatllama forget NAME`."""

from __future__ import annotations

import sys

import click

from chatllama_pipeline.cli.names import assistant_name


@click.command()
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@click.option("--keep-versions", type=click.IntRange(min=1), help="Instead of store.keep_versions.")
@click.option("--keep-days", type=click.IntRange(min=0), help="Instead of store.keep_days.")
@click.option(
    "--runs-days",
    type=click.IntRange(min=0),
    metavar="DAYS",
    help="Instead of versions: Dagster's runs that ended so many days ago.",
)
def prune(
    name: str | None,
    dry_run: bool,
    keep_versions: int | None,
    keep_days: int | None,
    runs_days: int | None,
) -> None:
    """Remove old versions of NAME, or of all assistants and of the public sources.

    What is in use, pinned, released, or upstream of those stays.
    """
    if runs_days is not None:
        if name is not None or keep_versions is not None or keep_days is not None:
            raise click.UsageError("--runs-days goes alone or with --dry-run: it is of all runs")
        sys.exit(_prune_runs(runs_days, dry_run))
    from chatllama_pipeline.lineage.history.retention import prune_lines
    from chatllama_pipeline.settings.folder import assistant_names, load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    names = assistant_names()
    if name is not None:
        names = [load_assistant(name).name]
    store = Store(store_root())
    sources = name is None
    for line in prune_lines(names, store, keep_versions, keep_days, dry_run, sources):
        click.echo(line)


def _prune_runs(days: int, dry_run: bool) -> int:
    from chatllama_pipeline.cli.dagster_runs import module_command, run_dagster

    module = "chatllama_pipeline.automation.removing.old_runs"
    arguments = [str(days), *(["--dry-run"] if dry_run else [])]
    return run_dagster(module_command(module, *arguments))


@click.command()
@assistant_name
@click.option("--folder", is_flag=True, help="Also its folder: config.yaml and your own data.")
@click.option("--yes", is_flag=True, help="Without asking.")
def forget(name: str, folder: bool, yes: bool) -> None:
    """Remove an assistant's data, models, logs, answers and runs; tell what stays, and why."""
    from chatllama_pipeline.cli.dagster_runs import module_command, run_dagster
    from chatllama_pipeline.lineage.history.forgetting import require_known, what_goes
    from chatllama_pipeline.store.versions import store_root

    require_known(name, store_root())
    if not yes:
        for path in what_goes(name, store_root(), folder):
            click.echo(path)
        click.confirm(f"Remove all this, and the runs of {name}, for good?", abort=True)
    module = "chatllama_pipeline.automation.removing.forgetting"
    sys.exit(run_dagster(module_command(module, name, *(["--folder"] if folder else []))))
