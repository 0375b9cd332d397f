"""The columns of the tables that cross borders, as Arrow schemas."""

from __future__ import annotations

import pyarrow as pa

MESSAGES = pa.list_(
    pa.struct(
        [
            pa.field("role", pa.string(), nullable=False),
            pa.field("content", pa.string(), nullable=False),
        ]
    )
)


def _schema(**columns: pa.DataType) -> pa.Schema:
    optional = {"score"}
    return pa.schema(
        [pa.field(name, kind, nullable=name in optional) for name, kind in columns.items()]
    )


# A pair as a source gives it. `strength` >= 1 is how strongly people preferred `chosen`
# (SHP's score_ratio; 1.0 where a source doesn't say); `domain` is a subset or topic, "" if none.
PAIR_SCHEMA = _schema(
    prompt=MESSAGES,
    chosen=pa.string(),
    rejected=pa.string(),
    strength=pa.float64(),
    source=pa.string(),
    domain=pa.string(),
)
PREFERENCE_SCHEMA = PAIR_SCHEMA.append(pa.field("split", pa.string(), nullable=False))
# ChatLLaMA's three datasets.
ACTOR_SCHEMA = _schema(
    prompt=MESSAGES, completion=pa.string(), source=pa.string(), split=pa.string()
)
REWARD_SCHEMA = _schema(
    prompt=MESSAGES,
    completion=pa.string(),
    score=pa.float64(),
    source=pa.string(),
    split=pa.string(),
)
# The same where the user's own files hold thumbs; `thumb` tells which scores are no more than one.
REWARD_SCHEMA_WITH_THUMBS = REWARD_SCHEMA.append(pa.field("thumb", pa.bool_(), nullable=False))
# Replies that people found good or not; beside the pairs, where there are any.
THUMB_SCHEMA = _schema(
    prompt=MESSAGES,
    completion=pa.string(),
    label=pa.bool_(),
    source=pa.string(),
    split=pa.string(),
)
PROMPT_SCHEMA = _schema(prompt=MESSAGES, source=pa.string(), split=pa.string())
