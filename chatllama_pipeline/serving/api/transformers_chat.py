"""The GenerationConfig that `transformers chat` sends as JSON with each message."""

from __future__ import annotations

import json
from typing import Any

from chatllama_pipeline.serving.api.access.refusals import Refusal, unsupported

CONFIG = "generation_config"
# GenerationConfig's keys that OpenAI's API has by these names.
_NAMES = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
}
_WITHOUT_EFFECT = {"transformers_version", "use_cache"}


def unpacked(body: dict[str, Any]) -> dict[str, Any]:
    """`body` with what its GenerationConfig asks in the API's own words, which go before it.

    Raises Refusal for what isn't JSON, and for what the server doesn't do.
    """
    if body.get(CONFIG) is None:
        return body
    asked = dict(body)
    config = _config(asked.pop(CONFIG))
    meant: dict[str, Any] = {"temperature": 0.0} if config.pop("do_sample", None) is False else {}
    for key, value in config.items():
        if value is None or key in _WITHOUT_EFFECT:
            continue
        if key not in _NAMES:
            raise unsupported(f"{CONFIG}.{key}", "has no effect here; leave it out")
        meant.setdefault(_NAMES[key], value)
    if "max_completion_tokens" in asked:
        meant.pop("max_tokens", None)
    return meant | asked


def _config(given: Any) -> dict[str, Any]:
    try:
        config = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise Refusal(400, f"{CONFIG}: must be a GenerationConfig as JSON", param=CONFIG)
    return dict(config)
