"""A release as files for llama.cpp and Ollama, none of which stays before all have been tried."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig

from chatllama_pipeline.errors import CheckError, DataError
from chatllama_pipeline.evaluation.judging import judge_replies
from chatllama_pipeline.llm.providers import Judge
from chatllama_pipeline.models.bases.exportable import require_exportable
from chatllama_pipeline.models.chat.replies import reply_of, written_text
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.serving.gguf.conversion import convert
from chatllama_pipeline.serving.gguf.llama_cpp import LlamaCpp
from chatllama_pipeline.serving.gguf.modelfile import modelfile
from chatllama_pipeline.serving.gguf.parity import Known, Parity, compare, known_of
from chatllama_pipeline.serving.gguf.probes import Probe
from chatllama_pipeline.serving.gguf.rounding import FILE_TYPES, round_weights
from chatllama_pipeline.serving.loaded import Loaded, load_release
from chatllama_pipeline.statistics import bootstrap_interval, mean

F16 = "f16"
KINDS = (F16, *FILE_TYPES)
CARD, MODELFILE = "README.md", "Modelfile"
HEADING = "\n## GGUF\n\n"
_MEGABYTE = 1e6
_BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class Against:
    """The file's win rate over the full model by a judge, ties counting half, with its interval."""

    judge: str
    prompts: int
    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.rate:.3f} (95 % interval {self.low:.3f} to {self.high:.3f}; {self.judge}, "
            f"{self.prompts} prompts)"
        )


@dataclass(frozen=True)
class Exported:
    """A file that was made, and how it compares with the model that it was made from."""

    file: str
    megabytes: float
    parity: Parity
    against: Against | None

    def __str__(self) -> str:
        told = f"{self.file}: {self.megabytes:.1f} MB, {self.parity}"
        return told if self.against is None else f"{told}; wins {self.against}"


def export(
    folder: Path,
    name: str,
    kinds: Sequence[str],
    probes: Sequence[Probe],
    target: Path,
    *,
    floor: float,
    judge: Judge | None,
    progress: Progress,
) -> list[Exported]:
    """Write the release in `folder` to `target` as `kinds`, with Modelfiles and a model card.

    Raises SettingsError for a family that can't be written, DataError where a file stands already
    or none can, and CheckError where a file reads a probe's prompt otherwise than the model, or
    fewer of the next tokens than the share `floor` are the model's own.
    """
    named = [file for kind in kinds for file in _names(name, kind, kinds)]
    for taken in (*named, CARD):
        if (target / taken).exists():
            raise DataError(f"{target / taken} exists already: name another folder, or remove it")
    try:
        target.mkdir(parents=True, exist_ok=True)
        within = tempfile.TemporaryDirectory(dir=target, prefix=".export-")
    except OSError as error:
        raise DataError(
            f"{target}: can't be written to ({error.strerror}): name another folder"
        ) from error
    with within as place:
        made = Path(place)
        rules = (floor, judge, progress)
        found, told = write_files(folder, name, kinds, probes, made, *rules)
        card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
        # The files that the release holds itself are told of in it.
        (made / CARD).write_text(card.partition(HEADING)[0] + told, encoding="utf-8")
        for path in made.iterdir():
            path.rename(target / path.name)
    return found


def write_files(
    folder: Path,
    name: str,
    kinds: Sequence[str],
    probes: Sequence[Probe],
    target: Path,
    floor: float,
    judge: Judge | None,
    progress: Progress,
) -> tuple[list[Exported], str]:
    """Write the release in `folder` to `target` as `kinds`, with Modelfiles; what was made, and
    what a model card says of it.

    Raises as `export` does; files may then stand in `target`.
    """
    full = load_release(folder)
    told = f"{name} as GGUF"
    require_exportable(full.model.config, type(full.model).__name__, full.tokenizer, told)
    known = known_of(full, probes)
    found, models = [], []
    with tempfile.TemporaryDirectory(dir=target, prefix=".whole-") as place:
        whole = Path(place) / "whole"
        convert(folder, full.tokenizer, name, whole)
        for kind in kinds:
            file_name, model_name = _names(name, kind, kinds)
            file = target / file_name
            if kind == F16:
                shutil.copyfile(whole, file)
            else:
                round_weights(whole, kind, file)
            found.append(_tried(file, full, known, floor, judge, progress))
            progress.say(str(found[-1]))
            if (text := modelfile(full, file_name)) is not None:
                (target / model_name).write_text(text, encoding="utf-8")
                models.append(model_name)
    return found, _card(found, models)


