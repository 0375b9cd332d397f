"""The tags of a materialization that Dagster's staleness goes by; it exports no names for them."""

DATA_VERSION = "dagster/data_version"
IS_OURS = "dagster/data_version_is_user_provided"
CODE_VERSION = "dagster/code_version"
INPUT_VERSION = "dagster/input_data_version/"
INPUT_EVENT = "dagster/input_event_pointer/"
NO_EVENT = "NULL"
