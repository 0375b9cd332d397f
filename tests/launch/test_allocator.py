"""What hands out the memory of children, and what it saves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatllama_pipeline.launch.allocator import PRELOAD, allocator_environment
from chatllama_pipeline.launch.child import child_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="preloads by Linux's loader")

# As torch asks for tensors: aligned, each layer's kept one beside one that is freed at once, while
# small things are made that stay. Prints the peak over what was in use.
LAYERS = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) * 1024

def tensor(size):
    found = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(found), 64, size) == 0
    libc.memset(found, 1, size)
    return found

SIZE = 2**20
libc.free(libc.malloc(2**24))  # from here on glibc takes such sizes from its heap
before, kept = status("VmRSS"), []
for layer in range(100):
    passing = [tensor(SIZE) for _ in range(2)]
    kept.append(tensor(SIZE))
    for each in passing:
        libc.malloc(48)
        libc.free(each)
print((status("VmHWM") - before) / (SIZE * len(kept)))
"""


def run(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_freed_tensors_of_a_child_leave_no_holes_that_none_of_their_size_fits_into() -> None:
    environment = child_environment(1)
    assert float(run(LAYERS, environment)) < 1.2
    plain = {name: value for name, value in environment.items() if name != PRELOAD}
    assert float(run(LAYERS, plain)) > 1.6


def test_the_machine_knows_whether_freed_tensors_leave_holes() -> None:
    code = "from chatllama_pipeline.machine import leaves_holes; print(leaves_holes())"
    environment = child_environment(1)
    assert run(code, environment) == "False"
    assert run(code, {**environment, PRELOAD: ""}) == "True"


def test_what_somebody_preloads_himself_stays_alone() -> None:
    assert child_environment(1, {**os.environ, PRELOAD: "theirs.so"})[PRELOAD] == "theirs.so"


def test_a_place_that_the_loader_would_cut_at_a_space_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, preloaded in ((tmp_path / "a b", False), (tmp_path / "ab", True)):
        library = place / "cmeel.prefix" / "lib" / "libmimalloc.so"
        library.parent.mkdir(parents=True)
        library.touch()
        (place / "cmeel_mimalloc-9.dist-info").mkdir()
        (place / "cmeel_mimalloc-9.dist-info" / "METADATA").write_text("Name: cmeel-mimalloc\n")
        monkeypatch.syspath_prepend(place)
        found = allocator_environment({})
        assert found.get(PRELOAD) == (str(library) if preloaded else None)
