"""Each family through the real base stages, and what came of it held against plain forwards.

    python -m tests.families.sweep [FAMILY ...]

writes `families.json` beside this file; the table in docs/making/models.md is made of it.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.adapters.lora import add_adapter, merge_adapter
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.families.decoding import decoding
from chatllama_pipeline.models.families.language import response_logits
from chatllama_pipeline.models.families.manner import manner_of
from chatllama_pipeline.models.heads import load_actor, load_reward, response_values, score_rows
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings import LoraSettings
from chatllama_pipeline.training.ppo.rollout import pad_left
from tests.families.every import families, make
from tests.tiny import QUIET

RECORD = Path(__file__).with_name("families.json")
# Another tokenizer's ids, other lengths than the probe's: longer than a window, some leave early.
LENGTHS, REPLIES, COLUMNS = (3, 17, 9, 1), (6, 2, 6, 4), 6
WITHIN = 1e-2
RIGHT = "right"


def judge(family: str, root: Path) -> dict[str, str]:
    """What each role of a family came to: "right", how it differs from that, or why it can't be."""
    source = make(family, root / "source")
    found: dict[str, str] = {}
    for stage, key in (("actor_base", "actor_config"), ("reward_base", "reward_config")):
        output = root / stage
        output.mkdir()
        places = (str(output), str(root / "run"), str(root / "result"))
        spec = StageSpec(stage, "tiny", {key: {"model": str(source)}}, {}, *places)
        try:
            run(spec, QUIET)
        except SettingsError as error:
            found[stage] = f"refused: {error}".replace(f"{source}", "it")
            continue
        found[stage] = str(manner_of(load_actor(output, torch.float32).config))
    if not found["actor_base"].startswith("refused"):
        found["decoding"] = _held(_decodes, root / "actor_base")
        found["chat"] = _held(_generates, root / "actor_base")
        found["padding"] = _held(_scores_padded, root / "actor_base")
        found["adapter"] = _held(_merges, root / "actor_base")
        found["critic"] = _held(_gives_values, root / "actor_base")
    if not found["reward_base"].startswith("refused"):
        found["reward"] = _held(_scores_rows, root / "reward_base")
    return found


def _held(check: Callable[[Path], float], folder: Path) -> str:
    try:
        apart = check(folder)
    except SettingsError as error:
        return f"refused: {error}"
    return RIGHT if apart <= WITHIN else f"wrong by {apart:.2g}"


def _rows(model: Any) -> tuple[list[list[int]], list[list[int]]]:
    draw = torch.Generator().manual_seed(7)
    size = model.config.get_text_config().vocab_size

    def some(length: int) -> list[int]:
        return torch.randint(10, size, (length,), generator=draw).tolist()

    return [some(length) for length in LENGTHS], [some(length) for length in REPLIES]


def _batch(model: Any) -> tuple[torch.Tensor, ...]:
    prompts, replies = _rows(model)
    response = torch.tensor([reply + [5] * (COLUMNS - len(reply)) for reply in replies])
    actions = torch.arange(COLUMNS) < torch.tensor(REPLIES)[:, None]
    return *pad_left(prompts, 1), response, actions


def _plain(model: Any, prompt: list[int], reply: list[int]) -> torch.Tensor:
    """Log-probabilities `[T,V]` by transformers alone, one forward for each token."""
    found = []
    for length in range(len(reply)):
        if model.config.is_encoder_decoder:
            begun = torch.tensor([[model.config.decoder_start_token_id, *reply[:length]]])
            output = model(input_ids=torch.tensor([prompt]), decoder_input_ids=begun)
        else:
            output = model(input_ids=torch.tensor([prompt + reply[:length]]), use_cache=False)
        found.append(output.logits[0, -1].log_softmax(-1))
    return torch.stack(found)


@torch.no_grad()
def _decodes(folder: Path) -> float:
    """Step by step, rows leaving as they end, against plain forwards."""
    model = load_actor(folder, torch.float32)
    ids, mask, response, actions = _batch(model)
    growing, active, worst = decoding(model, ids, mask, COLUMNS), torch.arange(len(ids)), 0.0
    expected = [_plain(model, *row) for row in zip(*_rows(model), strict=True)]
    for column in range(COLUMNS):
        kept = actions[active, column].nonzero()[:, 0]
        if len(kept) < len(active):
            growing.keep(kept)
            active = active[kept]
        said = growing.next_logits().log_softmax(-1)
        for row, logits in zip(active.tolist(), said, strict=True):
            worst = max(worst, float((logits - expected[row][column]).abs().max()))
        growing.append(response[active, column])
    return worst


@torch.no_grad()
def _generates(folder: Path) -> float:
    """transformers' own generate, as a release is talked to: no token is far from the likeliest."""
    model, worst = load_actor(folder, torch.float32), 0.0
    cached = manner_of(model.config).steps != "whole"
    for prompt in _rows(model)[0]:
        ids = torch.tensor([prompt])
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=COLUMNS,
            do_sample=False,
            use_cache=cached,
        )
        start = 1 if model.config.is_encoder_decoder else len(prompt)
        said = found[0, start:].tolist()
        likely = _plain(model, prompt, said)
        chosen = likely.gather(1, torch.tensor(said)[:, None])[:, 0]
        worst = max(worst, float((likely.amax(1) - chosen).max()))
    return worst


