"""What a sensor's tick ends with."""

from collections.abc import Sequence

import dagster as dg

KeyRequests = Sequence[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]


def tick_result(
    context: dg.SensorEvaluationContext,
    requests: Sequence[dg.RunRequest],
    reasons: Sequence[str],
    otherwise: str,
    keys: KeyRequests = (),
    cursor: str | None = None,
) -> dg.SensorResult:
    """Requests always go out; the reasons for what isn't asked for stand in the tick's log.

    Dagster takes no reason to skip beside a request. `otherwise` says that there was nothing to do.
    """
    for reason in reasons:
        context.log.info(reason)
    return dg.SensorResult(
        run_requests=list(requests),
        skip_reason=None if requests else "; ".join(reasons) or otherwise,
        dynamic_partitions_requests=list(keys),
        cursor=cursor,
    )
