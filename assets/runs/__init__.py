"""What a run does with an asset: makes or reuses a version, and tells Dagster how all of it stands.

Imported where a run or a sensor begins, not with the definitions: those would load twice as long.
"""
