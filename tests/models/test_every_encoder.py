"""Every encoder that transformers puts a scoring head on, as a reward model somebody published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.records import user_prompt
from tests.families.every import SIZES, sized
from tests.families.kit import embeddings, save_random
from tests.families.vocabulary import tokenizer_kinds
from tests.tiny import QUIET, MakeSpec

pytestmark = pytest.mark.slow

RIGHT = [
    *("albert", "bert", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2"),
    *(
        "distilbert",
        "electra",
        "ernie",
        "esm",
        "eurobert",
        "flaubert",
        "funnel",
        "gte",
        "ibert",
        "jina_embeddings_v3",
    ),
    *("layoutlm", "longformer", "luke", "megatron-bert", "modernbert", "mpnet", "nomic_bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert"),
    *("ultrabert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
]
REFUSED = ["convbert", "fnet", "mobilebert", "mra", "nystromformer", "yoso"]
# What encoders call their sizes, beside the names that models which write have.
OWN: dict[str, Any] = {
    **{"max_position_embeddings": 40, "embedding_size": 32, "attention_window": 4, "d_inner": 32},
    **{"type_vocab_size": 2, "languages": ["en"], "default_language": "en", "block_size": 4},
    **{"hidden_dim": 32, "d_head": 8, "block_sizes": [1, 1], "entity_vocab_size": 5},
    **{"entity_emb_size": 8, "intermediate_size": 32, "num_labels": 1},
}
PAIRS = (("alpha bravo", "charlie"), ("kilo", "lima " * 9), ("alpha", "delta echo golf"))


def published(family: str, folder: Path) -> Path:
    tokenizer = tokenizer_kinds.electra()
    ids = {"vocab_size": embeddings(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = sized(family, SIZES | OWN, ids, "num_labels")
    make = AutoModelForSequenceClassification.from_config
    return save_random(lambda: make(config), tokenizer, folder)


@pytest.mark.parametrize("family", RIGHT)
@torch.no_grad()
def test_it_scores_padded_pairs_as_transformers_scores_them_alone(
    family: str, tmp_path: Path, make_spec: MakeSpec
) -> None:
    source = published(family, tmp_path / "source")
    spec = make_spec("reward_base", {"reward_config": {"model": str(source), "train": False}}, {})
    run(spec, QUIET)
    own = AutoModelForSequenceClassification.from_pretrained(source).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    expected = [
        float(own(**tokenizer(asked, said, return_tensors="pt")).logits) for asked, said in PAIRS
    ]
    scorer = RewardScorer(spec.output)
    found = scorer([user_prompt(asked) for asked, _ in PAIRS], [said for _, said in PAIRS])
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    # The longest row that it is given is one that it has positions for.
    assert scorer([user_prompt("alpha " * 3000)], ["bravo"]).isfinite().all()


@pytest.mark.parametrize("family", REFUSED)
def test_it_is_refused_with_the_reason(family: str, tmp_path: Path, make_spec: MakeSpec) -> None:
    source = published(family, tmp_path / "source")
    spec = make_spec("reward_base", {"reward_config": {"model": str(source), "train": False}}, {})
    with pytest.raises(SettingsError, match=r"scores (a row among padded|rows alike)"):
        run(spec, QUIET)
