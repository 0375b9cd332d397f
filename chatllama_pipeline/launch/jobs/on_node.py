"""`python -m chatllama_pipeline.launch.jobs.on_node HOW LOG SECONDS ARGV...`: a job on a node.

Runs ARGV to its end, or has it save within SECONDS on SIGTERM; its output goes to the end of LOG.
Where it ends badly, HOW says so as JSON.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from chatllama_pipeline.errors import ChildError
from chatllama_pipeline.launch.child import run_child
from chatllama_pipeline.store.manifests import write_atomically


def main(argv: list[str]) -> int:
    how, log, seconds, *command = argv
    Path(how).unlink(missing_ok=True)
    try:
        run_child(command, env=os.environ, log=Path(log), append=True, stop_seconds=float(seconds))
    except ChildError as error:
        # Whoever waits for the job reads the end of the log by itself.
        message = str(error).partition("; the end of ")[0]
        write_atomically(Path(how), {"type": type(error).__name__, "message": message})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
