"""PPO beside trl 1.12.0's: seconds of each phase, tokens/s, share of the peak, memory.

    python benchmarks/ppo.py [quickstart] [27m] [125m] [--pairs 7]    # float32, on a CPU
    python benchmarks/ppo.py gpu [--tiny] [--trl-wheel FILE]          # bfloat16, on a GPU
    python benchmarks/ppo.py learning [--seeds 0 1 2] [--folder FOLDER]    # the quickstart's actor
    python benchmarks/ppo.py growth [--pairs 7]    # ours alone: longer replies, more of them
    python benchmarks/ppo.py floor [quickstart] [27m] [125m]    # ours alone: what its kernels take

Both sides run the same weights, prompts, lengths, epochs and minibatches, with a reward model that
reads the same ids, in processes of their own, in turns on a CPU and one after the other on a GPU.
The first iteration of each warms up. Once all rows are full, once half of them end at a quarter; at
equal precision, and each side as it is fastest here: in bfloat16 where this machine multiplies
faster so, ours with values from the actor's own trunk (`critic_config.trunk`). Ours runs with the
allocator that the pipeline gives its stages. trl comes from the package index into a virtual
environment of its own, or, without a network, from a wheel. `--tiny` shows in a minute on a CPU
that the GPU's part runs. `learning` has both sides improve the quickstart's SFT actor at equal
samples, and prints what our evaluation says of the two; what is made for it stays in `--folder`.
`growth` times the quickstart's sizes with replies of 32 to 1,024 tokens, and of 16 to 256 prompts.
`floor` holds each part's CPU seconds against those of its kernels alone. With `taskset -c 0` before
it, all runs on one core, and others' work there doesn't count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.against_trl.case import CASES, GPU, TINY, Case
from benchmarks.against_trl.environment import HERE, ROOT, Interpreter, with_trl
from benchmarks.against_trl.learning import compare_learning
from benchmarks.against_trl.turns import END, GO

PHASES = ("decode", "score", "reward", "update")
# DeepSpeed-Chat's, OPT-1.3B and OPT-350M on one A100-80G.
PUBLISHED_PAIRS = 3.1
# bfloat16 is tried where it multiplies so much faster.
PAYS = 1.5
SIDES = ("ours", "theirs")
LEARNING, GROWTH, FLOOR = "learning", "growth", "floor"
# Of replies to 16 prompts, and how many prompts get replies of 48 tokens.
LENGTHS, COUNTS = (32, 64, 128, 256, 512, 1024), (16, 32, 64, 128, 256)
MIB = 2**20


@dataclass
class Side:
    """One side's process, and what it told of each iteration; the first warmed it up."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    told: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, case: Case, where: Interpreter, folder: Path) -> Side:
        log = folder / f"{name}.log"
        command = [str(where.python), "-m", f"benchmarks.against_trl.{name}", case.as_json()]
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=where.environment(allocator=name == "ours"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        return cls(name, process, log)

    def hear(self) -> None:
        """Wait for the end of an iteration."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early:\n{self.log.read_text()[-3000:]}")
        self.told.append(json.loads(line))

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def turn(self) -> None:
        """One iteration."""
        self.say(GO)
        self.hear()

    def end(self) -> None:
        if self.process.poll() is None and self.told:
            self.say(END)
        elif self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def median(self, phase: str) -> float:
        """Seconds; the update's are what no other phase took."""
        return statistics.median(seconds_of(told, phase) for told in self.told[1:])

    def flops(self, phase: str) -> float:
        """Of one iteration."""
        return seconds_of(self.told[0], phase, "flops")


def seconds_of(told: dict[str, Any], phase: str, what: str = "seconds") -> float:
    """Of a phase in what a side told of an iteration."""
    found = told[what]
    if phase == "update":
        return float(found["all"] - sum(found.get(other, 0) for other in PHASES[:3]))
    return float(found.get(phase, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = f"{', '.join(CASES)} (all of them), gpu, {LEARNING}, {GROWTH} or {FLOOR}"
    parser.add_argument("sizes", nargs="*", help=names)
    parser.add_argument("--pairs", type=int, help="iterations of each side (7; 2 on a GPU)")
    parser.add_argument("--tiny", action="store_true", help="the GPU's part in small, on a CPU")
    parser.add_argument("--trl-wheel", type=Path, help="trl's wheel, or a folder that has it")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of learning")
    parser.add_argument("--folder", type=Path, help="where learning keeps what it makes")
    options = parser.parse_args()
    if unknown := set(options.sizes) - {*CASES, "gpu", LEARNING, GROWTH, FLOOR}:
        parser.error(f"knows no {', '.join(sorted(unknown))}")
    if "gpu" in options.sizes and not options.tiny and not torch.cuda.is_available():
        print("gpu: torch sees none here, skipped")
        return
    with tempfile.TemporaryDirectory(prefix="chatllama_benchmark_") as folder:
        if GROWTH in options.sizes:
            time_growth(options.pairs or 7, Path(folder))
            return
        if FLOOR in options.sizes:
            for size in [size for size in options.sizes if size in CASES] or CASES:
                show_floor(CASES[size], Path(folder))
            return
        unpacked = Path(folder) / "wheels"
        places = {"ours": HERE, "theirs": with_trl(options.trl_wheel, unpacked)}
        if LEARNING in options.sizes:
            compare_learning(options.seeds, places["theirs"], options.folder or Path(folder))
            return
        pairs = options.pairs or (2 if "gpu" in options.sizes else 7)
        for row, cases in rows(options.sizes or list(CASES), options.tiny):
            found: list[tuple[Case, dict[str, Side]]] = []
            for case in cases:
                peak = begin(row, case)
                found.append((case, measure(case, places, pairs, peak, Path(folder))))
                compare(*found[-1])
            if len(found) > 1:
                best(found)


def time_growth(iterations: int, folder: Path) -> None:
    """Print what an iteration of ours takes where replies are longer, and where there are more."""
    few = replace(CASES["quickstart"], prompts=16, minibatch=8, micro=8)
    longer = [replace(few, new_tokens=tokens) for tokens in LENGTHS]
    more = [
        replace(CASES["quickstart"], prompts=count, minibatch=count // 2, micro=min(32, count // 2))
        for count in COUNTS
    ]
    for cases in (longer, more):
        for case in cases:
            side = Side.start("ours", case, HERE, folder)
            try:
                side.hear()
                for _ in range(iterations):
                    side.turn()
            finally:
                side.end()
            seconds = side.median("all")
            print(
                f"{case.prompts:4} replies of {case.new_tokens:5,} tokens: {seconds:7.3f} s, "
                f"{1000 * seconds / case.tokens:.3f} s per 1,000 tokens",
                flush=True,
            )


def show_floor(case: Case, folder: Path) -> None:
    """Print what each part of an iteration of ours takes, and what its kernels take alone."""
    side = Side.start("floor", case, HERE, folder)
    try:
        side.hear()
    finally:
        side.process.wait()
        side.end()
    (found,) = side.told
    found["all"] = {kind: sum(part[kind] for part in found.values()) for kind in found["decode"]}
    print(f"{case.name}, {case.kind}, CPU seconds")
    print("".join(f"{head:>18}" for head in ("", *found["all"], "the rest")))
    for part, taken in found.items():
        whole, *kernels = taken.values()
        seconds = [whole, *kernels, whole - sum(kernels)]
        print(f"{part:>18}" + "".join(f"{each:17.3f}s" for each in seconds), flush=True)


def rows(sizes: list[str], tiny: bool) -> Iterator[tuple[str, list[Case]]]:
    """What is compared of each size, what it is called, in the ways that may be a side's best."""
    for size in sizes:
        if size == "gpu":
            case = TINY if tiny else GPU
            yield "all rows full", [replace(case, micro=n) for n in (case.micro, case.minibatch)]
            continue
        ways = [CASES[size]]
        if bfloat16_pays():
            ways.append(replace(CASES[size], bfloat16=True))
        ways += [replace(way, shared_trunk=True) for way in ways]
        yield "all rows full", ways
        yield "half of the rows end at a quarter", [replace(way, half_early=True) for way in ways]


def measure(
    case: Case, places: dict[str, Interpreter], pairs: int, peak: float, folder: Path
) -> dict[str, Side]:
    """Both sides after `pairs` iterations each: in turns, or one after the other on a GPU.

    There their memory has no room for both, and nobody else is at work. Prints a line of each.
    """
    sides: dict[str, Side] = {}
    try:
        for name in SIDES:
            sides[name] = Side.start(name, case, places[name], folder)
            sides[name].hear()
            if case.device == "cuda":
                for _ in range(pairs):
                    sides[name].turn()
                sides[name].end()
                report(sides[name], case, peak)
        for pair in range(pairs if case.device == "cpu" else 0):
            for name in SIDES if pair % 2 == 0 else reversed(SIDES):
                sides[name].turn()
    finally:
        for side in sides.values():
            side.end()
    if case.device == "cpu":
        for side in sides.values():
            report(side, case, peak)
    return sides


def begin(row: str, case: Case) -> float:
    """Print what is compared, and the heads of the columns; the operations/s of products here."""
    peak = products_per_second(case.device, case.bfloat16)
    print(
        f"{case.name}, {row}, {case.kind}: {case.prompts} prompts "
        f"of {case.prompt_tokens} tokens, {case.tokens} tokens written, {case.epochs} epochs of "
        f"minibatches of {case.minibatch}, {case.micro} rows at once; products at "
        f"{peak / 1e9:,.0f} GFLOP/s at most"
    )
    heads = "".join(f"{name:>9}" for name in (*PHASES, "all", "tokens/s", "pairs/s", "of peak"))
    print(f"{'':5}{heads}  in update    MiB  over the models", flush=True)
    return peak


def report(side: Side, case: Case, peak: float) -> None:
    """Print a side's line."""
    wrong = {told["tokens"] for told in side.told} - {case.tokens}
    if wrong:
        raise SystemExit(f"{side.name} wrote {wrong} tokens and should write {case.tokens}")
    total = side.median("all")
    shares = [side.flops(phase) / side.median(phase) / peak for phase in ("all", "update")]
    most, held = (side.told[-1][what] / MIB for what in ("peak", "held"))
    print(
        f"{'trl' if side.name == 'theirs' else side.name:5}"
        + "".join(f"{side.median(phase):8.3f}s" for phase in (*PHASES, "all"))
        + f"{case.tokens / total:9,.0f}{case.prompts / total:9.2f}"
        + f"{shares[0]:9.1%}{shares[1]:11.1%}{most:7,.0f}{most - held:17,.0f}",
        flush=True,
    )


def compare(case: Case, sides: dict[str, Side]) -> None:
    """Print the ratios of paired iterations and of peak memory."""
    ours, theirs = sides["ours"], sides["theirs"]
    ratios = [
        seconds_of(other, "all") / seconds_of(own, "all")
        for own, other in zip(ours.told[1:], theirs.told[1:], strict=True)
    ]
    own, other = ours.told[-1], theirs.told[-1]
    print(
        f"trl / ours {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} pairs); ours / trl in memory "
        f"{own['peak'] / other['peak']:.2f}, over the models "
        f"{(own['peak'] - own['held']) / (other['peak'] - other['held']):.2f}"
    )
    if case.device == "cuda":
        rate = case.prompts / ours.median("all")
        print(f"ours is {rate / PUBLISHED_PAIRS:.1f} x the {PUBLISHED_PAIRS} pairs/s published")
    print(flush=True)


def best(found: list[tuple[Case, dict[str, Side]]]) -> None:
    """Print the ratio of the medians where each side runs as it is fastest here."""
    chosen = {}
    for name in SIDES:
        case, sides = min(found, key=lambda pair: pair[1][name].median("all"))
        how = f"{case.kind}, {case.micro} rows at once"
        chosen[name] = (sides[name].median("all"), how)
    (ours, our_way), (theirs, their_way) = chosen["ours"], chosen["theirs"]
    print(f"each side's best: trl / ours {theirs / ours:.2f} (ours {our_way}; trl {their_way})\n")


def bfloat16_pays() -> bool:
    """Whether this CPU multiplies so much faster that both sides try it; says so."""
    single, half = (products_per_second("cpu", half) for half in (False, True))
    print(f"bfloat16 multiplies at {half / single:.2f} times float32's speed here: "
          f"{'tried' if half >= PAYS * single else 'not tried'}")  # fmt: skip
    return half >= PAYS * single


def products_per_second(device: str, bfloat16: bool) -> float:
    """The most that a product of large matrices reached here, in operations/s."""
    size, dtype = 1024 if device == "cpu" else 8192, torch.bfloat16 if bfloat16 else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    taken: list[float] = []
    # Some CPUs take seconds for a product in bfloat16.
    while len(taken) < 10 and sum(taken) < 1:
        taken.append(_seconds(lambda: left @ right, device))
    return 2 * size**3 / min(taken)


def _seconds(work: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
