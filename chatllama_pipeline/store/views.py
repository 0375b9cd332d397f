"""The store as one run sees it: what was current when the run began, then what it makes itself.

    <store>/_views/<assistant or _shared>/<run>/
        begun.json              when, of what settings, what was current
        made/<asset>.json       what the run made, as `current.json` has it
        alive                   locked as long as the run goes on

So runs at the same time don't build on one another's versions, and a config.yaml that is changed
amid a run counts for the next one. An experiment (a run with overrides that nobody promoted) leaves
everything current as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.home import ASKED_VARIABLE
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.folder import CONFIG_FILE, Assistant
from chatllama_pipeline.store.disk import writing
from chatllama_pipeline.store.history import How
from chatllama_pipeline.store.manifests import CURRENT, SHARED, utc_now, write_atomically
from chatllama_pipeline.store.places.start import clock_warning, require_sound
from chatllama_pipeline.store.versions import Current, Store, make_private

VIEWS, BEGUN, MADE, ALIVE = "_views", "begun.json", "made", "alive"
KEPT_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class Begun:
    """What a run decided when it began.

    `at` is UTC (ISO); `assistant` is None for a run of shared sources alone; `folder` is the
    assistant's, relative to the store; `current` maps assets to what was current.
    """

    run: str
    at: str
    asked: str
    experiment: bool
    assistant: str | None
    folder: str
    settings: dict[str, Any]
    overrides: dict[str, Any]
    warnings: list[str]
    current: dict[str, Current]

    @classmethod
    def read(cls, path: Path) -> Begun:
        raw = json.loads(path.read_text())
        current = {asset: Current(**each) for asset, each in raw.pop("current").items()}
        return cls(**raw, current=current)


class RunStore(Store):
    """The store as the run `begun` sees it."""

    def __init__(self, root: Path, begun: Begun) -> None:
        super().__init__(root)
        self.begun = begun
        self.view = view_folder(root, begun.assistant, begun.run)

    @property
    def assistant(self) -> Assistant:
        """The run's assistant, of the settings with which the run began."""
        begun = self.begun
        if begun.assistant is None:
            raise StoreError(f"run {begun.run} is no assistant's")
        settings = AssistantSettings.model_validate(begun.settings)
        folder = Path(os.path.normpath(self.root / begun.folder))
        return Assistant(begun.assistant, folder, settings, begun.overrides, begun.warnings)

    def current(self, asset: str, assistant: str | None) -> Current | None:
        if assistant not in (None, self.begun.assistant):
            return self.standing(asset, assistant)
        return _made(self.view, asset) or self.begun.current.get(asset)

    def left_to(self, asset: str, assistant: str | None) -> Current | None:
        """What stays current though this run made another version: a later run's; else None."""
        standing = self.standing(asset, assistant)
        later = standing is not None and standing.began > self.begun.at
        return standing if later and not self.begun.experiment else None

    def seen(self) -> dict[str, Current]:
        """Asset -> what the run has of it by now."""
        made = {path.stem: _made(self.view, path.stem) for path in self._made_paths()}
        return {**self.begun.current, **{asset: each for asset, each in made.items() if each}}

    def _made_paths(self) -> Iterator[Path]:
        return (self.view / MADE).glob("[!.]*.json")

    def _point(self, asset: str, assistant: str | None, current: Current, how: How) -> None:
        begun = self.begun
        folder = begun.folder if assistant else ""
        current = dataclasses.replace(current, run=begun.run, began=begun.at, folder=folder)
        (self.view / MADE).mkdir(parents=True, exist_ok=True)
        write_atomically(self.view / MADE / f"{asset}.json", dataclasses.asdict(current))
        if not begun.experiment and self.left_to(asset, assistant) is None:
            super()._point(asset, assistant, current, how)


def view_folder(root: Path, assistant: str | None, run: str) -> Path:
    return root / VIEWS / (assistant or SHARED) / run


def run_begun(root: Path, assistant: str | None, run: str) -> RunStore | None:
    """The view of a run that has begun; None before."""
    path = view_folder(root, assistant, run) / BEGUN
    return RunStore(root, Begun.read(path)) if path.is_file() else None


