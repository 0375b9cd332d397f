"""`retrain`: when an assistant is made again."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter
from pydantic import Field, field_validator

from chatllama_pipeline.settings.section import Section

FIELDS = "minute, hour, day of month, month, day of week"


class RetrainSettings(Section):
    """When an assistant is made again; the schedule starts stopped."""

    cron: str = Field(default="0 3 * * 1", description=FIELDS)
    timezone: str = Field(default="UTC", description="a name of the IANA database: Europe/Berlin")

    @field_validator("cron")
    @classmethod
    def _must_come_round(cls, cron: str) -> str:
        if len(cron.split()) != len(FIELDS.split(", ")) or not croniter.is_valid(cron):
            raise ValueError(
                f"{cron!r} is no cron line; write five fields ({FIELDS}), such as '0 3 * * 1'"
            )
        try:
            croniter(cron, datetime.now(UTC)).get_next()
        except CroniterBadDateError as error:
            raise ValueError(f"{cron!r} names a day that never comes") from error
        return cron

    @field_validator("timezone")
    @classmethod
    def _must_be_a_zone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        # An unknown name, a path out of the database, a folder of it.
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"{timezone!r} is no time zone; write one such as UTC or Europe/Berlin"
            ) from error
        return timezone
