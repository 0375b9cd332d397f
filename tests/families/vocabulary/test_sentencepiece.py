"""Models published with a SentencePiece file alone, as Meta's LLaMA and DeBERTa-v3 are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from chatllama_pipeline.data.prepare.tokens import load_tokenizer
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.progress import Progress
from tests.families.vocabulary.tokenizer_kinds import CORPUS

# Family -> its file's name, how its vocabulary begins, and its tokenizer_config.json.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": (
        "tokenizer.model",
        {"model_type": "bpe", "byte_fallback": True},
        {
            **{"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True},
            **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        },
    ),
    "flan_t5": (
        "spiece.model",
        {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        {
            **{"tokenizer_class": "T5Tokenizer", "extra_ids": 4},
            **{"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        },
    ),
    "deberta_v3": (
        "spm.model",
        {
            **{"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
            **{"pad_piece": "[PAD]", "bos_piece": "[CLS]"},
            **{"eos_piece": "[SEP]", "unk_piece": "[UNK]"},
        },
        {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False, "vocab_type": "spm"},
    ),
}


@pytest.mark.parametrize(
    ("name", "around"), [("llama", ([1], [])), ("flan_t5", ([], [1])), ("deberta_v3", ([1], [2]))]
)
def test_it_reads_as_sentencepiece_does_and_is_saved_as_a_tokenizer_of_today(
    name: str,
    around: tuple[list[int], list[int]],
    family_folder: Callable[[str], Path],
    make_spec: Any,
    tmp_path: Path,
) -> None:
    file, options, config = KINDS[name]
    folder = tmp_path / "hub"
    folder.mkdir()
    for source in family_folder(name).iterdir():
        if not source.name.startswith("tokenizer"):
            (folder / source.name).write_bytes(source.read_bytes())
    embeddings = json.loads((folder / "config.json").read_text())["vocab_size"]
    with (folder / file).open("wb") as writer:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS * 20),
            model_writer=writer,
            vocab_size=embeddings - 8,  # T5's further tokens come on top
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))

    stage = "reward_base" if name == "deberta_v3" else "actor_base"
    key = "reward_config" if name == "deberta_v3" else "actor_config"
    spec = make_spec(stage, {key: {"model": str(folder)}}, {})
    run(spec, Progress(stage, lambda line: None))

    plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / file))
    text = "alpha bravo: User zulu"
    ids = plain.encode(text)
    begin, end = around
    assert AutoTokenizer.from_pretrained(spec.output)(text).input_ids == [*begin, *ids, *end]
    assert (Path(spec.output) / "tokenizer.json").is_file()
    # Lengths of the data are counted before there is a base model.
    assert len(load_tokenizer(str(folder)).encode(text, add_special_tokens=False)) == len(ids)
