"""Links from an asset on Dagster's page to the lines that make it, opened in one's editor."""

import ast
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from chatllama_pipeline.home import CHECKOUT
from chatllama_pipeline.launch import STAGES
from chatllama_pipeline.lineage import assets as declarations


def code_links(name: str, build: Callable[..., Any]) -> dict[str, Any]:
    """Metadata of an asset: where it is built, and where it is said what it is made from.

    An asset that a stage builds links to the stage, any other to `build`.
    """
    if name in STAGES:
        module, function = STAGES[name].split(":")
        file = CHECKOUT / f"{module.replace('.', '/')}.py"
        line = _lines_of(file)[function]
    else:
        file, line = Path(build.__code__.co_filename), build.__code__.co_firstlineno
    declared = Path(declarations.__file__)
    with warnings.catch_warnings():
        # Beta in Dagster.
        warnings.filterwarnings("ignore", "Class `(LocalFile|CodeReferences)")
        links = [
            _link(file, line, "what builds it"),
            _link(declared, _declared_at(declared)[name], "what it is made from"),
        ]
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=links)}


def _link(file: Path, line: int, label: str) -> dg.LocalFileCodeReference:
    return dg.LocalFileCodeReference(file_path=str(file), line_number=line, label=label)


@functools.cache
def _lines_of(file: Path) -> dict[str, int]:
    """The lines at which a module's functions begin; it isn't imported, which may take seconds."""
    lines = enumerate(file.read_text().splitlines(), 1)
    return {line[4:].partition("(")[0]: number for number, line in lines if line[:4] == "def "}


@functools.cache
def _declared_at(file: Path) -> dict[str, int]:
    """The lines at which assets are declared, in the list that `ASSETS` is made of."""
    [listed] = (
        node.value.elts
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.List)
        and len(node.value.elts) == len(declarations.ASSETS)
    )
    return {name: node.lineno for name, node in zip(declarations.ASSETS, listed, strict=True)}
