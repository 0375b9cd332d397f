"""`python -m assets.graph README.md`: writes the asset graph into a page, as Mermaid."""

import re
import sys
from pathlib import Path

import dagster as dg

BEGIN, END = "<!-- asset graph: make graph -->", "<!-- end of asset graph -->"


def mermaid(definitions: dg.Definitions) -> str:
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


def with_graph(page: str, graph: str) -> str:
    """`page` with `graph` between its two markers."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{graph}\n{END}", page)


if __name__ == "__main__":
    # Imported here: the definitions are made of the modules beside this one.
    from chatllama_pipeline.definitions import definitions

    target = Path(sys.argv[1])
    target.write_text(with_graph(target.read_text(), mermaid(definitions)))
