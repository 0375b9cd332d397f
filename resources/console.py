"""What a person reads in the terminal: one short line per thing said, and errors in full."""

import io
import logging
import os
import sys
import weakref
from typing import Any

import dagster as dg

from chatllama_pipeline import errors

STEP_FAILURE = dg.DagsterEventType.STEP_FAILURE.value
RUN_FAILURE = dg.DagsterEventType.RUN_FAILURE.value
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
    handler.setFormatter(_Lines("%(asctime)s %(message)s", "%H:%M:%S"))
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
    return bool(event.event_type_value == STEP_FAILURE or _run_error(event))


def _said(record: logging.LogRecord) -> str:
    """The message without Dagster's prefix of run and step."""
    meta = getattr(record, "dagster_meta", None)
    return str(meta["orig_message"]) if meta else record.getMessage()


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "dagster_event", None)
        if event is None:
            level = f"{record.levelname} " if record.levelno > logging.INFO else ""
            record.msg, record.args = f"{level}{_said(record)}", None
        elif event.event_type_value == STEP_FAILURE:
            record.msg, record.args = _failure(event), None
        elif error := _run_error(event):
            record.msg, record.args = f"FAILED before any step\n{error.to_string()}", None
        return super().format(record)


def _run_error(event: dg.DagsterEvent) -> Any:
    """Why a run failed that no step's failure explains, such as a resource's; None elsewhere."""
    if event.event_type_value != RUN_FAILURE:
        return None
    failed = event.job_failure_data
    return None if failed.first_step_failure_event else failed.error


def _failure(event: dg.DagsterEvent) -> str:
    """An error raised on purpose by its message alone; any other with its traceback."""
    error = event.step_failure_data.error
    cause = error.cause if error and error.cause else error
    if cause is None:
        return f"FAILED {event.step_key}"
    raised = getattr(errors, cause.cls_name or "", None)
    if isinstance(raised, type) and issubclass(raised, errors.ChatllamaError):
        message = cause.message.split(": ", 1)[-1].strip()
        return f"FAILED {event.step_key}\n{message}"
    return f"FAILED {event.step_key}\n{cause.to_string()}"
