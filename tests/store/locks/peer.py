"""A holder of a lease as of another machine: `peer.py FOLDER LASTS INSIDE`.

It takes the lease, says so, and gives it up when a line comes; while it holds it, the file INSIDE
is its own. It says what it saw.
"""

import os
import sys
from pathlib import Path

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.store.locks import lease

# As other machines are: nobody here can look whether it lives.
lease._machine = lambda: f"machine of {os.getpid()}"


def main(folder: str, lasts: str, inside: str) -> None:
    terms = lease.Terms(beat=0.1, lasts=float(lasts), look=0.02)
    held = lease.take(Path(folder), terms=terms)
    try:
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        print("alone", flush=True)
    except FileExistsError:
        print("not alone", flush=True)
    sys.stdin.readline()
    try:
        held.require()
        print("held", flush=True)
        Path(inside).unlink()
    except StoreError as error:
        print(f"lost: {error}", flush=True)
    held.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
