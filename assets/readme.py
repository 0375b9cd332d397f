"""`python -m assets.readme PAGE...`: writes those parts of pages that the code knows best."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import dagster as dg

from chatllama_pipeline.settings.original import TAKEN
from chatllama_pipeline.settings.reference import settings_tables

HOME = Path(__file__).parents[1]


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


def floors() -> str:
    """A table of the rooms, from the top floor down, as each says who lives in it.

    The floors are import-linter's contract `floors` in pyproject.toml.
    """
    contracts = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["importlinter"]
    [layers] = (told["layers"] for told in contracts["contracts"] if told["id"] == "floors")
    lines = ["| floor | room | who lives there |", "|---|---|---|"]
    for floor, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        for name in layer.split(" : "):
            lines += [f"| {floor} | `{room}` | {who} |" for room, who in _rooms(name)]
    return "\n".join(lines)


def _rooms(module: str) -> Iterator[tuple[str, str]]:
    """A module, or a package and the packages in it: path, and the first words of its docstring."""
    place = HOME / module.replace(".", "/")
    files = sorted(place.rglob("__init__.py")) if place.is_dir() else [place.with_suffix(".py")]
    for file in files:
        path = file.relative_to(HOME)
        room = f"{path.parent}/" if file.name == "__init__.py" else str(path)
        told = ast.get_docstring(ast.parse(file.read_text())) or ""
        yield room, " ".join(told.split("\n\n")[0].split())


def with_generated_parts(page: str, definitions: dg.Definitions) -> str:
    """`page` with what stands between `<!-- NAME: make readme -->` and `<!-- end of NAME -->`."""
    for name, text in (
        ("asset graph", asset_graph(definitions)),
        ("taken keys", taken_keys()),
        ("settings", settings_tables()),
        ("floors", floors()),
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
