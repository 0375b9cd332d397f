"""What starts runs by itself, and what keeps Dagster in step with the disk: jobs and sensors.

Of Dagster's side, as `definitions.py` is; the rest of the engine has never heard of Dagster.
"""
