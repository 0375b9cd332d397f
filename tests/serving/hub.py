"""A hub on loopback that speaks what huggingface_hub asks: look, make, upload, commit."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_secret"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


class RunningHub:
    """Its repositories by id, and the large files that were uploaded, by their hash."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    hub: RunningHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        known = self._repository(r"/api/models/(.+)")
        if known is None:
            return
        name, repository = known
        files = [{"rfilename": file} for file in (".gitattributes", *repository.files)]
        self._answer(
            200, {"id": name, "sha": "0" * 40, "private": repository.private, "siblings": files}
        )

    def do_PUT(self) -> None:
        self.hub.large[self.path.rpartition("/")[2]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            # As the hub has it: public unless one asks for the other.
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repositories[name] = Repository(private)
            self._answer(200, {"url": f"{self.hub.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for one in files
            ]
            self._answer(200, {"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"{self.hub.url}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif known := self._repository(r"/api/models/(.+)/commit/main"):
            self._commit(*known, body)

    def do_HEAD(self) -> None:
        self._answer(404, {})

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        for line in body.decode().splitlines():
            one = json.loads(line)
            key, value = one["key"], one["value"]
            if key == "header":
                repository.messages.append(value["summary"])
            elif key == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                repository.files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                del repository.files[value["path"]]
        sha = "1" * 40
        url = f"{self.hub.url}/{name}/commit/{sha}"
        self._answer(200, {"success": True, "commitOid": sha, "commitUrl": url})

    def _repository(self, pattern: str) -> tuple[str, Repository] | None:
        """The repository of this request; where there is none, or no right to it, that is told."""
        found = re.fullmatch(pattern, self.path.partition("?")[0])
        assert found is not None, self.path
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid token"}, {"x-error-message": "Invalid token"})
            return None
        if found[1] not in self.hub.repositories:
            self._answer(404, {"error": "none"}, {"x-error-code": "RepoNotFound"})
            return None
        return found[1], self.hub.repositories[found[1]]

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def running_hub() -> Iterator[RunningHub]:
    """A hub until the block ends."""
    hub = RunningHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
