"""The states of unfinished trainings in a bucket, so that another machine goes on.

    <url>/states/<owner>/<asset>/<fingerprint>/<number>/    a state's files
    <url>/states/<owner>/<asset>/<fingerprint>/<number>.json    its manifest, put last

They are sent while the training goes on, the newest alone. A bucket that doesn't answer meanwhile
never ends a training: its states stand on this machine too.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.errors import CorruptVersionError
from chatllama_pipeline.progress import saying
from chatllama_pipeline.store.adopting import is_name
from chatllama_pipeline.store.remote.objects import Objects

STATES = "states"
# Between two looks for a state that wasn't sent.
LOOK_SECONDS = 30.0
# How long whoever was told to end waits for the last state to be sent.
LAST_SECONDS = 60.0


@dataclass(frozen=True)
class TrainingStates:
    """The states in `folder`, which are those under `place` in the bucket."""

    objects: Objects
    place: str
    folder: Path

    def fetch(self) -> Path | None:
        """Have the bucket's newest state here, unless as new a one is; returns its folder.

        Its files' hashes are verified on the way.
        """
        number = self._newest_there()
        if number is None or number <= (_newest(self.folder) or ""):
            return None
        stored = self.objects.get(f"{self.place}/{number}.json")
        if stored is None:
            return None
        coming = self.folder.with_name(f".{number}.coming")
        for folder in (self.folder, coming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, sha256 in json.loads(stored.data)["files"].items():
            if not all(map(is_name, name.split("/"))):
                raise CorruptVersionError(f"{self.place}/{number}.json names {name!r}")
            entry = self.objects.entry(f"{self.place}/{number}/{name}")
            (coming / name).parent.mkdir(parents=True, exist_ok=True)
            size = entry.size if entry else 0
            self.objects.fetch(f"{self.place}/{number}/{name}", coming / name, size, sha256)
        shutil.rmtree(self.folder / number, ignore_errors=True)
        coming.rename(self.folder / number)
        (self.folder / f"{number}.json").write_bytes(stored.data)
        return self.folder / number

    def send(self) -> str | None:
        """Have the bucket hold the newest state that is here; returns its number if it was sent."""
        number = _newest(self.folder)
        if number is None or number <= (self._newest_there() or ""):
            return None
        data = (self.folder / f"{number}.json").read_bytes()
        for name in json.loads(data)["files"]:
            self.objects.send(self.folder / number / name, f"{self.place}/{number}/{name}")
        self.objects.create(f"{self.place}/{number}.json", data)
        older = [entry.key for entry in self.objects.list(f"{self.place}/")]
        self.objects.delete(key for key in older if _number(self.place, key) < number)
        return number

    def clear(self) -> None:
        """Remove them all from the bucket."""
        self.objects.delete([entry.key for entry in self.objects.list(f"{self.place}/")])

    def _newest_there(self) -> str | None:
        keys = (entry.key for entry in self.objects.list(f"{self.place}/"))
        numbers = [_number(self.place, key) for key in keys if key.count("/") == 4]
        return max(numbers, default=None)


def fetch_or_say(states: TrainingStates) -> None:
    """Fetch the newest state; where it is damaged, say so: training goes on from what is here."""
    for last in (False, True):
        try:
            if folder := states.fetch():
                saying()(f"goes on from state {folder.name}, which another machine left")
            return
        except CorruptVersionError as error:
            # Where another machine trains on, a newer one took its place.
            if last:
                saying()(f"a state in the bucket is left alone: {error}")


@contextlib.contextmanager
def sent_meanwhile(states: TrainingStates) -> Iterator[None]:
    """Send each newest state while the block goes on, and the last one where it is ended."""
    over, ended, say = threading.Event(), threading.Event(), saying()

    def sending() -> None:
        last = False
        while not last:
            last = over.wait(LOOK_SECONDS)
            if not last or ended.is_set():
                _send_or_say(states, say)

    sender = threading.Thread(target=sending, daemon=True)
    sender.start()
    try:
        yield
    except BaseException:
        ended.set()
        raise
    finally:
        over.set()
        sender.join(LAST_SECONDS)


def _send_or_say(states: TrainingStates, say: Callable[[str], None]) -> None:
    try:
        if number := states.send():
            say(f"state {number} is in {states.objects.url}, for other machines to go on from")
    except FileNotFoundError:
        return  # the training wrote a newer one, and this one went
    except OSError as error:
        say(f"a state wasn't sent, and will be tried again: {error}")


def _newest(folder: Path) -> str | None:
    """The number of the newest whole state in a training's folder."""
    return max((path.stem for path in folder.glob("[0-9]*.json")), default=None)


def _number(place: str, key: str) -> str:
    """The number of the state that an object belongs to."""
    return key.removeprefix(f"{place}/").partition("/")[0].removesuffix(".json")
