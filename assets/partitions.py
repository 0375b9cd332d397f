"""Assistants as partitions."""

from typing import Any

import dagster as dg

from chatllama_pipeline.settings.folder import (
    assistant_names,
    require_assistants_root,
    unknown_assistant,
)


class AssistantPartitions(dg.StaticPartitionsDefinition):
    """One partition per folder under `assistants/`, read when the definitions load.

    Static, since dynamic partitions can't be named on the command line before they stand in a
    persistent instance. An unknown name is answered with those there are.
    """

    def validate_partition_key(self, partition_key: str, context: Any) -> None:
        if not self.has_partition_key(partition_key):
            raise unknown_assistant(partition_key)


# Without it all would load and nothing could run.
require_assistants_root()
ASSISTANTS = AssistantPartitions(assistant_names())