@torch.no_grad()
def _scores_padded(folder: Path) -> float:
    model = load_actor(folder, torch.float32)
    said = response_logits(model, *_batch(model), temperature=1.0).log_softmax(-1)
    pairs = zip(*_rows(model), said, strict=True)
    return max(
        float((row[: len(reply)] - _plain(model, prompt, reply)).abs().max())
        for prompt, reply, row in pairs
    )


def _merges(folder: Path) -> float:
    """An adapter that counts, before and after its merge; relative to what it changes."""
    model = load_actor(folder, torch.float32)
    bare = response_logits(model, *_batch(model), temperature=1.0)
    add_adapter(model, LoraSettings(), "actor_config", folder, seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                weight.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(0))
        before = response_logits(model, *_batch(model), temperature=1.0)
        after = response_logits(merge_adapter(model), *_batch(model), temperature=1.0)
    return float((after - before).abs().max() / (before - bare).abs().max())


def _scoring(folder: Path) -> tuple[Any, list[Example]]:
    torch.manual_seed(0)
    model = load_reward(folder, torch.float32)
    return model, [Example([*p, *r], len(p)) for p, r in zip(*_rows(model), strict=True)]


@torch.no_grad()
def _scores_rows(folder: Path) -> float:
    """Scores of padded rows against the head on a plain forward of the backbone."""
    model, rows = _scoring(folder)
    alone = torch.cat([_last_value(model, row) for row in rows])
    return float((score_rows(model, rows, 1) - alone).abs().max() / alone.abs().max())


def _last_value(model: Any, row: Example) -> torch.Tensor:
    ids = torch.tensor([row.ids])
    if model.config.is_encoder_decoder:
        start = torch.tensor([[model.config.decoder_start_token_id]])
        begun = torch.cat([start, ids[:, row.prompt_length :]], dim=1)
        prompt = ids[:, : row.prompt_length]
        hidden = model.base_model(input_ids=prompt, decoder_input_ids=begun).last_hidden_state
    else:
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    last: torch.Tensor = model.score(hidden)[0, -1]
    return last


@torch.no_grad()
def _gives_values(folder: Path) -> float:
    """A critic's value before each row's last token against the score of the row without it."""
    model, rows = _scoring(folder)
    found = response_values(model, *_batch(model))
    shorter = [row._replace(ids=row.ids[:-1]) for row in rows]
    alone = torch.cat([_last_value(model, row) for row in shorter])
    last = torch.stack([row[length - 1] for row, length in zip(found, REPLIES, strict=True)])
    return float((last - alone).abs().max() / alone.abs().max())


def table(record: dict[str, dict[str, str]]) -> list[str]:
    """The docs' lines: families of the same outcome share one, the most common first."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for family, found in record.items():
        grouped.setdefault(_cells(found), []).append(family)
    lines = [
        "| families | decodes as it scores, stopped rows leaving | padding before a row | "
        "LoRA, merged | critic | reward model |",
        "|---|---|---|---|---|---|",
    ]
    for cells, names in sorted(grouped.items(), key=lambda item: (-len(item[1]), item[1])):
        told = ", ".join(f"`{name}`" for name in sorted(names))
        lines.append(f"| {told} | {' | '.join(cells)} |")
    return lines


def _cells(found: dict[str, str]) -> tuple[str, ...]:
    reward = _short(found.get("reward", found["reward_base"]))
    actor = found["actor_base"]
    if actor.startswith("refused"):
        return (_short(actor), "-", "-", "-", reward)
    manner = "right"
    if "whole row" in actor:
        manner = "right, from whole rows"
    elif "rows that have stopped" in actor:
        manner = "right, stopped rows stay"
    side = "moved behind it" if "right alone" in actor else "right"
    roles = (_short(found[role]) for role in ("adapter", "critic"))
    decoded = found["chat"] if found["decoding"] == RIGHT else found["decoding"]
    return (_if_right(decoded, manner), _if_right(found["padding"], side), *roles, reward)


def _if_right(said: str, how: str) -> str:
    return how if said == RIGHT else said


def _short(said: str) -> str:
    """A refusal without its key, its numbers and its cure."""
    reason = re.sub(r"^refused: [\w.]+: (it \([^)]*\) )?", "refused: ", said)
    return re.sub(r"( \(off by| \(RuntimeError|: no batch|, which uses|; ).*", "", reason)


def main() -> None:
    """Judge the families that are named, else all, and write down what came of them."""
    quiet_transformers()
    chosen = sys.argv[1:]
    record = json.loads(RECORD.read_text()) if chosen else {}
    for family in chosen or families():
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record[family] = judge(family, Path(name))
        print(family, record[family], flush=True)
        text = json.dumps(record, indent=1, sort_keys=True)
        RECORD.write_text(text + "\n")


if __name__ == "__main__":
    main()
