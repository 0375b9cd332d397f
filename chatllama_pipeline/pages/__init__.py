"""What the report and the audit share: one style, and how a page's template is opened.
Styles come in here, included by templates (`page.css`, then `narrow.css`); pages stay elsewhere."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def page_environment(templates: Path) -> Environment:
    """For the templates in that folder, with the shared style beside them; texts are escaped."""
    return Environment(
        loader=FileSystemLoader([templates, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
