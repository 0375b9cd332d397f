"""A run's time limit ends it for good: what is tried again by itself is a run that was lost.

Dagster's daemon tells the two apart no better than by the run's tags.
"""

import dagster as dg

# Dagster's: how long a run may take, and how often it is tried again.
LIMITS = ("dagster/max_runtime", "dagster/max_runtime_seconds")
RETRIES = "dagster/max_retries"
# Ours, of a run whose retries were taken away here.
LIMITED = "chatllama/limited"


def end_at_the_limit(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Have a run that begins with a limit, and no word on retries, not be tried again."""
    limited = instance.run_monitoring_max_runtime_seconds or any(tag in run.tags for tag in LIMITS)
    if limited and (RETRIES not in run.tags or LIMITED in run.tags):
        instance.add_run_tags(run.run_id, {RETRIES: "0", LIMITED: "true"})


def retry_though_limited(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Undo that for a run that was lost, before it is recorded as failed."""
    if LIMITED in run.tags:
        instance.add_run_tags(run.run_id, {RETRIES: str(instance.run_retries_max_retries)})
