"""`retrain`: when an assistant is made again."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from chatllama_pipeline.settings.section import Section

FIELDS = "minute, hour, day of month, month, day of week"
WEEKLY, NEVER = "weekly", "never"
NIGHT_MINUTES = 6 * 60


class RetrainSettings(Section):
    """When an assistant is made again, once the sensor `retrain` is on."""

    cron: str = Field(
        default=WEEKLY,
        description=f"{FIELDS}; {WEEKLY}: a time of Monday's first six hours that follows from the "
        f"assistant's name; {NEVER}: not by itself",
    )
    what: Literal["all", "audit", "reward", "actor", "rl"] = Field(
        default="all",
        description="the job that its time asks for: all; datasets and audit alone; with them the "
        "reward model, or the actor's SFT; or PPO, evaluation and release alone",
    )
    timezone: str = Field(default="UTC", description="a name of the IANA database: Europe/Berlin")

    @field_validator("cron")
    @classmethod
    def _must_come_round(cls, cron: str) -> str:
        if cron in (WEEKLY, NEVER):
            return cron
        from croniter import CroniterBadDateError, croniter

        if len(cron.split()) != len(FIELDS.split(", ")) or not croniter.is_valid(cron):
            raise ValueError(
                f"{cron!r} is no cron line; write five fields ({FIELDS}), such as '0 3 * * 1', "
                f"or {WEEKLY} or {NEVER}"
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

    def cron_of(self, name: str) -> str | None:
        """The cron line of the assistant `name`; None where it isn't made again by itself."""
        if self.cron == WEEKLY:
            # Not all at once: spread over the night, and the same whenever it is asked.
            minute = int(hashlib.sha256(name.encode()).hexdigest(), 16) % NIGHT_MINUTES
            return f"{minute % 60} {minute // 60} * * 1"
        return None if self.cron == NEVER else self.cron
