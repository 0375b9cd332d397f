"""What is looked at: installation, machine, store, cluster, Dagster's home, every assistant."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

from chatllama_pipeline.cli.dagster_runs import DAGSTER_HOME, dagster_environment, home_command
from chatllama_pipeline.errors import ChatllamaError, SettingsError, StoreError
from chatllama_pipeline.records import Finding

DISTRIBUTION = "chatllama-pipeline"
DAGSTER_SECONDS = 120
# Of a mode: what the group and everybody may do.
OTHERS = 0o077


def installation() -> Iterator[Finding]:
    """Whether every requirement is there in a version that is asked for."""
    from packaging.requirements import Requirement

    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        told = f"{DISTRIBUTION} is not installed here; run `make quickstart` once"
        yield Finding("fault", "installation", told)
        return
    wrong = []
    for requirement in map(Requirement, required):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is missing")
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement} is asked for, {have} is there")
    python = f"Python {sys.version.split()[0]}, Dagster {metadata.version('dagster')}"
    if wrong:
        yield Finding("fault", "installation", f"{python}; {'; '.join(wrong)}")
    else:
        yield Finding("ok", "installation", f"{python}, all that is required is there")


def machine() -> Iterator[Finding]:
    """Cores, memory, and the GPUs that a training may use."""
    import psutil

    from chatllama_pipeline.gpus import usable_gpus
    from chatllama_pipeline.launch.child import cores_at_hand

    memory = psutil.virtual_memory()
    told = f"{cores_at_hand()} cores, {memory.available / 2**30:.1f} GiB of memory free"
    try:
        gpus = [f"{gpu.title} ({gpu.id}, {gpu.free_share:.0%} free)" for gpu in usable_gpus()]
    except SettingsError as error:
        yield Finding("fault", "machine", f"{told}; {error}")
        return
    named = f"GPUs: {', '.join(gpus)}" if gpus else "no GPU for torch: trainings run on the CPU"
    yield Finding("ok", "machine", f"{told}; {named}")


def store() -> Iterator[Finding]:
    """Whether the store can be written, links, and has room."""
    from chatllama_pipeline.store.places.folder import LOW_DISK_BYTES, QUICK
    from chatllama_pipeline.store.places.folder import findings as tried_alone
    from chatllama_pipeline.store.remote.mirror import mirror_of
    from chatllama_pipeline.store.versions import store_root

    try:
        root = store_root()
    except StoreError as error:
        yield Finding("fault", "store", str(error))
        return
    place = root if root.exists() else next(path for path in root.parents if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor") as folder:
            for found in tried_alone(Path(folder), QUICK):
                if found.level != "ok":
                    yield Finding(found.level, "store", f"{root}: {found.what}: {found.told}")
    except OSError as error:
        told = f"{root} can't be written ({error.strerror}): free it, or set CHATLLAMA_STORE"
        yield Finding("fault", "store", told)
        return
    if root.exists() and root.stat().st_mode & OTHERS:
        told = f"{root}: others on this machine may enter it: chmod 700 {root}, unless they shall"
        yield Finding("warning", "store", told)
    try:
        if mirror := mirror_of(root):
            mirror.bucket.pointers(None)
            yield Finding("ok", "store", f"{mirror.bucket.url}, by its cache {root}")
    except StoreError as error:
        yield Finding("fault", "store", str(error))
        return
    free = shutil.disk_usage(place).free
    level: Literal["ok", "warning"] = "ok" if free >= LOW_DISK_BYTES else "warning"
    yield Finding(level, "store", f"{root}, {free / 1e9:.1f} GB free")


def cluster() -> Iterator[Finding]:
    """Whether the cluster of `CHATLLAMA_COMPUTE` would take a job; nothing where none is named."""
    if not os.environ.get("CHATLLAMA_COMPUTE"):
        return
    from chatllama_pipeline.store.versions import store_root
    from resources.compute_file import compute_here

    try:
        compute = compute_here()
        compute.require_valid()
        root = store_root()
        place = root if root.exists() else next(path for path in root.parents if path.exists())
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor") as folder:
            compute.require_cluster(Path(folder))
    except (ChatllamaError, OSError) as error:
        yield Finding("fault", "cluster", str(error))
        return
    if compute.launcher != "local":
        told = f"{compute.launcher} would take a job of {compute.nodes} node(s)"
        yield Finding("ok", "cluster", told)


def dagster_home() -> Iterator[Finding]:
    """Whether Dagster opens its home: its history may be of another version."""
    environment = dagster_environment()
    home = environment.get(DAGSTER_HOME)
    if not home:
        yield Finding("warning", "Dagster", f"{DAGSTER_HOME} isn't set: no history, no queue")
        return
    try:
        done = subprocess.run(
            home_command(), env=environment, capture_output=True, text=True, timeout=DAGSTER_SECONDS
        )
    except subprocess.TimeoutExpired:
        told = f"{home} didn't open in {DAGSTER_SECONDS} s: is its database at hand?"
        yield Finding("fault", "Dagster", told)
        return
    if done.returncode == 0:
        yield Finding("ok", "Dagster", home)
        return
    last = "".join(done.stderr.strip().splitlines()[-1:])
    yield Finding("fault", "Dagster", last.removeprefix("error: "))


def assistants() -> Iterator[Finding]:
    """Every assistant: its settings, its keys, and what a run would make again."""
    from chatllama_pipeline.settings.folder import (
        assistant_names,
        assistants_root,
        misnamed_folders,
        unknown_assistant,
    )

    names = assistant_names()
    if not names:
        yield Finding("fault", "assistants", f"there is none under {assistants_root()}")
    for folder in misnamed_folders():
        yield Finding("warning", "assistants", str(unknown_assistant(folder)))
    for name in names:
        try:
            yield from _assistant(name)
        except ChatllamaError as error:
            yield Finding("fault", name, str(error))


def _assistant(name: str) -> Iterator[Finding]:
    from chatllama_pipeline.lineage.recipes import require_pins
    from chatllama_pipeline.lineage.status import asset_statuses
    from chatllama_pipeline.llm.client.sdk import read_key
    from chatllama_pipeline.settings.assistant import ROLES
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    assistant, versions = load_assistant(name), Store(store_root())
    require_pins(assistant, versions)
    for warning in assistant.warnings:
        yield Finding("warning", name, warning)
    keyless = dict[str, None]()
    for role in ROLES:
        try:
            read_key(assistant.settings.role(role))
        except ChatllamaError as error:
            keyless[str(error)] = None
    yield from (Finding("fault", name, told) for told in keyless)
    stale = [status.asset for status in asset_statuses(assistant, versions) if status.stale]
    told = f"a run makes {', '.join(stale)}" if stale else "all is current"
    yield Finding("ok", name, told)
