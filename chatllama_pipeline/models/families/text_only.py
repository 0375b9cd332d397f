"""The language model within a model that sees or hears: an assistant reads and writes text."""

from __future__ import annotations

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.families.kinds import Kind, kind_of


def text_only(model: Any, key: str, name: str) -> Any:
    """`model` as a model of text alone, on the same weights; itself where it is one already.

    What reads images would never learn here, and weigh on memory, adapters and processes all the
    same. Raises SettingsError, naming `key` and the model `name`, where there is no such class.
    """
    text = model.config.get_text_config()
    writes = kind_of(model.config) is Kind.CAUSAL and model.get_output_embeddings() is not None
    if text is model.config or not writes:
        return model
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise SettingsError(
            f"{key}: {name} ({model.config.model_type}) reads more than text, and transformers has "
            f"no class for its language model alone ({text.model_type}): name a model of text"
        )
    plain = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)]._from_config(text, dtype=model.dtype)
    plain.base_model.load_state_dict(model.get_decoder().state_dict(), assign=True)
    plain.set_output_embeddings(model.get_output_embeddings())
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain
