"""`python -m assets.docs PAGE...`: writes those parts of pages that the code knows best."""

import ast
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

import dagster as dg
from dagster import Field

from chatllama_pipeline.settings.original import TAKEN
from chatllama_pipeline.settings.reference import settings_tables

HOME = Path(__file__).parents[1]


def asset_graph(definitions: dg.Definitions) -> str:
    """The asset graph in Mermaid's flowchart language, one box per asset, one frame per group."""
    graph = definitions.resolve_asset_graph()
    # What stands above each of an assistant's assets, its folder, would only hide the picture.
    keys = [key for key in graph.toposorted_asset_keys if graph.get(key).is_materializable]
    lines = ["```mermaid", "flowchart LR"]
    for group in dict.fromkeys(graph.get(key).group_name for key in keys):
        lines.append(f"  subgraph {group}_group[{group}]")
        members = [key for key in keys if graph.get(key).group_name == group]
        lines += [f"    {key.to_user_string()}" for key in members]
        lines.append("  end")
    for key in keys:
        parents = sorted(p.to_user_string() for p in graph.get(key).parent_keys if p in keys)
        lines += [f"  {parent} --> {key.to_user_string()}" for parent in parents]
    return "\n".join([*lines, "```"])


def taken_keys() -> str:
    """A table of the original's keys that mean something else now."""
    lines = ["| section | key | what stands in its place |", "|---|---|---|"]
    for section, keys in groupby(TAKEN, key=lambda dotted: dotted.split(".")[0]):
        lines += [f"| `{section}` | `{key.split('.')[1]}` | {TAKEN[key]} |" for key in keys]
    return "\n".join(lines)


def run_config(definitions: dg.Definitions) -> str:
    """A table of what a run's config may hold: the resources' keys, and those of single ops."""
    jobs = [
        definitions.resolve_implicit_global_asset_job_def(),
        *(definitions.resolve_job_def(job.name) for job in definitions.jobs or ()),
    ]
    keys: dict[str, Field] = {}
    for job in jobs:
        ours = {name: job.resource_defs[name] for name in definitions.resources or ()}
        ops = {node.name: node.definition for node in job.nodes}
        for kind, found in (("resources", ours), ("ops", ops)):
            for name, holder in sorted(found.items()):
                fields = getattr(getattr(holder, "config_schema", None), "config_type", None)
                for key, field in getattr(fields, "fields", {}).items():
                    keys[f"{kind}.{name}.config.{key}"] = field
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in keys.items():
        lines.append(f"| `{key}` | `{json.dumps(field.default_value)}` | {field.description} |")
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


def generated_parts(definitions: dg.Definitions) -> dict[str, str]:
    """What the code says of itself in the docs, by name."""
    return {
        "asset graph": asset_graph(definitions),
        "taken keys": taken_keys(),
        "settings": settings_tables(),
        "run config": run_config(definitions),
        "floors": floors(),
    }


def filled(page: str, parts: Mapping[str, str]) -> str:
    """`page` with each part between its `<!-- NAME: make docs -->` and `<!-- end of NAME -->`."""
    for name, text in parts.items():
        begin, end = f"<!-- {name}: make docs -->", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        if found:
            page = f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    # Imported here: the definitions are made of the modules beside this one.
    from chatllama_pipeline.definitions import definitions

    parts = generated_parts(definitions)
    for target in map(Path, sys.argv[1:]):
        target.write_text(filled(target.read_text(), parts))