def begin_run(
    root: Path,
    run: str,
    assistant: Assistant | None,
    *,
    experiment: bool,
    continues: str | None = None,
    take_over: bool = False,
) -> RunStore:
    """Decide what a run builds on; where another step of it was faster, that one decided.

    A run that `continues` another goes on from what that one saw and made. Raises StoreError where
    another folder's assistant of the same name has its versions in this store, unless they are
    taken over.
    """
    store, name = Store(root), assistant.name if assistant else None
    for owner in {name, None}:
        store.look(owner, at_once=True)
    if assistant is not None and not experiment and not take_over:
        require_ours(store, assistant)
    before = run_begun(root, name, continues) if continues else None
    begun = Begun(
        run=run,
        at=utc_now(),
        asked=os.environ.get(ASKED_VARIABLE, ""),
        experiment=experiment,
        assistant=name,
        folder=_relative(root, assistant.folder) if assistant else "",
        settings=_plain(assistant.settings) if assistant else {},
        overrides=dict(assistant.overrides) if assistant else {},
        warnings=list(assistant.warnings) if assistant else [],
        current=before.seen() if before else _standing(store, assistant),
    )
    view = view_folder(root, name, run)
    with writing(root, f"what run {run} builds on"):
        _remove_old_views(root)
        make_private(root)
        require_sound(root)
        view.mkdir(parents=True, exist_ok=True, mode=0o700)
        if warning := clock_warning(view):
            begun = dataclasses.replace(begun, warnings=[*begun.warnings, warning])
        own = view / f".{uuid.uuid4().hex}"
        write_atomically(own, dataclasses.asdict(begun))
        _name_once(own, view / BEGUN)
    return RunStore(root, Begun.read(view / BEGUN))


def _name_once(own: Path, name: Path) -> None:
    """Give what was written the name, unless another was faster; where nothing links, by a lock."""
    try:
        os.link(own, name)
    except FileExistsError:
        pass
    except OSError:
        with name.with_name(f".{name.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not name.exists():
                own.replace(name)
    own.unlink(missing_ok=True)


def newest_run(root: Path, assistant: str, since: float, asked: str = "") -> RunStore | None:
    """The run of an assistant that began last, not before `since` (seconds since 1970).

    With `asked` only a run counts that was asked for by that name.
    """
    paths = (root / VIEWS / assistant).glob(f"*/{BEGUN}")
    found = [Begun.read(path) for path in paths if path.stat().st_mtime >= since]
    runs = [begun for begun in found if begun.asked == asked or not asked]
    return RunStore(root, max(runs, key=lambda begun: begun.at)) if runs else None


@contextlib.contextmanager
def alive(store: RunStore) -> Iterator[None]:
    """Let others know that the run goes on: what it sees isn't removed."""
    with (store.view / ALIVE).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def seen_by_running(root: Path) -> Iterator[tuple[str, str | None, str]]:
    """Asset, assistant and version of all that runs which go on have or build on."""
    for path in sorted((root / VIEWS).glob(f"*/*/{BEGUN}")):
        if _goes_on(path.parent):
            store = RunStore(root, Begun.read(path))
            for asset, current in store.seen().items():
                shared = (root / asset / SHARED).is_dir()
                yield asset, None if shared else store.begun.assistant, current.version


def require_ours(store: Store, assistant: Assistant) -> None:
    """Raise StoreError where versions in use are those of `other_folder`."""
    if other := other_folder(store, assistant):
        raise StoreError(
            f"what is in use of {assistant.name} in {store.root} is that of {other}, and this is "
            f"{assistant.folder}: two assistants of one name would overwrite each other's "
            "versions. Rename one, set CHATLLAMA_STORE to a store of its own, or take the versions "
            "over by `chatllama make --take-over` (run_options.take_over: true)"
        )


def other_folder(store: Store, assistant: Assistant) -> Path | None:
    """The folder of another assistant of that name whose versions are in use; None if none is.

    A folder that is gone was moved, or the store was copied without it: it owns nothing.
    """
    ours = _relative(store.root, assistant.folder)
    for current in _standing(store, assistant).values():
        theirs = Path(os.path.normpath(store.root / current.folder))
        if current.folder not in ("", ours) and (theirs / CONFIG_FILE).is_file():
            return theirs
    return None


def _standing(store: Store, assistant: Assistant | None) -> dict[str, Current]:
    owners = (None, assistant.name) if assistant else (None,)
    found = {}
    for owner in owners:
        for path in store.root.glob(f"[!_]*/{owner or SHARED}/{CURRENT}"):
            asset = path.parents[1].name
            if current := store.standing(asset, owner):
                found[asset] = current
    return found


def _relative(root: Path, folder: Path) -> str:
    """So that a checkout which is moved or copied with its store keeps its versions."""
    return os.path.relpath(folder.resolve(), root.resolve())


def _plain(settings: AssistantSettings) -> dict[str, Any]:
    # What is not set stays not set: some messages say where a value comes from.
    return settings.model_dump(mode="json", exclude_unset=True)


def _made(view: Path, asset: str) -> Current | None:
    path = view / MADE / f"{asset}.json"
    return Current(**json.loads(path.read_text())) if path.is_file() else None


def _goes_on(view: Path) -> bool:
    try:
        with (view / ALIVE).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _remove_old_views(root: Path) -> None:
    for path in (root / VIEWS).glob("*/*/"):
        with contextlib.suppress(FileNotFoundError):
            old = time.time() - path.stat().st_mtime > KEPT_SECONDS
            if old and not _goes_on(path):
                shutil.rmtree(path)
