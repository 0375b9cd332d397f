"""Where a base model's files come from: a hub id at a commit, a local folder, or a GGUF file."""

from __future__ import annotations

import importlib.util
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
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.progress import MEGABYTE, growing, watching
from chatllama_pipeline.settings.training.base_model import GGUF_SUFFIX

# Of whichever HTTP library this version of the hub's client is built on.
TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
PATH_STARTS = ("/", "./", "../", "~")
LOCAL = "local"
INSTALL = ".venv/bin/pip install -c constraints.txt -e '.[gguf]'"
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
    """A folder with a model's files, and the commit they are of (`local` for a folder).

    `gguf` is the file in it that holds config, weights and tokenizer alike, where it is that.
    """

    folder: Path
    commit: str
    gguf: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """What tells transformers' `from_pretrained` to read the GGUF file."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}


def find_model(
    name: str, key: str, *, with_code: bool = False, gguf_file: str | None = None
) -> Found:
    """The files of the model `name` that the setting `key` asks for, checked to be there.

    A name that is neither a folder nor a GGUF file is a hub id, `owner/name` or
    `owner/name@revision`; the revision is resolved to its commit, and safetensors alone are fetched
    where there are any, or `gguf_file` alone. `with_code` fetches the model's own Python files too.
    Raises SettingsError naming key, file and cure.
    """
    is_gguf = name.endswith(GGUF_SUFFIX) or gguf_file is not None
    if is_gguf and importlib.util.find_spec("gguf") is None:
        raise SettingsError(f"{key}: GGUF files are read with the package gguf: {INSTALL}")
    if name.endswith(GGUF_SUFFIX):
        path = Path(name).expanduser()
        if not path.is_file():
            raise SettingsError(f"{key}: the file {path} does not exist")
        return Found(path.parent, LOCAL, path.name)
    if gguf_file is not None:
        found = _find(name, key, False, (gguf_file,))
        if not (found.folder / gguf_file).is_file():
            there = sorted(path.name for path in found.folder.glob(f"*{GGUF_SUFFIX}"))
            raise _no_gguf(name, key, [gguf_file], there)
        return Found(found.folder, found.commit, gguf_file)
    found = _find(name, key, with_code, (SAFE, PICKLED))
    _check_model(found.folder, key)
    return found


def find_tokenizer(name: str, key: str, *, gguf_file: str | None = None) -> Found:
    """The files of the tokenizer `name`, as `find_model` finds a model's."""
    if name.endswith(GGUF_SUFFIX) or gguf_file is not None:
        return find_model(name, key, gguf_file=gguf_file)
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
        return _download(hub_id, revision or "main", key, with_code, weights)
    except SettingsError:
        raise
    except (TRANSPORT_ERROR, HFValidationError, OSError, ValueError) as error:
        raise _not_found(hub_id, revision or "main", key, error) from error


def _download(
    hub_id: str, revision: str, key: str, with_code: bool, weights: tuple[str, ...]
) -> Found:
    wanted = [*TEXT_FILES, *(["*.py"] if with_code else [])]
    gguf = [name for name in weights if name.endswith(GGUF_SUFFIX)]
    # Other formats of the same weights stand in subfolders.
    others = [] if gguf else ["*/*"]
    try:
        info = HfApi().model_info(hub_id, revision=revision, files_metadata=True)
    except OfflineModeIsEnabled:
        # Offline, what an earlier run fetched will do; without it there is no commit to name.
        folder = snapshot_download(
            hub_id,
            revision=revision,
            allow_patterns=gguf or wanted,
            ignore_patterns=others,
            local_files_only=True,
        )
        return Found(Path(folder), Path(folder).name)
    names = [file.rfilename for file in info.siblings or []]
    top = [Path(name) for name in names if "/" not in name]
    chosen = [p for p in weights if p in names or any(name.match(p) for name in top)][:1]
    ggufs = sorted(name for name in names if name.endswith(GGUF_SUFFIX))
    if weights and ggufs and not chosen:
        raise _no_gguf(hub_id, key, gguf, ggufs)
    patterns = gguf or [*wanted, *chosen]
    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type="model")
    size = _megabytes(info.siblings or [], patterns, others)
    with watching("downloads", size, growing(cached / "blobs"), "MB"):
        folder = snapshot_download(
            hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=others
        )
    return Found(Path(folder), Path(folder).name)


def _no_gguf(name: str, key: str, asked: list[str], there: list[str]) -> SettingsError:
    lacks = f"file {asked[0]}" if asked else "weights but as GGUF"
    listed = f" ({', '.join(there)})" if there else ""
    return SettingsError(
        f"{key}: {name} has no {lacks}: set gguf_file in the same section to the GGUF file that "
        f"shall be read, as its repository lists it{listed}"
    )


def _megabytes(files: list[RepoSibling], patterns: list[str], others: list[str]) -> float:
    sizes = {file.rfilename: file.size or 0 for file in files}
    wanted = filter_repo_objects(sizes, allow_patterns=patterns, ignore_patterns=others)
    return sum(sizes[name] for name in wanted) / MEGABYTE


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
        ggufs = sorted(path.name for path in folder.glob(f"*{GGUF_SUFFIX}"))
        if ggufs:
            cure = f"to read {' or '.join(ggufs)}, set gguf_file in the same section to it"
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
