"""Where a version's page is found."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from chatllama_pipeline.data.audit import AUDIT_PAGE
from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.evaluation import REPORT_FILE

# Set where a proxy gives the server another name.
VARIABLE = "CHATLLAMA_REPORTS"
PORT = 3001
# The assets whose versions hold a page, and its file.
PAGES = {"evaluation": REPORT_FILE, "data_audit": AUDIT_PAGE}


def report_address(asset: str, assistant: str, version: str) -> str:
    """The address of a version's page, of an asset in `PAGES`."""
    return f"{reports_address()}/{asset}/{assistant}/{version}"


def reports_address() -> str:
    """Where the server of reports is reached: `CHATLLAMA_REPORTS`, else loopback.

    Raises SettingsError for what is no http(s) address.
    """
    text = os.environ.get(VARIABLE) or f"http://127.0.0.1:{PORT}"
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise SettingsError(
            f"{VARIABLE}={text} is no address: write it as a browser shows it, such as "
            "https://dagster.example.org/reports"
        )
    return text.rstrip("/")
