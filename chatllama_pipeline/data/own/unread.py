"""Which files of an assistant's folder look like rows and are read by nobody, and why."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from chatllama_pipeline.data.own.errors import Errors
from chatllama_pipeline.data.own.files.endings import ending_cure, format_of, is_data, split_name
from chatllama_pipeline.data.own.finding import Place, find_files, places
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.section import told_paths

DATASETS = "datasets"
# Files of an assistant that are read as something else.
_NO_ROWS = {"config.yaml", "templates.json", "peft_config.yaml", "ds_config.json"}
_PAPERS = ("readme", "licence", "license", "notice", "changelog")
_CODE = (".py", ".ipynb", ".sh", ".md", ".rst", ".html", ".pdf", ".png", ".jpg")
# A folder with one of these holds a model.
_OF_MODELS = {"config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json"}
_NEAR = 0.75
_FILES_TOLD = 20


def unread_files(folder: Path, settings: AssistantSettings) -> list[str]:
    """What is to be told of files that look like rows and that no setting reads, each with its
    reason and what would make it be read; at most twenty, and how many more there are."""
    known = places(settings)
    read = {os.path.realpath(file.path) for file in find_files(folder, settings, Errors())}
    apart = _told_apart(folder, settings)
    told = [
        f"{path.relative_to(folder).as_posix()} is not read: {_reason(path, folder, known)}"
        for path in _candidates(folder)
        if os.path.realpath(path) not in read and os.path.realpath(path) not in apart
    ]
    more = len(told) - _FILES_TOLD
    return [*told[:_FILES_TOLD], f"and {more} more files are not read"] if more > 0 else told


def _told_apart(folder: Path, settings: AssistantSettings) -> Collection[str]:
    """Files that a setting names and that hold no rows."""
    named = [
        section.deepspeed_config_path
        for section in (settings.actor_config, settings.reward_config)
        if section.deepspeed_config_path
    ]
    named.append(settings.actor_config.peft_config_path)
    if settings.evaluation.known_answers is not None:
        named.append(settings.evaluation.known_answers)
    return {os.path.realpath(folder / name) for name in named}


def _candidates(folder: Path) -> Iterator[Path]:
    """Files that look like rows, hidden ones and those of models left out, sorted."""
    for root, folders, names in os.walk(folder):
        place = Path(root)
        if place != folder and _OF_MODELS & set(names):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        under_datasets = place.relative_to(folder).parts[:1] == (DATASETS,)
        for name in sorted(names):
            if name.startswith(".") or name.startswith("~$") or name in _NO_ROWS:
                continue
            plain = name.lower()
            if plain.startswith(_PAPERS) or plain.endswith(_CODE):
                continue
            rows = format_of(name) or (is_data(name) and not plain.endswith((".yaml", ".yml")))
            if rows or under_datasets:
                yield place / name


def _reason(path: Path, folder: Path, known: list[Place]) -> str:
    inside = path.relative_to(folder)
    stem, ending, packing = split_name(path.name)
    named = ending + packing
    for place in known:
        default = Path(place.stem)
        uses_default = any(map(place.is_default, place.paths))
        if inside.parent == default.parent and stem == default.name and not uses_default:
            return f"{place.key} names {told_paths(list(place.paths))} in its place"
        if inside.is_relative_to(default) and uses_default:
            if format_of(path.name) is None:
                return ending_cure(path.name)
            return (
                f"it lies in a folder of the folder; put it into {place.stem}/, or write "
                f"{place.stem}/**/*{named} into {place.key}"
            )
    near = _nearest(stem, known)
    if format_of(path.name) is None:
        return ending_cure(path.name)
    if near is None:
        keys = ", ".join(place.key for place in known)
        return f"no setting names it; write its path into one of {keys}"
    wanted = f"{near.stem}{named}"
    if stem == Path(near.stem).name:
        return f"its place is {wanted}; move it there, or write its path into {near.key}"
    return f"did you mean {wanted}? rename it, or write its path into {near.key}"


def _nearest(stem: str, known: list[Place]) -> Place | None:
    """The table that a misspelt name is likely meant for: of the original's other names the first
    word tells it."""
    plain = stem.lower().replace("-", "_").replace(" ", "_")
    names = {Path(place.stem).name: place for place in known}
    if close := difflib.get_close_matches(plain, names, n=1, cutoff=_NEAR):
        return names[close[0]]
    first = plain.split("_")[0]
    return next((place for name, place in names.items() if name.split("_")[0] == first), None)
