"""`python -m assets.readme PAGE...`: writes those parts of pages that the code knows best."""

import re
import sys
from itertools import groupby
from pathlib import Path

import dagster as dg

from chatllama_pipeline.settings.original import TAKEN


def asset_graph(definitions: dg.Definitions) -> str:
    """The asset graph in Mermaid's flowchart language, one box per asset, one frame per group."""
    graph = definitions.resolve_asset_graph()
    keys = graph.toposorted_asset_keys
    lines = ["```mermaid", "flowchart LR"]
    for group in dict.fromkeys(graph.get(key).group_name for key in keys):
        lines.append(f"  subgraph {group}_group[{group}]")
        members = [key for key in keys if graph.get(key).group_name == group]
        lines += [f"    {key.to_user_string()}" for key in members]
        lines.append("  end")
    for key in keys:
        parents = sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
        lines += [f"  {parent} --> {key.to_user_string()}" for parent in parents]
    return "\n".join([*lines, "```"])


def taken_keys() -> str:
    """A table of the original's keys that mean something else now."""
    lines = ["| section | key | what stands in its place |", "|---|---|---|"]
    for section, keys in groupby(TAKEN, key=lambda dotted: dotted.split(".")[0]):
        lines += [f"| `{section}` | `{key.split('.')[1]}` | {TAKEN[key]} |" for key in keys]
    return "\n".join(lines)


def with_generated_parts(page: str, definitions: dg.Definitions) -> str:
    """`page` with what stands between `<!-- NAME: make readme -->` and `<!-- end of NAME -->`."""
    for name, text in (
        ("asset graph", asset_graph(definitions)),
        ("taken keys", taken_keys()),
    ):
        begin, end = f"<!-- {name}: make readme -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        page = pattern.sub(f"{begin}\n{text}\n{end}".replace("\\", r"\\"), page)
    return page


if __name__ == "__main__":
    # Imported here: the definitions are made of the modules beside this one.
    from chatllama_pipeline.definitions import definitions

    for target in map(Path, sys.argv[1:]):
        target.write_text(with_generated_parts(target.read_text(), definitions))
