"""Has Dagster know what an assistant's folder and the store say, as often as either changes."""

from pathlib import Path

import dagster as dg

from assets.runs.standing import tell
from chatllama_pipeline.errors import ChatllamaError
from chatllama_pipeline.settings.folder import content_hash, load_assistant
from chatllama_pipeline.store.manifests import CURRENT
from chatllama_pipeline.store.versions import Store, store_root
from chatllama_pipeline.store.views import MADE, VIEWS

# Per instance and assistant, what stood there when this process last looked.
_LOOKED: dict[tuple[str, str], object] = {}


def look(instance: dg.DagsterInstance, name: str) -> str | None:
    """Tell Dagster of an assistant whatever changed; returns why that can't be done, if so."""
    try:
        store = Store(store_root())
        store.look(name)
        there = (content_hash(name), _changed(store.root, name))
        known = (str(instance.get_ref().to_dict()) if instance.is_persistent else "", name)
        if _LOOKED.get(known) != there:
            tell(instance, load_assistant(name), store)
            _LOOKED[known] = there
    except (ChatllamaError, OSError) as error:
        return f"{name} can't be looked at now: {error}"
    return None


def _changed(root: Path, name: str) -> list[float]:
    """When what the store has of an assistant, and what all share, was last changed."""
    patterns = (f"[!_]*/{name}/{CURRENT}", f"[!_]*/_shared/{CURRENT}", f"{VIEWS}/{name}/*/{MADE}")
    paths = [path for pattern in patterns for path in root.glob(pattern)]
    return sorted(path.stat().st_mtime for path in paths)
