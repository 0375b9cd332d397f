"""`parent.py FOLDER ASSET`: the engine alone, waiting for `worker.py` at work in FOLDER/ASSET."""

import sys
from pathlib import Path

from chatllama_pipeline.launch.child import child_environment, run_child

folder = Path(sys.argv[1], sys.argv[2])
run_child(
    [sys.executable, str(Path(__file__).with_name("worker.py")), str(folder)],
    env=child_environment(1),
    log=folder / "child.log",
    processes={"one_child": 1, "two_ranks": 2}[sys.argv[2]],
)
