"""The page's address, and what browsers may do with it."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Literal

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from chatllama_pipeline.pages import page_environment

PATH = "/"
Page = Literal["talk", "trial"]


def page_route(name: Page) -> Route:
    """One file that asks its own server and nobody else."""
    text, headers = page(name)

    async def answer(request: Request) -> Response:
        return HTMLResponse(text, headers=headers)

    return Route(PATH, answer)


@functools.cache
def page(name: Page) -> tuple[str, dict[str, str]]:
    """The page's text, and the headers that it goes out with: its own script and style, by their
    hashes, are all that a browser may run of it, whatever texts stand in it."""
    text = page_environment(Path(__file__).parent).get_template(f"{name}.html").render()
    script, style = (_hash(text, tag) for tag in ("script", "style"))
    policy = {
        "default-src": "'none'",
        "script-src": script,
        "style-src": style,
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    return text, {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def _hash(text: str, tag: str) -> str:
    """The hash of what stands in the page's one element of that name, as a policy spells it."""
    [inner] = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"
