"""An assistant's folder -> validated settings; folder names -> partition keys."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from chatllama_pipeline.errors import SettingsError, UnknownAssistantError
from chatllama_pipeline.home import ASSISTANTS, home
from chatllama_pipeline.settings import AssistantSettings, Section
from chatllama_pipeline.settings.assistant import ROLES
from chatllama_pipeline.settings.deepspeed_config import find_ds_config, read_ds_config
from chatllama_pipeline.settings.known_questions import read_known_questions
from chatllama_pipeline.settings.original import TAKEN
from chatllama_pipeline.settings.peft_config import fill_lora
from chatllama_pipeline.settings.training.base_model import GGUF_SUFFIX
from chatllama_pipeline.settings.training.methods import unread_keys
from chatllama_pipeline.settings.training.rewards import find_rewards_file

_Section = TypeVar("_Section", bound=Section)
ROOT_VARIABLE = "CHATLLAMA_ASSISTANTS"
CONFIG_FILE = "config.yaml"
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
NAME_RULE = (
    "lower-case letters, digits and underscores, starting with a letter or digit, at most 64"
)


@dataclass(frozen=True)
class Assistant:
    """A validated assistant. `overrides` are the dotted keys that a run put over config.yaml."""

    name: str
    folder: Path
    settings: AssistantSettings
    overrides: dict[str, Any]
    warnings: list[str]

    @property
    def config(self) -> Path:
        return self.folder / CONFIG_FILE


def assistants_root() -> Path:
    """The folder of all assistants: `CHATLLAMA_ASSISTANTS`, else `assistants/` at home."""
    return Path(os.environ.get(ROOT_VARIABLE) or home() / ASSISTANTS).absolute()


def require_assistants_root() -> None:
    """Raise SettingsError where there is no folder of assistants."""
    if not (root := assistants_root()).is_dir():
        raise SettingsError(
            f"there is no folder {root}: make it and a folder in it for each assistant, or set "
            f"{ROOT_VARIABLE} to where they are"
        )


def assistant_names(root: Path | None = None) -> list[str]:
    """Names of the folders that are assistants, broken ones included, sorted."""
    return [path.name for path in _folders(root) if NAME.fullmatch(path.name)]


def misnamed_folders(root: Path | None = None) -> list[str]:
    """Folders that would be assistants but for their names."""
    return [
        path.name
        for path in _folders(root)
        if not NAME.fullmatch(path.name) and (path / CONFIG_FILE).is_file()
    ]


def _folders(root: Path | None) -> list[Path]:
    root = root or assistants_root()
    if not root.is_dir():
        return []
    # A link out of the root would let a name reach any folder of the machine.
    inside = (path for path in root.iterdir() if path.resolve().parent == root.resolve())
    return sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))


def assistants_using(source: str, root: Path | None = None) -> list[str]:
    """Names of the assistants that draw on a source; a broken one draws on nothing."""
    using = []
    for name in assistant_names(root):
        with contextlib.suppress(SettingsError):
            if source in load_assistant(name, root=root).settings.data.sources:
                using.append(name)
    return using


def content_hash(name: str, root: Path | None = None) -> str:
    """A hash over the paths and contents of an assistant's files, hidden ones left out.

    A file whose size and times are those of the last call in this process isn't read again.
    """
    folder = (root or assistants_root()) / name
    digest = hashlib.sha256()
    for path, times in file_times(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(_file_digest(path, times))
    return digest.hexdigest()[:16]


def times_hash(name: str, root: Path | None = None) -> str:
    """A hash that differs once any of those files was written; opens none of them."""
    folder = (root or assistants_root()) / name
    told = [(path.relative_to(folder).as_posix(), times) for path, times in file_times(folder)]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def file_times(folder: Path) -> tuple[tuple[Path, tuple[int, ...]], ...]:
    """The files under `folder` but the hidden ones, each with what tells that it was changed."""
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts):
            status = path.stat()
            times = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            files.append((path, times))
    return tuple(files)


@functools.lru_cache(maxsize=2**16)
def _file_digest(path: Path, times: tuple[int, ...]) -> bytes:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def load_assistant(
    name: str, overrides: Mapping[str, Any] | None = None, root: Path | None = None
) -> Assistant:
    """Read and validate `<root>/<name>/config.yaml` with `overrides` (dotted keys) on top.

    Raises UnknownAssistantError or SettingsError; both name the file and the cure.
    """
    folder = _assistant_folder(name, root or assistants_root())
    config = folder / CONFIG_FILE
    raw = _read_config(config)
    overrides = dict(overrides or {})
    for dotted, value in overrides.items():
        _put(raw, dotted, value)
    _refuse_two_critics(raw, config)
    warnings = _take_original_keys(raw, config)
    written = dict(raw)
    warnings += fill_lora(raw, folder)
    settings = _resolve_models(_validate(raw, config, overrides), folder)
    shared = settings.has_shared_trunk
    if unread := unread_keys(written, settings.improve_by, shared_trunk=shared):
        told_keys, way = ", ".join(unread), f"improve_by: {settings.improve_by}"
        way += " with critic_config.trunk: shared" if shared else ""
        warnings.append(f"{config}: {way} doesn't use {told_keys}")
    settings = _find_known_answers(_find_deepspeed(settings, folder), folder)
    settings = _find_rewards(settings, folder)
    told = [f"{config}: {text}" for role in ROLES for text in settings.role(role).warnings()]
    return Assistant(name, folder, settings, overrides, [*warnings, *dict.fromkeys(told)])


def unknown_assistant(name: str, root: Path | None = None) -> UnknownAssistantError:
    """The error for a name that is no assistant's: the rule for names, or those there are."""
    root = root or assistants_root()
    if not NAME.fullmatch(name):
        return UnknownAssistantError(
            f"{name!r} is no assistant's name ({NAME_RULE}); name the folder under {root} so"
        )
    names = assistant_names(root)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return UnknownAssistantError(
        f"unknown assistant {name!r}{hint}; those under {root}: {', '.join(names) or 'none'}. "
        f"To make it, put a {CONFIG_FILE} into {root / name}"
    )


