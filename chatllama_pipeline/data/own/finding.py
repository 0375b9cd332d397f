"""Which files a user's settings name."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.data.own.errors import Errors
from chatllama_pipeline.data.own.files.endings import TOLD_ENDINGS, format_of, split_name
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.settings import (
    ActorSettings,
    AssistantSettings,
    PpoSettings,
    RewardSettings,
)

_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class OwnFile:
    """A file with rows for `table`; `name` is its path from the assistant's folder where it lies
    in there, as errors and fingerprints spell it."""

    table: str
    name: str
    path: Path


@dataclass(frozen=True)
class Place:
    """What a setting says of a table's files; `default` is what it says where nobody set it."""

    table: str
    key: str
    paths: tuple[str, ...]
    default: str

    @property
    def stem(self) -> str:
        """The default path without an ending."""
        return posixpath.splitext(self.default)[0]

    def is_default(self, spelled: str) -> bool:
        return posixpath.normpath(spelled) == posixpath.normpath(self.default)


def places(settings: AssistantSettings) -> list[Place]:
    actor, reward = settings.actor_config, settings.reward_config
    ppo = settings.trainer_config
    found = (
        (
            "actor",
            "actor_config.train_dataset_path",
            actor.train_dataset_path,
            ActorSettings().train_dataset_path,
        ),
        (
            "reward",
            "reward_config.train_dataset_path",
            reward.train_dataset_path,
            RewardSettings().train_dataset_path,
        ),
        ("rlhf", "trainer_config.examples_path", ppo.examples_path, PpoSettings().examples_path),
    )
    return [
        Place(table, key, (paths,) if isinstance(paths, str) else tuple(paths), str(default))
        for table, key, paths, default in found
    ]


def find_files(folder: Path, settings: AssistantSettings, errors: Errors) -> list[OwnFile]:
    """The files that the settings name, each once per table, in the order of their names.

    A path may be a file, a folder, or a glob (`datasets/actor/*.jsonl`, `**` for folders in
    folders). The default path stands for the file of that name with any ending, and the folder of
    that name; it may be missing.
    """
    files: list[OwnFile] = []
    for place in places(settings):
        seen: set[str] = set()
        for spelled in place.paths:
            for path in _matches(folder, spelled, place, errors):
                name = _name(folder, path)
                real = os.path.realpath(path)
                if told := _link_error(folder, path, spelled, real):
                    errors.add(f"{name}: {told}")
                elif real not in seen:
                    seen.add(real)
                    files.append(OwnFile(place.table, name, path))
    return files


def _matches(folder: Path, spelled: str, place: Place, errors: Errors) -> list[Path]:
    """The files of one path of a setting, sorted."""
    path = folder / spelled
    if place.is_default(spelled):
        return _named(path.with_suffix("")) + _in_folder(path.with_suffix(""))
    if path.is_dir():
        found = _in_folder(path)
        if not found:
            errors.add(
                f"{spelled}: this folder holds no file that ends in {TOLD_ENDINGS}; "
                f"correct {place.key} in config.yaml"
            )
        return found
    if os.path.lexists(path):
        return [path]
    if not _GLOB & set(spelled):
        errors.add(
            f"{spelled}: there is no such file in {folder.name}/; "
            f"correct {place.key} in config.yaml"
        )
        return []
    try:
        start = Path(path.anchor)
        found = sorted(start.glob(path.relative_to(start).as_posix()))
    except ValueError as error:
        errors.add(f"{spelled}: {error}; correct {place.key} in config.yaml")
        return []
    found = [file for file in found if not file.is_dir() and not _is_hidden(file, folder)]
    if not found:
        errors.add(
            f"{spelled}: matches no file in {folder.name}/; correct {place.key} in config.yaml"
        )
    return found


def _named(stem: Path) -> list[Path]:
    """The files of that name with any ending that is read, packed or not."""
    return [file for file in _in_folder(stem.parent) if split_name(file.name)[0] == stem.name]


def _in_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}; correct its rights") from error
    files = [folder / name for name in names if format_of(name) and not name.startswith(".")]
    return [path for path in files if not path.is_dir()]


def _is_hidden(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts if path.is_relative_to(folder) else path.parts[-1:]
    return any(part.startswith(".") and part != ".." for part in parts)


def _name(folder: Path, path: Path) -> str:
    inside = os.path.relpath(path, folder)
    return str(path) if inside.startswith("..") else Path(inside).as_posix()


def _link_error(folder: Path, path: Path, spelled: str, real: str) -> str | None:
    if path.is_symlink() and not path.exists():
        return "is a link to nothing, or to itself; remove it, or put the file in its place"
    # A path that leaves the folder in so many words is the user's own wish; a link is a surprise.
    said = os.path.isabs(spelled) or ".." in Path(spelled).parts
    if not said and not Path(real).is_relative_to(os.path.realpath(folder)):
        return (
            f"is a link out of the assistant's folder, to {real}; put the file in its place, or "
            "write where it lies into config.yaml"
        )
    return None
