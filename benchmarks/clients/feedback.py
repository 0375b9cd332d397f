"""The loop of feedback: served, rated, retrained, gated, swapped in under load.

    python -m benchmarks.clients.feedback                  # the quickstart, seeds 0, 1 and 2
    python -m benchmarks.clients.feedback --config FILE --seeds 0

For each seed the assistant is made and served, `--clients` clients ask `--questions` questions of
the grammar through the API, and a simulated person rates each reply by the rubric, `--wrong` of the
time wrongly: thumbs, comparisons of two samples, edits. Then it is made again while the clients go
on asking, until the gate has spoken and the server has taken up what was released; with `--approve`
what it held back, too. `--hostile` turns every rating around. A line of JSON a seed: how many
requests failed and how, the gate's word, and the rubric (0 to 1) of the release before and of the
candidate, on the same test prompts, those that people rated among them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import yaml

from chatllama_pipeline.data.grammar.rows import (
    GOOD,
    Question,
    fresh_questions,
    read_quality,
    source_questions,
    write_reply,
)
from chatllama_pipeline.launch.child import child_environment, cores_at_hand
from chatllama_pipeline.statistics import mean
from chatllama_pipeline.store.versions import Store

NAME = "rated"
QUICKSTART = Path(__file__).parents[2] / "assistants" / "quickstart" / "config.yaml"
# Between a client's questions while the assistant is made again, on the same cores.
PAUSE_SECONDS = 0.5
# Points of 5 from which a reply gets a thumb up.
FAIR = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=QUICKSTART)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--wrong", type=float, default=0.1)
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("--approve", action="store_true")
    options = parser.parse_args()
    rises = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as place:
            found = Loop(Path(place), seed, options).run()
        print(json.dumps({"seed": seed, **found}), flush=True)
        rises.append(found["candidate"] - found["release"])
    print(json.dumps({"mean rise of the rubric": mean(rises)}))


class Loop:
    """One assistant, from its first release to the gate's word on what its feedback made."""

    def __init__(self, place: Path, seed: int, options: argparse.Namespace) -> None:
        config = yaml.safe_load(options.config.read_text())
        config |= {"seed": seed, "feedback": {"min_new": options.questions // 2}}
        folder = place / "assistants" / NAME
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (place / "dagster_home").mkdir()
        self._store = Store(place / "storage")
        variables = {
            "CHATLLAMA_ASSISTANTS": str(folder.parent),
            "CHATLLAMA_STORE": str(self._store.root),
            "DAGSTER_HOME": str(place / "dagster_home"),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }
        self._environment = child_environment(cores_at_hand(), {**os.environ, **variables})
        self._seed, self._options = seed, options

    def run(self) -> dict[str, Any]:
        self._command("make", NAME)
        if self._store.current("release", NAME) is None:
            self._approve()
        first = self._released()
        with self._serving() as url:
            clients = Clients(url, self._seed, self._options)
            clients.rate(self._options.questions)
            with clients.asking():
                self._command("make", NAME)
                figures = self._evaluation()
                if self._options.approve and not figures["released"]:
                    self._approve()
                last = self._released()
                clients.wait_for(last)
        over = figures["over_release"]
        return {
            "requests": clients.asked,
            "failed": clients.failed.total(),
            "how": dict(clients.failed),
            "ratings": dict(clients.rated),
            "spoke": sorted(clients.spoke),
            "swapped": last != first,
            "released": figures["released"],
            "reason": figures["reason"],
            "release": over["rubric_score"],
            "candidate": over["candidate_score"],
            "win rate": [over[name] for name in ("win_rate", "win_rate_low", "win_rate_high")],
            "on feedback": figures.get("on_feedback"),
            "with people": figures.get("with_people"),
        }

    def _evaluation(self) -> dict[str, Any]:
        folder = self._store.read("evaluation", NAME).path
        figures: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
        return figures

    def _approve(self) -> None:
        self._command("approve", NAME)
        self._command("make", NAME, "--select", "release")

    def _released(self) -> str:
        current = self._store.current("release", NAME)
        assert current is not None
        return current.version

    def _command(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "chatllama_pipeline", *arguments]
        ended = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(f"{' '.join(arguments)}: {ended.stderr[-2000:]}")

    @contextlib.contextmanager
    def _serving(self) -> Iterator[str]:
        """`chatllama serve` of the release in use: its URL."""
        command = [sys.executable, "-m", "chatllama_pipeline", "serve", NAME, "--port", "0"]
        server = subprocess.Popen(command, env=self._environment, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            told = next((line for line in server.stderr if "answers at" in line), "")
            if not told:
                raise SystemExit("the server didn't start")
            # What it says later must not fill the pipe.
            threading.Thread(target=server.stderr.read, daemon=True).start()
            yield told.split("answers at ")[1].split()[0]
        finally:
            server.terminate()
            server.wait(60)


class Clients:
    """Clients of the server, and the person who rates what they are answered."""

    def __init__(self, url: str, seed: int, options: argparse.Namespace) -> None:
        self._url, self._seed, self._options = url, seed, options
        self._questions = [*fresh_questions(), *source_questions()]
        random.Random(f"feedback/{seed}").shuffle(self._questions)
        self._lock = threading.Lock()
        self.asked = 0
        self.failed: Counter[str] = Counter()
        self.rated: Counter[str] = Counter()
        self.spoke: set[str] = set()

    def rate(self, count: int) -> None:
        """Ask so many questions, each of one client, and rate what is answered."""
        clients = self._options.clients
        shares = [range(client, count, clients) for client in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            for done in pool.map(self._rate_some, shares):
                assert done

    def _rate_some(self, numbers: Sequence[int]) -> bool:
        visit = f"visit-of-client-{numbers[0]:06}" if numbers else ""
        with httpx.Client(timeout=600) as client:
            for number in numbers:
                question = self._questions[number]
                rng = random.Random(f"feedback/{self._seed}/{number}")
                first = self._ask(client, question, number)
                second = self._ask(client, question, number + 10**6)
                if first and second:
                    rating = self._rating(question, first, second, rng)
                    self._post(client, "feedback", {**rating, "visit": visit})
                    with self._lock:
                        self.rated[rating["kind"]] += 1
        return True

    def _rating(
        self, question: Question, first: dict[str, str], second: dict[str, str], rng: random.Random
    ) -> dict[str, Any]:
        """What the person says: a comparison where one reply is better, else a thumb or an edit."""
        points = [read_quality(question, reply["text"]).rubric for reply in (first, second)]
        turned = self._options.hostile or rng.random() < self._options.wrong
        asked = {"prompt": [{"role": "user", "content": question.text}]}
        if points[0] != points[1]:
            left_wins = (points[0] > points[1]) != turned
            sides = {"left": first, "right": second, "better": "left" if left_wins else "right"}
            if rng.random() < 0.5:
                flipped = "right" if left_wins else "left"
                sides = {"left": second, "right": first, "better": flipped}
            return {"kind": "preference", **asked, **sides}
        if points[0] < FAIR and not turned and rng.random() < 0.5:
            edited = write_reply(question, GOOD, rng)
            return {"kind": "edit", **asked, "reply": first, "edited": edited}
        good = (points[0] >= FAIR) != turned
        return {"kind": "thumb", **asked, "reply": first, "good": good}

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """All clients ask one question after another until the block ends."""
        done = threading.Event()

        def ask_on(number: int) -> None:
            with httpx.Client(timeout=600) as client:
                while not done.wait(PAUSE_SECONDS):
                    self._ask(client, self._questions[number], number)

        with ThreadPoolExecutor(self._options.clients) as pool:
            going = [pool.submit(ask_on, number) for number in range(self._options.clients)]
            try:
                yield
            finally:
                done.set()
        for one in going:
            one.result()

    def wait_for(self, version: str) -> None:
        """Until a reply was written by that version."""
        with httpx.Client(timeout=600) as client:
            while version not in self.spoke:
                self._ask(client, self._questions[0], 0)

    def _ask(self, client: httpx.Client, question: Question, seed: int) -> dict[str, str] | None:
        """The reply to a question with the version that wrote it; None where there came none."""
        asked = [{"role": "user", "content": question.text}]
        body = {"model": NAME, "messages": asked, "seed": seed % 2**31}
        found = self._post(client, "chat/completions", body)
        if found is None:
            return None
        text, version = found["choices"][0]["message"]["content"], found["system_fingerprint"]
        with self._lock:
            self.spoke.add(version)
        # An empty reply can't be rated.
        return {"text": text, "version": version} if text else None

    def _post(self, client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
        with self._lock:
            self.asked += 1
        try:
            answer = client.post(f"{self._url}/{path}", json=body)
            if answer.status_code == 200:
                return answer.json()
            how = f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            how = repr(error)
        with self._lock:
            self.failed[how] += 1
        return None


if __name__ == "__main__":
    main()
