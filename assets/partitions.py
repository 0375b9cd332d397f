"""Assistants as partitions."""

import contextlib
from typing import Any

import click
import dagster as dg

from chatllama_pipeline.errors import UnknownAssistantError
from chatllama_pipeline.settings.folder import (
    assistant_names,
    require_assistants_root,
    unknown_assistant,
)

NAME = "assistant"


class NoAssistantError(click.ClickException, UnknownAssistantError):
    """The command line tells it as its own error; anybody else raises it on."""


class AssistantPartitions(dg.DynamicPartitionsDefinition):
    """One partition per folder under `assistants/`, which an instance of Dagster knows by its key.

    The sensor `assistants` keeps the keys in step with the folders. For whoever names an assistant
    earlier, as the command line does, and on a throw-away instance, its key is added there and
    then. An unknown name is answered with those there are.
    """

    def validate_partition_key(self, partition_key: str, context: Any) -> None:
        if partition_key not in assistant_names():
            raise NoAssistantError(str(unknown_assistant(partition_key)))
        knowing = context.dynamic_partitions_store
        if isinstance(knowing, dg.DagsterInstance):
            from sqlalchemy.exc import IntegrityError

            # Another process that adds the same key at the same time has done our work.
            with contextlib.suppress(IntegrityError):
                knowing.add_dynamic_partitions(NAME, [partition_key])
        elif knowing is not None:
            super().validate_partition_key(partition_key, context)

    def get_partition_keys_in_range(self, partition_key_range: dg.PartitionKeyRange) -> list[str]:
        # So a run's events ask for its own key: it ends though the key was deleted meanwhile.
        if partition_key_range.start == partition_key_range.end:
            return [partition_key_range.start]
        return list(super().get_partition_keys_in_range(partition_key_range))


# Without it all would load and nothing could run.
require_assistants_root()
ASSISTANTS = AssistantPartitions(name=NAME)
