"""Every error the pipeline raises on purpose; each message says what, where and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ChatllamaError(Exception):
    """The root: catch this to catch all that the pipeline raises on purpose."""

    def __str__(self) -> str:
        # KeyError's own __str__ shows the repr; leaves that are also KeyErrors must read as text.
        return str(self.args[0]) if self.args else ""


class SettingsError(ChatllamaError, ValueError):
    """A setting is missing, unknown, of the wrong type, out of range, or contradicts another."""


class UndeclaredSettingError(ChatllamaError, RuntimeError):
    """A build reads a setting that isn't among those its asset declares."""


class UnknownAssistantError(ChatllamaError, KeyError):
    """No assistant of that name; the message lists those there are."""


class DataError(ChatllamaError, ValueError):
    """A file or row that cannot be used; the message names file, row, field and value."""


class StoreError(ChatllamaError, OSError):
    """The store could not be read or written; nothing half-written was published."""


class AbsentError(ChatllamaError, LookupError):
    """A version was asked for that was never made."""


class CorruptVersionError(StoreError):
    """A file of a version no longer has the hash that its manifest recorded."""


class ProviderError(ChatllamaError, RuntimeError):
    """A writer or judge refused or could not answer."""


class BudgetError(ProviderError):
    """The next call could pass `llm.max_usd`; what was paid for until then is kept."""


class ChildError(ChatllamaError, RuntimeError):
    """A child process ended badly; the message carries the end of what it printed."""


class WarmParentError(ChildError):
    """A warm parent ended, or could not fork: a process of its own may do as well."""


class OutOfMemoryError(ChildError, MemoryError):
    """Memory was refused (`launch.out_of_memory`), or the kernel killed the child for it
    (`launch.child`), or a cluster its job (`launch.jobs.running`)."""


class LeaseError(ChatllamaError, TimeoutError):
    """The GPUs that a stage needs weren't free in time; the message says who holds them."""


class StoppedError(ChatllamaError, RuntimeError):
    """A signal ended a training after its state was saved; run again, it continues."""


class EngineError(ChatllamaError, RuntimeError):
    """What writes replies has failed, or is being closed."""


class CheckError(ChatllamaError, RuntimeError):
    """A blocking check failed: what it looked at was not published.

    `checks` are the records of all checks made (`records.Check`), the failed ones among them.
    """

    def __init__(self, message: str, checks: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.checks = list(checks)
