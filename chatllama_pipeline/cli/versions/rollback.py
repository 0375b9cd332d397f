"""`chatllama rollback NAME [ASSET] [VERSION]`, by the same job that the UI has."""

from __future__ import annotations

import sys

import click

from chatllama_pipeline.cli.names import assistant_name
from chatllama_pipeline.cli.versions.listing import asset_name


@click.command()
@assistant_name
@asset_name
@click.argument("version", required=False)
@click.option("--chain/--alone", help="Also all that the version was made from; public data stay.")
def rollback(name: str, asset: str | None, version: str | None, chain: bool) -> None:
    """Go back to an earlier release, or to VERSION of ASSET, and tell Dagster.

    Without VERSION it is the newest that was in use before. VERSION may be a version's beginning.
    """
    import tempfile
    from pathlib import Path

    import yaml

    from chatllama_pipeline.cli.dagster_runs import job_command, run_dagster
    from chatllama_pipeline.lineage.history.listing import require_asset
    from chatllama_pipeline.lineage.history.rollback import RELEASE, plan_rollback
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    assistant, store = load_assistant(name), Store(store_root())
    asset = require_asset(asset or RELEASE)
    # What can't be is told before Dagster starts.
    moves = plan_rollback(assistant, store, asset, version, chain)
    target = next((move.version.id for move in moves if move.asset == asset), version)
    wanted = {"asset": asset, "version": target, "chain": chain}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "run.yaml"
        config.write_text(
            yaml.safe_dump({"loggers": {"console": {}}, "ops": {"roll_back": {"config": wanted}}})
        )
        if code := run_dagster(job_command("rollback", name, config)):
            sys.exit(code)
