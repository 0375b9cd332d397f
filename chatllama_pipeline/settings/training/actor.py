"""`actor_config`: the model that talks."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.section import SCRATCH, NonNegative, Paths, Positive
from chatllama_pipeline.settings.training.base_model import BaseModelSettings
from chatllama_pipeline.settings.training.trained import OwnModelSection

USUAL_REPLY = 256


class ActorSettings(BaseModelSettings, OwnModelSection):
    """`actor_config`: the model that talks; its SFT stage."""

    model: str = Field(
        default="facebook/opt-1.3b", description="hub id, local folder, GGUF file, or scratch"
    )
    train_dataset_path: Paths = Field(
        default="datasets/actor_training_data.json",
        description="own conversations: a file, folder, glob, or a list of them; as it stands "
        "here, any ending is found",
    )
    froze_embeddings: bool = Field(
        default=False, description="SFT leaves the embeddings as they are"
    )
    max_sequence_length: Positive = Field(default=2048, description="prompt and reply, in tokens")
    max_tokens: Positive = Field(
        default=USUAL_REPLY,
        description="longest reply, in tokens; unset, half of a max_sequence_length of 256 or less",
    )
    temperature: NonNegative = Field(
        default=0.7, description="of the released assistant when it chats"
    )
    thoughts: Literal["drop", "keep"] = Field(
        default="drop",
        description="whether judge and reward model read what a reply thinks before it answers",
    )
    packing: bool = Field(
        default=False,
        description="a micro-batch's conversations behind one another, unseen by each other",
    )

    @model_validator(mode="before")
    @classmethod
    def _half_of_a_short_row_is_the_prompts(cls, values: Any) -> Any:
        """Where no reply's length is set, a row that is shorter than the usual one is halved."""
        length = values.get("max_sequence_length") if isinstance(values, dict) else None
        if isinstance(length, int) and 1 < length <= USUAL_REPLY and "max_tokens" not in values:
            return {**values, "max_tokens": length // 2}
        return values

    @model_validator(mode="after")
    def _a_prompt_must_have_room(self) -> Self:
        if self.max_tokens >= self.max_sequence_length:
            raise ValueError(
                f"max_tokens {self.max_tokens} leaves no room for a prompt within "
                f"max_sequence_length {self.max_sequence_length}, which holds prompt and reply: "
                "lower max_tokens, or raise max_sequence_length"
            )
        return self

    @model_validator(mode="after")
    def _random_embeddings_must_learn(self) -> Self:
        if self.froze_embeddings and self.model == SCRATCH:
            raise ValueError(
                "froze_embeddings: true with model: scratch would freeze random embeddings; "
                "set froze_embeddings: false"
            )
        return self