def _assistant_folder(name: str, root: Path) -> Path:
    if not NAME.fullmatch(name) or name not in assistant_names(root):
        raise unknown_assistant(name, root)
    return root / name


def _read_config(config: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{config} is missing: copy one from another assistant, or start with `seed: 0`"
        ) from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{config} is not UTF-8 text ({error}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{config} is not valid YAML: {error}") from error
    if raw is None:
        raise SettingsError(f"{config} is empty: it needs at least one setting, such as `seed: 0`")
    if not isinstance(raw, dict):
        raise SettingsError(
            f"{config} holds a {type(raw).__name__}, not `key: value` lines with the sections "
            f"{', '.join(AssistantSettings.model_fields)}"
        )
    return raw


def _put(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    inner = raw
    for section in sections:
        found = inner.get(section)
        inner[section] = inner = dict(found) if isinstance(found, dict) else {}
    inner[key] = value


def _refuse_two_critics(raw: dict[str, Any], config: Path) -> None:
    """Raise SettingsError where a critic's model is named and its trunk shall be the actor's."""
    critic = raw.get("critic_config")
    if isinstance(critic, dict) and critic.get("trunk") == "shared" and critic.get("model"):
        raise SettingsError(
            f"{config}: critic_config.model: {critic['model']!r} names a model of the critic's "
            "own, and critic_config.trunk: shared makes the critic a head on the actor: take "
            "critic_config.model out, or set critic_config.trunk: own"
        )


def _take_original_keys(raw: dict[str, Any], config: Path) -> list[str]:
    """Remove the original's keys that mean something else now; say so for each."""
    warnings = []
    for dotted, meaning in TAKEN.items():
        section, key = dotted.split(".")
        keys = raw.get(section)
        if isinstance(keys, dict) and key in keys:
            raw[section] = keys = dict(keys)
            value = keys.pop(key)
            warnings.append(f"{config}: {dotted}: {value!r} is not used: {meaning}")
    actor = raw.get("actor_config")
    if warnings and isinstance(actor, dict):
        raw["actor_config"], told = _reply_within_row(actor)
        warnings += [f"{config}: {text}" for text in told]
    if isinstance(actor, dict) and "temperature" in actor:
        warnings.append(
            f"{config}: actor_config.temperature: {actor['temperature']!r} is that of the released "
            "assistant's chat; rollouts are sampled at trainer_config.temperature"
        )
    return warnings


def _reply_within_row(actor: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The original cut a reply where its row ended, and set both lengths to 2048."""
    reply, row = actor.get("max_tokens"), actor.get("max_sequence_length")
    if not (isinstance(reply, int) and isinstance(row, int) and 1 < row <= reply):
        return actor, []
    return {**actor, "max_tokens": row // 2}, [
        f"actor_config.max_tokens: {reply} leaves no room for a prompt within max_sequence_length "
        f"{row}: {row // 2} is used; set it to what your longest reply needs"
    ]


def _validate(raw: dict[str, Any], config: Path, overrides: dict[str, Any]) -> AssistantSettings:
    # A section that holds only comments reads as null.
    for section in AssistantSettings.model_fields:
        if section in raw and raw[section] is None and section != "seed":
            raw[section] = {}
    try:
        return AssistantSettings.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(detail, config, overrides) for detail in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _explain(detail: Any, config: Path, overrides: dict[str, Any]) -> str:
    dotted = ".".join(str(part) for part in detail["loc"])
    where = "run_options.overrides" if dotted in overrides else str(config)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        cure = f"did you mean {close[0]!r}?" if close else f"those there are: {', '.join(known)}"
        return f"{where}: unknown key {dotted}; {cure}"
    if detail["type"] == "value_error":
        return ": ".join(filter(None, (where, dotted, str(detail["ctx"]["error"]))))
    value = detail["input"]
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    return f"{where}: {dotted}: {value!r} ({type(value).__name__}): {message}"


def _known_keys(sections: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = AssistantSettings
    below_a_name = False
    for section in sections:
        if below_a_name:
            # The keys of a mapping are names: its values have the settings.
            below_a_name = False
            continue
        field = model.model_fields.get(str(section))
        inner: Any = field.annotation if field else None
        if get_origin(inner) is dict:
            inner, below_a_name = get_args(inner)[1], True
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    taken = [
        key.rsplit(".", 1)[1]
        for key in TAKEN
        if key.rsplit(".", 1)[0] == ".".join(map(str, sections))
    ]
    return [*model.model_fields, *taken]


def _resolve_models(settings: AssistantSettings, folder: Path) -> AssistantSettings:
    """Make local models absolute: they are written relative to the assistant's folder."""

    def absolute(section: _Section) -> _Section:
        paths = {}
        for key in ("model", "tokenizer_path"):
            text = getattr(section, key, None)
            if text and (
                text.startswith((".", "/", "~"))
                or text.endswith(GGUF_SUFFIX)
                or (folder / text).is_dir()
            ):
                paths[key] = str((folder / Path(text).expanduser()).resolve())
        return section.model_copy(update=paths)

    llm = absolute(settings.llm)
    changed: dict[str, Any] = {
        "actor_config": absolute(settings.actor_config),
        "reward_config": absolute(settings.reward_config),
        "llm": llm.model_copy(
            update={"writer": absolute(llm.writer), "judge": absolute(llm.judge)}
        ),
        "evaluation": settings.evaluation.model_copy(
            update={"judge": absolute(settings.evaluation.judge)}
        ),
    }
    return settings.model_copy(update=changed)


def _find_known_answers(settings: AssistantSettings, folder: Path) -> AssistantSettings:
    """Make the path of the questions with known answers absolute, and read them."""
    named = settings.evaluation.known_answers
    if named is None:
        return settings
    found = (folder / Path(named).expanduser()).resolve()
    read_known_questions(found, f"{folder / CONFIG_FILE}: evaluation.known_answers")
    evaluation = settings.evaluation.model_copy(update={"known_answers": str(found)})
    return settings.model_copy(update={"evaluation": evaluation})


def _find_rewards(settings: AssistantSettings, folder: Path) -> AssistantSettings:
    """Make the path of the own reward functions absolute, where any is used, and look into it."""
    # Again, since paths that differ may name the same folder.
    if fault := settings.reward_judge_fault():
        raise SettingsError(f"{folder / CONFIG_FILE}: {fault}")
    if not settings.rewards.functions:
        return settings
    found = find_rewards_file(folder, settings.rewards, f"{folder / CONFIG_FILE}: rewards.file")
    rewards = settings.rewards.model_copy(update={"file": str(found)})
    return settings.model_copy(update={"rewards": rewards})


def _find_deepspeed(settings: AssistantSettings, folder: Path) -> AssistantSettings:
    """Make the paths of DeepSpeed's files absolute, and read them where they are used."""
    changed: dict[str, Any] = {}
    for name in ("actor_config", "reward_config"):
        section = getattr(settings, name)
        if section.deepspeed_enable:
            key = f"{folder / CONFIG_FILE}: {name}.deepspeed_config_path"
            found = find_ds_config(folder, section.deepspeed_config_path, key)
            read_ds_config(found)
            changed[name] = section.model_copy(update={"deepspeed_config_path": str(found)})
    return settings.model_copy(update=changed)
