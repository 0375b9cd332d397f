"""What a person reads in the terminal: one short line per thing said, and errors in full."""

import logging
import sys

import dagster as dg

from chatllama_pipeline import errors

FAILURES = {dg.DagsterEventType.STEP_FAILURE.value, dg.DagsterEventType.RUN_FAILURE.value}


@dg.logger(
    config_schema={"log_level": dg.Field(str, default_value="INFO")},
    description="Messages, failures and nothing else; everything stands in Dagster's event log.",
)
def console_logger(init_context: dg.InitLoggerContext) -> logging.Logger:
    """The logger `console`: at log level DEBUG it shows every event of Dagster too."""
    level = str(init_context.logger_config["log_level"]).upper()
    logger = logging.Logger("chatllama", level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(asctime)s %(message)s", "%H:%M:%S"))
    if logger.level > logging.DEBUG:
        handler.addFilter(_is_for_people)
    logger.addHandler(handler)
    return logger


def _is_for_people(record: logging.LogRecord) -> bool:
    event = getattr(record, "dagster_event", None)
    return event is None or event.event_type_value in FAILURES


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "dagster_event", None)
        if event is None:
            said = record.dagster_meta["orig_message"] if hasattr(record, "dagster_meta") else ""
            level = f"{record.levelname} " if record.levelno > logging.INFO else ""
            record.msg, record.args = f"{level}{said or record.getMessage()}", None
        elif event.event_type_value == dg.DagsterEventType.STEP_FAILURE.value:
            record.msg, record.args = _failure(event), None
        return super().format(record)


def _failure(event: dg.DagsterEvent) -> str:
    """An error raised on purpose by its message alone; any other with its traceback."""
    error = event.step_failure_data.error
    cause = error.cause if error and error.cause else error
    if cause is None:
        return f"FAILED {event.step_key}"
    if cause.cls_name and issubclass(
        getattr(errors, cause.cls_name, Exception), errors.ChatllamaError
    ):
        message = cause.message.split(": ", 1)[-1].strip()
        return f"FAILED {event.step_key}\n{message}"
    return f"FAILED {event.step_key}\n{error.to_string() if error else ''}"
