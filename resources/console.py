"""What a person reads in the terminal: a short line per thing said, and why a run failed, once."""

import functools
import io
import logging
import os
import sys
import weakref

import dagster as dg

from resources.refusals import Refused

STEP_FAILURE = dg.DagsterEventType.STEP_FAILURE.value
RUN_FAILURE = dg.DagsterEventType.RUN_FAILURE.value
RUN_CANCELED = dg.DagsterEventType.RUN_CANCELED.value
STOPPED = "was stopped: the same command continues it"
FOR_PEOPLE = (STEP_FAILURE, RUN_FAILURE, RUN_CANCELED)
# Dagster's words for each step after a failed one, which says enough itself, and for each child.
NOT_FOR_PEOPLE = ("Dependencies for step", "[pipes] external process")


@dg.logger(
    config_schema={"log_level": dg.Field(str, default_value="INFO")},
    description="Messages, failures and nothing else; everything stands in Dagster's event log.",
)
def console_logger(init_context: dg.InitLoggerContext) -> logging.Logger:
    """The logger `console`: at log level DEBUG it shows every event of Dagster too."""
    level = str(init_context.logger_config["log_level"]).upper()
    logger = logging.Logger("chatllama", level)
    handler = _terminal()
    handler.setFormatter(_Lines(_failures(init_context.run_id)))
    if logger.level > logging.DEBUG:
        handler.addFilter(_is_for_people)
    logger.addHandler(handler)
    return logger


def _terminal() -> logging.Handler:
    """Writes to the stderr of now, past Dagster's capture of it while steps run.

    There Dagster lets a `tail` copy a file back to the terminal and kills it when the steps end,
    so that the last lines, why a step failed among them, were not always shown
    (dagster-io/dagster#23336).
    """
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except io.UnsupportedOperation:  # not a file: a test or a notebook looks on
        return logging.StreamHandler(sys.stderr)
    stream = os.fdopen(descriptor, "w", encoding=sys.stderr.encoding, errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    weakref.finalize(handler, stream.close)
    return handler


def _is_for_people(record: logging.LogRecord) -> bool:
    event = getattr(record, "dagster_event", None)
    if event is None:
        return not _said(record).startswith(NOT_FOR_PEOPLE)
    return event.event_type_value in FOR_PEOPLE


def _said(record: logging.LogRecord) -> str:
    """The message without Dagster's prefix of run and step."""
    meta = getattr(record, "dagster_meta", None)
    return str(meta["orig_message"]) if meta else record.getMessage()


@functools.cache
def _failures(run_id: str | None) -> dict[str, list[str]]:
    """Why -> the steps of the run that failed for it: a wrong setting stops several.

    Dagster makes a run's loggers anew for its steps and for its end.
    """
    return {}


class _Lines(logging.Formatter):
    """Tells of a step's failure in a word when it comes, and of why when the run ends."""

    def __init__(self, failures: dict[str, list[str]]) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")
        self._failures = failures

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "dagster_event", None)
        if event is None:
            level = f"{record.levelname} " if record.levelno > logging.INFO else ""
            record.msg, record.args = f"{level}{_said(record)}", None
        elif event.event_type_value == STEP_FAILURE:
            self._failures.setdefault(_why(event), []).append(str(event.step_key))
            record.msg, record.args = f"FAILED {event.step_key}", None
        elif event.event_type_value in (RUN_FAILURE, RUN_CANCELED):
            record.msg, record.args = self._end(event), None
        return super().format(record)

    def _end(self, event: dg.DagsterEvent) -> str:
        if event.event_type_value == RUN_CANCELED:
            return f"the run {STOPPED}"
        told = [f"{', '.join(steps)}: {why}" for why, steps in self._failures.items()]
        if not told and (error := event.job_failure_data.error):
            told = [f"before any step: {error.to_string()}"]
        return "\n".join(["the run failed", *told])


def _why(event: dg.DagsterEvent) -> str:
    """An error raised on purpose by its message alone; any other with its traceback."""
    failed = event.step_failure_data
    if failed.error_source.value == "INTERRUPT":
        return STOPPED
    if (error := failed.error) is None:
        return "no error was recorded"
    cause = error.cause or error
    if cause.cls_name == Refused.__name__:
        return cause.message.split(": ", 1)[-1].strip()
    return cause.to_string()
