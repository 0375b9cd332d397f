"""Another process beside a check: `python -m chatllama_pipeline.store.places.peer TASK FOLDER ...`.

It says `ready`, does its task when a line comes, and says what it saw as one line of JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A file that is replaced meanwhile: a number, and that number again and again.
POINTER = "pointer"
REPEATS = 2000
# The files of each folder that gets its name meanwhile.
PARTS = 5
STOP = "stop"


def pointer_record(number: int) -> dict[str, Any]:
    """What a pointer holds: whoever reads half of it can tell."""
    return {"number": number, "again": [number] * REPEATS}


def read(folder: str) -> dict[str, int]:
    """Read pointer and folders until `stop` is there, once at least."""
    place, seen = Path(folder), {"reads": 0, "missing": 0, "mixed": 0, "refused": 0, "half": 0}
    whole: set[str] = set()
    last = False
    while not last:
        last = (place / STOP).exists()
        seen["reads"] += 1
        try:
            found = json.loads((place / POINTER).read_text())
            seen["mixed"] += found != pointer_record(found["number"])
        except FileNotFoundError:
            seen["missing"] += 1
        except OSError:
            seen["refused"] += 1
        except (ValueError, KeyError):
            seen["mixed"] += 1
        with os.scandir(place / "versions") as entries:
            for entry in entries:
                if entry.name not in whole:
                    whole.add(entry.name)
                    seen["half"] += len(os.listdir(entry.path)) != PARTS
    return seen


def try_lock(file: str) -> dict[str, str]:
    """Whether a lock that another process holds keeps this one out."""
    with Path(file).open("r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return {"lock": "refused"}
        except OSError as error:
            return {"lock": str(error.strerror)}
    return {"lock": "taken"}


def hold_lock(file: str) -> dict[str, str]:
    """Hold a lock until killed."""
    with Path(file).open("r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _say({"lock": "held"})
        sys.stdin.read()
    return {"lock": "released"}


def create(folder: str, count: str) -> dict[str, int]:
    """Make files that others make at the same time; how many were made here."""
    made = 0
    for number in range(int(count)):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(Path(folder, str(number)), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            made += 1
    return {"made": made}


def publish(root: str, name: str, count: str) -> dict[str, int]:
    """Make versions of one asset, as others do at the same time."""
    from chatllama_pipeline.records import Outcome
    from chatllama_pipeline.store.manifests import Recipe
    from chatllama_pipeline.store.versions import Store, Workbench

    for number in range(int(count)):

        def build(bench: Workbench, text: str = f"{name} {number}") -> Outcome:
            (bench.output / "payload").write_text(text * 1000)
            return Outcome()

        recipe = Recipe("checked", None, f"{name}.{number}", {}, {}, {})
        Store(Path(root)).make(recipe, build, {}, force=False)
    return {"made": int(count)}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "read": read,
    "try_lock": try_lock,
    "hold_lock": hold_lock,
    "create": create,
    "publish": publish,
}


def _say(record: Any) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _say("ready")
    sys.stdin.readline()
    _say(TASKS[sys.argv[1]](*sys.argv[2:]))
