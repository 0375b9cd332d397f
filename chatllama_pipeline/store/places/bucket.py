"""What a store in a bucket rests on, tried under its URL by doing."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.records import Finding
from chatllama_pipeline.store.places.folder import CLOCK_BOUND, clocks_apart
from chatllama_pipeline.store.remote.objects import Objects

# Writers that put one object at once; how often.
WRITERS, ROUNDS = 4, 5
# Buckets date in whole seconds.
DATED_IN = 1.0
NO_CONDITIONS = (
    "of two machines that publish at once both would win. No store can stand here: take a bucket "
    "with conditional writes (S3, Google Cloud Storage, Azure, and servers that follow them)"
)
Probe = Callable[[Objects, str], Finding]


def written(objects: Objects, place: str) -> Finding:
    """Whether what is written can be read, at once and again, and removed."""
    what, key = "reading and writing", f"{place}/written"
    objects.create(key, b"1")
    seen = objects.get(key)
    objects.delete([key])
    if seen is None or seen.data != b"1":
        return Finding("fault", what, "what was just written isn't there: no store can stand here")
    if objects.get(key) is not None:
        told = "what was just removed is still there: what is pruned may come back"
        return Finding("warning", what, told)
    return Finding("ok", what, "what is written is there at once")


def made_once(objects: Objects, place: str) -> Finding:
    """Whether an object that stands isn't written over, and of several writers one wins."""
    what = "puts where nothing stands"
    key = f"{place}/once"
    if not objects.create(key, b"1") or objects.create(key, b"2"):
        return Finding("fault", what, NO_CONDITIONS)
    for number in range(ROUNDS):
        won = _at_once(partial(objects.create, f"{place}/round/{number}"))
        if won != 1:
            return Finding(
                "fault", what, f"of {WRITERS} writers at once {won} win: {NO_CONDITIONS}"
            )
    return Finding("ok", what, f"of {WRITERS} writers at once one wins, {ROUNDS} times")


def replaced_once(objects: Objects, place: str) -> Finding:
    """Whether only who has seen an object as it is may replace it."""
    what = "puts over what was seen"
    key = f"{place}/current"
    objects.create(key, b"0")
    for _ in range(ROUNDS):
        seen = objects.get(key)
        if seen is None or not seen.tag:
            return Finding("fault", what, f"objects have no tags: {NO_CONDITIONS}")
        won = _at_once(partial(objects.replace, key, tag=seen.tag))
        if won != 1:
            return Finding(
                "fault", what, f"of {WRITERS} writers at once {won} win: {NO_CONDITIONS}"
            )
    return Finding("ok", what, f"of {WRITERS} writers at once one wins, {ROUNDS} times")


def _won(count: int) -> str:
    return f"of {WRITERS} writers at once {count} win: {NO_CONDITIONS}"


def _at_once(write: Callable[[bytes], bool]) -> int:
    """How many of several writers are told that they wrote, each bytes of its own."""
    won, together = list[bool](), threading.Barrier(WRITERS)

    def writer() -> None:
        own = uuid.uuid4().hex.encode()
        together.wait()
        won.append(write(own))

    writers = [threading.Thread(target=writer) for _ in range(WRITERS)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    if len(won) != WRITERS:
        raise StoreError("a writer ended without an answer: run the same again")
    return sum(won)


def listed(objects: Objects, place: str) -> Finding:
    """Whether lists tell what was just written."""
    what = "lists"
    objects.create(f"{place}/listed/1", b"1")
    if [entry.key for entry in objects.list(f"{place}/listed/")] == [f"{place}/listed/1"]:
        return Finding("ok", what, "tell what was just written")
    told = (
        "lag behind what was written: what is in use is found all the same, other versions may be "
        "passed over for a while, and then be made again or not copied"
    )
    return Finding("warning", what, told)


def dated(objects: Objects, place: str) -> Finding:
    """Whether objects are dated as this machine would date them."""
    what, key = "clock", f"{place}/dated"
    before = time.time()
    objects.create(key, b"1")
    after = time.time()
    entry = objects.entry(key)
    if entry is None:
        return Finding("fault", what, "what was just written isn't there")
    at = entry.written.timestamp()
    if before - CLOCK_BOUND - DATED_IN <= at <= after + CLOCK_BOUND:
        return Finding("ok", what, f"within {CLOCK_BOUND:g} s of this machine's")
    return Finding("warning", what, clocks_apart("that of the bucket", at - after))


PROBES: tuple[tuple[str, Probe], ...] = (
    ("reading and writing", written),
    ("puts where nothing stands", made_once),
    ("puts over what was seen", replaced_once),
    ("lists", listed),
    ("clock", dated),
)


def bucket_findings(url: str) -> Iterator[Finding]:
    """What holds of the place `url`; what is tried goes again.

    A fault ends it: of what the bucket refuses, too.
    """
    objects = Objects(url)
    place = f"_check/{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex}"
    try:
        for what, probe in PROBES:
            try:
                found = probe(objects, place)
            except StoreError as error:
                found = Finding("fault", what, str(error))
            yield found
            if found.level == "fault":
                return
        yield Finding("ok", "room", "a bucket tells none: what is stored is paid for")
    finally:
        _clear(objects, place)


def _clear(objects: Objects, place: str) -> None:
    """Remove what was tried, by name too: a list may lag."""
    fixed = [f"{place}/{name}" for name in ("written", "once", "current", "listed/1", "dated")]
    rounds = [f"{place}/round/{number}" for number in range(ROUNDS)]
    try:
        objects.delete([*fixed, *rounds])
    except StoreError:
        # Whoever may not remove was told so by the first probe.
        return
