"""Each published tokenizer, put beside a tiny random model, has every property of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.models.bases.preflight import preflight
from chatllama_pipeline.models.loading import load_config
from tests.families.vocabulary.token_properties import EVERY_PROPERTY
from tests.published.registry import TOKENIZERS

pytestmark = pytest.mark.published


@pytest.mark.parametrize("has", EVERY_PROPERTY, ids=lambda has: has.__name__)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_published_tokenizer(
    name: str, has: Callable[[Any], None], published_tokenizer: Callable[[str], Any]
) -> None:
    has(published_tokenizer(name))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_preflight_of_a_published_tokenizer_names_the_end_of_a_reply(
    name: str, published_base: Callable[[str], Path], published_tokenizer: Callable[[str], Any]
) -> None:
    config = load_config(published_base(name))
    told = str(preflight(published_tokenizer(name), config, "actor_config", 256))
    assert " ends in " in told
