"""`worker.py FOLDER`: say in FOLDER that this rank is at work, sleep on; the last rank is deaf."""

import os
import signal
import sys
import time
from pathlib import Path

rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
if rank == ranks - 1:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / f"at_work_{rank}").touch()
time.sleep(600)
