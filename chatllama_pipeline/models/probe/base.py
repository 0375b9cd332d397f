"""The probe of a base model's folder, as the stages `actor_base` and `reward_base` run it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.families.manner import MANNER, Manner
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.models.loading import load_config
from chatllama_pipeline.models.probe.depth import first_layers
from chatllama_pipeline.models.probe.failure import Failure
from chatllama_pipeline.models.probe.language import Spoken, probe_language
from chatllama_pipeline.models.probe.rows import Rows, probe_rows
from chatllama_pipeline.models.probe.scoring import Scored, probe_scoring
from chatllama_pipeline.models.probe.tensors import lost, not_finite
from chatllama_pipeline.models.probe.width import narrowed

Found = TypeVar("Found", Spoken, Scored)


@dataclass(frozen=True)
class Probed:
    """What was tried and found right, in words; how the model is to be run."""

    told: str
    warnings: list[str]


def probe_actor(folder: Path, key: str, name: str, source: Any, tokenizer: Any) -> Probed:
    """Try the language model in `folder` in all that an actor, and the critic beside it, must do.

    `source` is the model that was saved there, where it is at hand, and `tokenizer` its own. A
    manner that isn't the ordinary one is written into the folder's config. Raises SettingsError,
    naming `key` and the model `name`.
    """
    with _refused(folder, key, name):
        model = load_actor(folder, "auto")
        _refuse_infinite(model, source)
        _refuse_changed(source, model)
        rows = probe_rows(tokenizer, model.config.get_text_config().vocab_size)
        spoken = _tried(model, rows, probe_language)
        del model
    with _refused(folder, key, name, " as PPO's critic"):
        scored = _tried(_scoring(folder, source), rows, probe_scoring)
    left_padded = spoken.manner.left_padded and scored.manner.left_padded
    manner = Manner(spoken.manner.steps, left_padded)
    told = (
        f"decodes as it scores (within {spoken.apart:.0e} nats), gives values as alone (within "
        f"{scored.apart:.0e})"
    )
    return _recorded(folder, manner, told, f"{key}.model: {name}")


def probe_reward(folder: Path, key: str, name: str, source: Any, tokenizer: Any) -> Probed:
    """Try the scoring model that `load_reward` makes of `folder`; else as `probe_actor`."""
    with _refused(folder, key, name):
        vocabulary = load_config(folder).get_text_config().vocab_size
        rows = probe_rows(tokenizer, vocabulary)
        model = _scoring(folder, source)
        _refuse_infinite(model, source)
        scored = _tried(model, rows, probe_scoring)
    told = f"scores rows as alone (within {scored.apart:.0e})"
    return _recorded(folder, scored.manner, told, f"{key}.model: {name}")


def probe_writer(model: Any, tokenizer: Any) -> Manner:
    """The manner in which a model that no base was made of is right; it stays as it is.

    Raises Failure where there is none.
    """
    rows = probe_rows(tokenizer, model.config.get_text_config().vocab_size)
    return _tried(model, rows, probe_language, _copied_in_float32).manner


@contextmanager
def _refused(folder: Path, key: str, name: str, role: str = "") -> Iterator[None]:
    """Say of which model, and in which `role`, a probe failed."""
    cure = "name another model, or save it again if its files are damaged"
    try:
        yield
    except Failure as failure:
        raise SettingsError(f"{_named(folder, key, name, role)} {failure}; {cure}") from failure
    except Exception as error:  # a family's own code, or loading it as what it isn't
        reason = next(iter(str(error).strip().splitlines()), "")
        raise SettingsError(
            f"{_named(folder, key, name, role)} can't be run on a few ordinary tokens "
            f"({type(error).__name__}: {reason}); {cure}"
        ) from error


def _named(folder: Path, key: str, name: str, role: str) -> str:
    return f"{key}.model: {name} ({load_config(folder).model_type}){role}"


def _scoring(folder: Path, source: Any) -> Any:
    """The scoring model in `folder`, or on the language model there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of a fresh head
        model = load_reward(folder, "auto")
    if source is None or type(model) is type(source):
        _refuse_changed(source, model)
    else:
        _refuse_changed(source.base_model, model.base_model)
    return model


def _in_float32(model: Any) -> Any:
    return model.float()


def _copied_in_float32(model: Any) -> Any:
    tensors = (*model.parameters(), *model.buffers())
    given = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return model if given == {torch.float32} else copy.deepcopy(model).float()


def _tried(
    model: Any,
    rows: Rows,
    probe: Callable[[Any, Rows], Found],
    in_float32: Callable[[Any], Any] = _in_float32,
) -> Found:
    """Probe a part of `model` in float32, and more of it unless that is ordinary.

    Later stages hold every weight in float32. The model is of no use afterwards, but where
    `in_float32` makes another of it.
    """
    for cut in (narrowed, first_layers):
        with cut(model) as smaller:
            if smaller:
                try:
                    found = probe(in_float32(model), rows)
                except Exception:  # a family may not bear to be cut: then more of it is tried
                    continue
                if found.manner.ordinary:
                    return found
    return probe(in_float32(model), rows)


def _refuse_infinite(model: Any, source: Any) -> None:
    broken = not_finite(model, source)
    if broken is not None:
        raise Failure(f"has NaN or infinite numbers in {broken}", "nothing could be computed by it")


def _refuse_changed(source: Any, loaded: Any) -> None:
    changed = [] if source is None else list(lost(source, loaded))
    if changed:
        raise Failure(
            f"is another model once saved and loaded again: {len(changed)} of its tensors differ "
            f"({', '.join(changed[:3])})",
            "later stages would train that one",
        )


def _recorded(folder: Path, manner: Manner, told: str, named: str) -> Probed:
    """Write a manner that isn't the ordinary one into the folder's config."""
    if manner.ordinary:
        return Probed(told, [])
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {MANNER: asdict(manner)}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    slow = [f"{named} {manner}: rollouts and evaluation take much longer"]
    return Probed(f"{told}; {manner}", slow if manner.steps == "whole" else [])