def _names(name: str, kind: str, kinds: Sequence[str]) -> tuple[str, str]:
    """The names of a file and of its Modelfile, which alone needs no name of its own."""
    return f"{name}-{kind}.gguf", MODELFILE if len(kinds) == 1 else f"{MODELFILE}.{kind}"


def _tried(
    file: Path,
    full: Loaded,
    known: Sequence[Known],
    floor: float,
    judge: Judge | None,
    progress: Progress,
) -> Exported:
    with _running(file, full.context) as server:
        parity = compare(server, known, file.name)
        if parity.agreement < floor:
            raise CheckError(
                f"{file.name} chooses the full model's own next token in {parity}, less than "
                f"{floor:.0%}: nothing was written. Take more bits (q8_0, f16), or lower "
                "checks.min_gguf_agreement"
            )
        against = None if judge is None else _judged(server, full, known, judge, progress)
    return Exported(file.name, file.stat().st_size / _MEGABYTE, parity, against)


def _judged(
    server: LlamaCpp, full: Loaded, known: Sequence[Known], judge: Judge, progress: Progress
) -> Against | None:
    """Greedy replies of both to the same prompts, compared by the judge."""
    room = [one for one in known if len(one.prompt) + full.max_tokens <= full.context]
    prompts = [one.prompt for one in room]

    def texts(written: Iterable[list[int]]) -> list[str]:
        said = (written_text(full.tokenizer, ids, full.stops) for ids in written)
        return [reply_of(full.tokenizer, text).reply for text in said]

    before = texts(_greedy(full, prompt) for prompt in prompts)
    after = texts(server.greedy(prompt, full.max_tokens) for prompt in prompts)
    judged = judge_replies(judge, [one.turns for one in room], before, after, progress)
    rate = mean(judged.wins)
    if rate is None:
        return None
    low, high = bootstrap_interval(judged.wins, _BOOTSTRAP_SAMPLES, 0)
    assert low is not None and high is not None
    return Against(judge.name, len(judged.wins), rate, low, high)


@torch.inference_mode()
def _greedy(full: Loaded, prompt: list[int]) -> list[int]:
    row = torch.tensor([prompt], device=full.model.device)
    plain = GenerationConfig(
        do_sample=False,
        max_new_tokens=full.max_tokens,
        eos_token_id=full.stops,
        pad_token_id=full.tokenizer.pad_token_id,
    )
    output = full.model.generate(row, attention_mask=torch.ones_like(row), generation_config=plain)
    ids: list[int] = output[0, len(prompt) :].tolist()
    return ids


@contextlib.contextmanager
def _running(file: Path, context: int) -> Iterator[LlamaCpp]:
    server = LlamaCpp(file, context)
    try:
        yield server
    finally:
        server.close()


def _card(made: Sequence[Exported], modelfiles: Sequence[str]) -> str:
    """What the model card says of the files."""
    rows = [
        f"| `{one.file}` | {one.megabytes:.1f} | {one.parity.agreement:.1%} "
        f"| {'not judged' if one.against is None else one.against} |"
        for one in made
    ]
    parity = made[0].parity
    use = [f"ollama create my-assistant -f {name}" for name in modelfiles]
    ollama = (
        "```bash\n" + "\n".join(use) + "\n```"
        if use
        else "Ollama can't say its chat template, so that there is no Modelfile; llama.cpp reads "
        "the template in the file (`llama-server --jinja`)."
    )
    return (
        f"{HEADING}For llama.cpp and Ollama. Each file was run before it was kept: it reads "
        f"{parity.prompts} test prompts as the same ids as the model, and of {parity.tokens} next "
        "tokens so many are the full model's own.\n\n"
        "| file | MB | same next token | win rate over the full model |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n{ollama}\n\n"
        "There, control tokens that somebody writes are read as control tokens.\n"
    )
