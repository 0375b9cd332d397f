"""What the report and the audit share: one style, and how a page's template is opened.

A page is one file without links to others: `{% include "page.css" %}` stands before a template's
own rules, and `{% include "narrow.css" %}`, which overrides both, after them.
"""

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
