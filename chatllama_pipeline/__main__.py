"""`python -m chatllama_pipeline`: the command `chatllama` where it isn't on the path."""

from __future__ import annotations

from chatllama_pipeline.cli.main import main

if __name__ == "__main__":
    main()
