"""What each assistant's config.yaml says, read again only where its folder changed."""

import functools
from pathlib import Path

from chatllama_pipeline.errors import ChatllamaError
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.folder import assistants_root, file_times, load_assistant

Files = tuple[tuple[Path, tuple[int, ...]], ...]


def settings_or_why(name: str) -> tuple[AssistantSettings | None, str]:
    """An assistant's settings, or None and why it has none; whatever is wrong harms no other."""
    root = assistants_root()
    try:
        return _settings(root, name, file_times(root / name)), ""
    except ChatllamaError as error:
        return None, str(error)
    except Exception as error:
        return None, f"{name} could not be read: {type(error).__name__}: {error}"


@functools.lru_cache(maxsize=2**10)
def _settings(root: Path, name: str, files: Files) -> AssistantSettings:
    return load_assistant(name, root=root).settings
