"""A tiny assistant on a store of its own, made by the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from dagster._cli.asset import asset_cli

from chatllama_pipeline.store.versions import Store
from chatllama_pipeline.store.views import RunStore, newest_run
from tests.pipeline.warm import shared_warm_parent
from tests.quick import quick_storage
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[2]
GUARD = Path(__file__).parent / "guard"

# As little as teaches every stage something to do; quality is the quickstart's to show.
TINY_CONFIG = """
seed: 0
data: {sources: [grammar], number_of_samples: 600, label_noise: 0.05, actor_replies: both,
  test_share: 0.12, validation_share: 0.08}
llm: {provider: rules, synthetic_conversations: 20, synthetic_prompts: 20,
  synthetic_completions: 120, scored_pairs: 20}
actor_config: {model: scratch, scratch_hidden_size: 32, scratch_vocabulary: 512,
  max_sequence_length: 128, max_tokens: 24, batch_size: 16, lr: 0.005, max_steps: 40,
  evaluations: 2, checkpoint_steps: 10}
reward_config: {model: scratch, scratch_hidden_size: 32, scratch_vocabulary: 512,
  max_sequence_length: 128, batch_size: 16, lr: 0.002, max_steps: 20, evaluations: 2}
trainer_config: {num_episodes: 3, max_timesteps: 16, update_timesteps: 16, batch_size: 16,
  epochs: 1, actor_lr: 0.0002, critic_lr: 0.001}
evaluation: {prompts: 24, bootstrap_samples: 200}
"""

# Copies of what steps print, by a `tail` for each: the tests' own output is captured already.
QUIET = """
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""


@dataclass(frozen=True)
class Place:
    """Folders of a test's own: assistants, store, Dagster's home, and what the guard wrote."""

    root: Path

    @property
    def store(self) -> Store:
        return Store(self.root / "storage")

    def last_run(self, name: str) -> RunStore:
        """The store as the assistant's last run saw it."""
        run = newest_run(self.store.root, name, since=0.0)
        assert run is not None
        return run

    def add_assistant(self, name: str, config: str) -> Path:
        folder = self.root / "assistants" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config)
        return folder

    def environment(self) -> dict[str, str]:
        home = self.root / "dagster_home"
        home.mkdir(parents=True, exist_ok=True)
        return {
            **os.environ,
            "CHATLLAMA_ASSISTANTS": str(self.root / "assistants"),
            "CHATLLAMA_STORE": str(self.root / "storage"),
            "DAGSTER_HOME": str(home),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(GUARD),
            "NETWORK_ATTEMPTS": str(self.root / "network_attempts"),
            "GUARDED_PROCESSES": str(self.root / "guarded_processes"),
        }

    def command(self, name: str, select: str = "*", **run_options: Any) -> list[str]:
        config = {
            "loggers": {"console": {}},
            "resources": {"run_options": {"config": run_options}},
        }
        return [
            *(str(Path(sys.executable).with_name("dagster")), "asset", "materialize"),
            *("-m", "chatllama_pipeline.definitions", "--select", select, "--partition", name),
            *("--config-json", json.dumps(config)),
        ]

    def materialize(
        self, name: str, select: str = "*", **run_options: Any
    ) -> subprocess.CompletedProcess[str]:
        """The command in this process, which has imported already what a new one would import.

        Trainings are children all the same, forked of a warm parent that runs share. `stderr` holds
        what a person reads.
        """
        environment = self.environment()
        (Path(environment["DAGSTER_HOME"]) / "dagster.yaml").write_text(QUIET)
        _, _, *arguments = self.command(name, select, **run_options)
        with warnings.catch_warnings(), quick_storage(), shared_warm_parent():
            warnings.simplefilter("ignore")
            ended = CliRunner(env=environment).invoke(asset_cli, arguments)
        stderr = ended.stderr
        if ended.exc_info and not isinstance(ended.exception, SystemExit | None):
            stderr += "".join(traceback.format_exception(*ended.exc_info))
        return subprocess.CompletedProcess(arguments, ended.exit_code, ended.stdout, stderr)

    def by_command(
        self, name: str, select: str = "*", timeout: float = 2 * PATIENCE, **run_options: Any
    ) -> subprocess.CompletedProcess[str]:
        """The command in a process of its own, guarded as its children are."""
        return subprocess.run(
            self.command(name, select, **run_options),
            cwd=REPOSITORY,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def chatllama(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of ours in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "chatllama_pipeline", *arguments],
            cwd=REPOSITORY,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def versions(self, name: str) -> dict[str, str]:
        """Asset -> current version, of all assets that have one."""
        found = {}
        for folder in sorted(path for path in self.store.root.iterdir() if path.name[0] != "_"):
            owner = None if (folder / "_shared").is_dir() else name
            if current := self.store.current(folder.name, owner):
                found[folder.name] = current.version
        return found

    def made(self, name: str) -> set[str]:
        """The assets that the last run made rather than reused."""
        owners = {asset: None if asset == "grammar" else name for asset in self.versions(name)}
        currents = {asset: self.store.current(asset, owner) for asset, owner in owners.items()}
        return {asset for asset, current in currents.items() if current and not current.reused}
