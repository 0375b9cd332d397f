"""The child process that runs llama.cpp's converter: `python converting.py TREE SPLIT ARGUMENT...`

The converter brings a library of its own, which must not meet another version of it: so it runs
alone. SPLIT is what stands in for the split of a tokenizer that it doesn't know; "" for none.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any


def main() -> None:
    tree, split, *arguments = sys.argv[1:]
    sys.path[:0] = [tree, f"{tree}/gguf-py"]
    from conversion import TextModel  # type: ignore[import-not-found]

    known = TextModel.get_vocab_base_pre

    def named(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            if not split:
                raise
            return split

    TextModel.get_vocab_base_pre = named
    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    runpy.run_path(f"{tree}/convert_hf_to_gguf.py", run_name="__main__")


if __name__ == "__main__":
    main()
