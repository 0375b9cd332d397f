"""What a store's URL and the environment say of a bucket, looked at before it is asked.

What no bucket could answer to is refused here: a client would wait for it, or end in words of its
own.
"""

from __future__ import annotations

import os
import re
from urllib.parse import SplitResult, urlsplit

from chatllama_pipeline.errors import StoreError

# Schemes of which obstore can put under a condition, and the variables that say who asks.
WHO_ASKS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT, the path of a key's file,",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# What others call them.
_MEANT = {
    **dict.fromkeys(("s3a", "s3n", "S3"), "s3"),
    **dict.fromkeys(("gcs", "GS", "google"), "gs"),
    **dict.fromkeys(("abfs", "abfss", "azure", "wasb", "wasbs", "adl", "AZ"), "az"),
}
# Variables that name a server of one's own, and the one that lets it be asked without TLS.
_ENDPOINTS = {
    "s3": (("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"), "AWS_ALLOW_HTTP"),
    "az": (("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"), "AZURE_ALLOW_HTTP"),
}
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_TRUE = ("1", "true", "on", "yes", "y")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_url(text: str) -> bool:
    """Whether a place is told as a URL, with too few slashes too."""
    return "://" in text or text.partition(":")[0] in (WHO_ASKS if ":" in text else ())


def require_address(url: str) -> str:
    """The URL without slashes at its end; raises StoreError for what no bucket could answer to."""
    scheme = url.partition(":")[0]
    if scheme not in WHO_ASKS:
        meant = f"; {_MEANT[scheme]}://, perhaps" if scheme in _MEANT else ""
        raise StoreError(
            f"{_shown(url)}: a store at a URL stands in a bucket ({', '.join(WHO_ASKS)}{meant}); "
            "or name a local folder"
        )
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise StoreError(
            f"{_shown(url)}: whoever reads a log would have what stands before the @: leave it "
            f"out, and set {WHO_ASKS[scheme]}"
        )
    if not _BUCKET.fullmatch(parts.netloc):
        told = f"{parts.netloc!r} is no bucket's name" if parts.netloc else "it names no bucket"
        raise StoreError(f"{url}: {told}; write {scheme}://BUCKET/FOLDER")
    _require_folder(url, parts)
    _require_environment(scheme)
    return url.rstrip("/")


def _require_folder(url: str, parts: SplitResult) -> None:
    if parts.query or parts.fragment:
        sign = "?" if parts.query else "#"
        raise StoreError(
            f"{url}: what follows the {sign} would not be heard; options stand in the environment "
            "(docs/running/stores.md)"
        )
    folders = parts.path[1:].rstrip("/")
    for name in folders.split("/") if folders else ():
        if name in ("", ".", "..") or any(ord(character) < ord(" ") for character in name):
            raise StoreError(
                f"{url}: a folder in a bucket can't be called {name!r}: write it without, as "
                f"{parts.scheme}://{parts.netloc}/FOLDER"
            )


def _require_environment(scheme: str) -> None:
    endpoints, allows = _ENDPOINTS.get(scheme, ((), ""))
    for name in endpoints:
        address = os.environ.get(name)
        if address is None:
            continue
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StoreError(
                f"{name} is {address!r}: write it with its scheme, as https://storage.example.org"
            )
        if parts.scheme == "http" and os.environ.get(allows, "").lower() not in _TRUE:
            raise StoreError(
                f"{name} is {address!r}, and nothing is sent in the clear: use https, or set "
                f"{allows}=true"
            )
    if scheme == "s3":
        for name in _REGIONS:
            if os.environ.get(name) == "":
                raise StoreError(f"{name} is empty: name the bucket's region, or unset it")


def _shown(url: str) -> str:
    """Without what may be a password."""
    before, at, after = url.rpartition("@")
    return f"{before.partition('://')[0]}://...@{after}" if at else url
