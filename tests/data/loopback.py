"""A small Hugging Face hub and file server on loopback, which breaks off on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Hub:
    """One dataset repository: commits by name, files by commit; and what clients asked for.

    `break_off` files are cut in half the first time they are asked for whole.
    """

    commits: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    break_off: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    url: str = ""

    def commit(self, number: int, files: dict[str, bytes]) -> str:
        """Make a commit the head of main."""
        name = hashlib.sha1(str(number).encode()).hexdigest()
        self.commits["main"] = self.commits[name] = name
        self.files[name] = files
        return name


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            self._api(parts[4], parts[5] if len(parts) > 5 else "main")
        elif parts[0] == "datasets":
            commit = self.hub.commits.get(parts[4], "")
            self._file(self.hub.files.get(commit, {}).get("/".join(parts[5:])), path, commit, body)
        else:
            self._file(self.hub.files.get("plain", {}).get(path.strip("/")), path, "", body)

    def _api(self, what: str, revision: str) -> None:
        commit = self.hub.commits.get(revision)
        if commit is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        files = self.hub.files[commit]
        answer: object = {"id": "a/b", "sha": commit, "siblings": [], "tags": []}
        if what == "tree":
            answer = [
                {"type": "file", "path": name, "size": len(text), "oid": "0"}
                for name, text in files.items()
            ]
        self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)

    def _file(self, content: bytes | None, path: str, commit: str, body: bool) -> None:
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        start = 0
        if wanted := self.headers.get("Range"):
            self.hub.asked.append(f"RANGE {path} {wanted}")
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self._send(content, headers, body, start, path)

    def _send(
        self,
        content: bytes,
        headers: dict[str, str],
        body: bool,
        start: int = 0,
        path: str = "",
    ) -> None:
        self.send_response(206 if start else 200)
        rest = content[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        for name, value in {**headers, "Content-Length": str(len(rest))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if path in self.hub.break_off and len(rest) > 1:
            self.hub.break_off.discard(path)
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(rest)


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """`hub` on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
