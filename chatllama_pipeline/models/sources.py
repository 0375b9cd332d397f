"""Where a base model's files come from: a hub id at a commit, or a local folder; checked first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from chatllama_pipeline.errors import SettingsError

# Of whichever HTTP library this version of the hub's client is built on.
TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
PATH_STARTS = ("/", "./", "../", "~")
LOCAL = "local"
# As transformers reads them; Mistral's repositories hold the same once more, as `consolidated`.
SAFE, PICKLED = "model*.safetensors", "pytorch_model*.bin"
SAFE_INDEX, PICKLED_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
# Configs, tokenizers and templates; weights are chosen by what there is.
TEXT_FILES = ("*.json", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class Found:
    """A folder with a model's files, and the commit they are of (`local` for a folder)."""

    folder: Path
    commit: str


def find_model(name: str, key: str, *, with_code: bool = False) -> Found:
    """The files of the model `name` that the setting `key` asks for, checked to be whole.

    A name that is no folder is a hub id, `owner/name` or `owner/name@revision`; the revision is
    resolved to its commit, and safetensors alone are fetched where there are any. `with_code`
    fetches the model's own Python files too. Raises SettingsError naming key, file and cure.
    """
    found = _find(name, key, with_code, (SAFE, PICKLED))
    _check_model(found.folder, key)
    return found


def find_tokenizer(name: str, key: str) -> Found:
    """The files of the tokenizer `name`, as `find_model` finds a model's."""
    found = _find(name, key, False, ())
    require_tokenizer(found.folder, key)
    return found


def require_tokenizer(folder: Path, key: str) -> None:
    """Raise SettingsError where `folder` has no tokenizer."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise SettingsError(
            f"{key}: the folder {folder} has no tokenizer (tokenizer.json); save the model's "
            "tokenizer there with save_pretrained, or set tokenizer_path in the same section"
        )


def is_pickled(folder: Path) -> bool:
    """Whether the weights in `folder` stand in pickle files alone."""
    return not any(folder.glob(SAFE))


def _find(name: str, key: str, with_code: bool, weights: tuple[str, ...]) -> Found:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Found(folder, LOCAL)
    if name.startswith(PATH_STARTS):
        raise SettingsError(f"{key}: the folder {folder} does not exist")
    hub_id, _, revision = name.partition("@")
    try:
        return _download(hub_id, revision or "main", with_code, weights)
    except (TRANSPORT_ERROR, HFValidationError, OSError, ValueError) as error:
        raise _not_found(hub_id, revision or "main", key, error) from error


def _download(hub_id: str, revision: str, with_code: bool, weights: tuple[str, ...]) -> Found:
    wanted = [*TEXT_FILES, *(["*.py"] if with_code else [])]
    try:
        info = HfApi().model_info(hub_id, revision=revision)
    except OfflineModeIsEnabled:
        # Offline, what an earlier run fetched will do; without it there is no commit to name.
        folder = snapshot_download(hub_id, revision=revision, local_files_only=True)
        return Found(Path(folder), Path(folder).name)
    names = [file.rfilename for file in info.siblings or []]
    for pattern in weights:
        if any(Path(name).match(pattern) and "/" not in name for name in names):
            wanted.append(pattern)
            break
    # Other formats of the same weights stand in subfolders.
    folder = snapshot_download(
        hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]
    )
    return Found(Path(folder), Path(folder).name)


def _not_found(hub_id: str, revision: str, key: str, error: Exception) -> SettingsError:
    page = f"{constants.ENDPOINT}/{hub_id}"
    if isinstance(error, GatedRepoError):
        text = (
            f"{key}: {hub_id} is gated: ask for access on its page {page}, make a token at "
            f"{constants.ENDPOINT}/settings/tokens and set HF_TOKEN to it"
        )
    elif isinstance(error, RevisionNotFoundError):
        text = f"{key}: {hub_id} has no revision {revision!r}: {page} lists those there are"
    elif isinstance(error, RepositoryNotFoundError):
        text = (
            f"{key}: {hub_id} is no model on the hub, nor a folder: check the spelling on {page}; "
            "a private one needs HF_TOKEN set to a token that may read it"
        )
    elif isinstance(error, HFValidationError):
        text = f"{key}: {hub_id!r} is no hub id (owner/name or owner/name@revision), nor a folder"
    elif isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        text = (
            f"{key}: {hub_id}@{revision} was never fetched on this machine, and the hub is out of "
            "reach: unset HF_HUB_OFFLINE, give a local folder, or set model: scratch"
        )
    else:
        text = (
            f"{key}: {hub_id} could not be fetched from {constants.ENDPOINT} "
            f"({str(error).splitlines()[0]}): run again (what was fetched is kept), give a local "
            "folder, or set model: scratch, which needs no network"
        )
    return SettingsError(text)


def _check_model(folder: Path, key: str) -> None:
    """Raise SettingsError where config, weights or one of their shards is missing."""
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(any(folder.glob(pattern)) for pattern in (SAFE, PICKLED)):
        missing.append("weights (model.safetensors)")
    if missing:
        cure = "save the model there with save_pretrained"
        if (folder / "adapter_config.json").is_file():
            cure = "it holds a LoRA adapter: merge it into its base (peft's merge_and_unload) first"
        raise SettingsError(f"{key}: the folder {folder} has no {' and no '.join(missing)}; {cure}")
    index = folder / (PICKLED_INDEX if is_pickled(folder) else SAFE_INDEX)
    if index.is_file():
        listed = json.loads(index.read_text())["weight_map"].values()
        lost = sorted({name for name in listed if not (folder / name).is_file()})
        if lost:
            raise SettingsError(
                f"{key}: the folder {folder} lacks {', '.join(lost)}, {len(lost)} of the "
                f"{len(set(listed))} files that {index.name} lists: copy or download it again"
            )
