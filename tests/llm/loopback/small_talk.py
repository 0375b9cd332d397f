"""A model that writes and judges by a few rules, for `openai_server.OpenAiServer`.

It writes new texts of random words, as long as they are meant to be good, and a score is a reply's
length in words by three: so the judge agrees with the writer, and what it does can be counted.
`python -m tests.llm.loopback.small_talk` serves it alone and prints its URL.
"""

from __future__ import annotations

import json
import random
import re
import threading
from typing import Any

from tests.llm.loopback.server import OpenAiServer, prompt_text

WORDS = re.findall(
    r"\w+",
    "amber brook candle dune ember frost glade harbor island jungle kettle lantern meadow nectar "
    "orchard pebble quartz river saddle timber umbrella valley willow yarn zephyr anchor basket "
    "copper dragon engine falcon garden hammer iron jacket kite ladder mirror needle ocean",
)
# Words of a reply of each quality, by a part of what the writer is asked.
LENGTHS = {"as good as it can be": 15, "one small flaw": 12, "weak": 9, "poor:": 6, "worthless:": 3}


def reply(body: dict[str, Any]) -> str:
    """The answer to a request: rows, a score, a choice, or a text."""
    text = prompt_text(body)
    rng = random.Random(text + str(body.get("seed")))
    schema = json.dumps(body.get("response_format", ""))
    if "Which reply is better?" in text:
        lengths = [len(words_between(text, name)) for name in "AB"]
        better = "AB"[lengths[1] > lengths[0]]
        return json.dumps({"better": better}) if '"better"' in schema else better
    if "What is the score?" in text:
        score = min(5, len(words_between(text, "completion")) // 3)
        return json.dumps({"score": score}) if '"score"' in schema else f"Score: {score}/5"
    if '"rows"' in schema:
        fields = ["user_input", "completion"] if '"completion"' in schema else ["user_input"]
        return json.dumps({"rows": [{field: _text(rng, 12) for field in fields} for _ in range(4)]})
    asked = text.rpartition("Write a reply that is")[2]
    length = next((words for part, words in LENGTHS.items() if part in asked), 15)
    return _text(rng, length)


def words_between(text: str, name: str) -> list[str]:
    """The words of the section of that name."""
    found = re.search(rf"\[{name} (\w+)\]\n(.*?)\n\[end \1\]", text, re.DOTALL)
    return found[2].split() if found else []


def _text(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(WORDS, k=length))


def main() -> None:
    server = OpenAiServer()
    server.start()
    server.behaviour.reply = reply
    print(server.url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
