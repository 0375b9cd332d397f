"""An API server of Kubernetes on loopback, as far as jobs ask one; objects are kept in memory.

It holds what it is given to the client's own models: a field that there isn't is refused, as a
server does that is asked strictly.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import threading
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kubernetes import client

from chatllama_pipeline.launch.kubernetes.wanted import quantity

Object = dict[str, Any]
TOKEN = "a token of the tests"
NAMESPACE = "ours"
_PATH = re.compile(
    r"/(?:api/v1|apis/batch/v1)/namespaces/(?P<namespace>[^/]+)/"
    r"(?P<kind>events|jobs|persistentvolumeclaims|pods|services)(?:/(?P<name>[^/]+))?"
)
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass
class Refused(Exception):
    """What a request gets in the place of an answer."""

    status: int
    reason: str
    message: str


@dataclass
class ApiServer:
    """What stands in one namespace, and what its users may do; change it under `lock`."""

    objects: dict[str, dict[str, Object]] = field(default_factory=dict)
    # Verbs with kinds: "create jobs".
    forbidden: set[str] = field(default_factory=set)
    # How many requests more are answered by 503, as while a server starts.
    away: int = 0
    # By resource, as of a ResourceQuota.
    quota: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"server_of": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def write_kubeconfig(self, path: Path, token: str = TOKEN) -> None:
        address = f"http://127.0.0.1:{self._http.server_address[1]}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "here", "cluster": {"server": address}}],
            "users": [{"name": "us", "user": {"token": token}}],
            "contexts": [
                {
                    "name": "test",
                    "context": {"cluster": "here", "user": "us", "namespace": NAMESPACE},
                }
            ],
        }
        path.write_text(json.dumps(content))

    def all(self, kind: str) -> list[Object]:
        return list(self.objects.setdefault(kind, {}).values())

    def add(self, kind: str, thing: Object) -> Object:
        """Give it what a server gives, and keep it."""
        with self.lock:
            thing.setdefault("status", {})
            thing["metadata"] |= {
                "namespace": NAMESPACE,
                "uid": str(uuid.uuid4()),
                "creationTimestamp": now(),
                "resourceVersion": str(next(self._numbers)),
            }
            self.objects.setdefault(kind, {})[thing["metadata"]["name"]] = thing
            return thing

    def remove(self, kind: str, name: str) -> None:
        self.objects.get(kind, {}).pop(name, None)

    def event(self, about: str, reason: str, message: str) -> None:
        """A warning; one that was told already gets a newer time."""
        name = f"{about}.{reason}"
        told = {"reason": reason, "message": message, "type": "Warning", "lastTimestamp": now()}
        about_it = {"involvedObject": {"name": about}, "metadata": {"name": name}}
        self.add("events", {**told, **about_it})

    # What a request asks.

    def answer(self, verb: str, path: str, query: Mapping[str, str], body: Object) -> Object:
        found = _PATH.fullmatch(path)
        assert found is not None, path
        kind, name = found["kind"], found["name"]
        if verb == "get" and name is None:
            verb = "list"
        with self.lock:
            self.asked.append(f"{verb} {kind}")
            if self.away:
                self.away -= 1
                raise Refused(503, "ServiceUnavailable", "the server is starting")
            if f"{verb} {kind}" in self.forbidden:
                told = f'{kind} is forbidden: User "us" cannot {verb} resource "{kind}"'
                raise Refused(403, "Forbidden", told)
            if verb == "create":
                return self._create(kind, found["namespace"], query, body)
            here = self.objects.get(kind, {}) if found["namespace"] == NAMESPACE else {}
            if verb == "list":
                return {"kind": "List", "items": copy.deepcopy(_selected(here, query))}
            if name not in here:
                raise Refused(404, "NotFound", f'{kind} "{name}" not found')
            if verb == "delete":
                self._delete(kind, here[name], query, body)
            return copy.deepcopy(here.get(name, {}))

    def _create(self, kind: str, namespace: str, query: Mapping[str, str], body: Object) -> Object:
        if namespace != NAMESPACE:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
        assert query["fieldValidation"] == "Strict"
        require_valid(body)
        if len(self.all(kind)) >= self.quota.get(f"count/{kind}.batch", float("inf")):
            told = f"exceeded quota: few, requested: count/{kind}.batch=1, used: "
            raise Refused(403, "Forbidden", f"{told}{len(self.all(kind))}, limited: as many")
        if query.get("dryRun") == "All":
            return body
        if body["metadata"]["name"] in self.objects.get(kind, {}):
            raise Refused(409, "AlreadyExists", f"{kind} already exists")
        return self.add(kind, copy.deepcopy(body))

    def _delete(self, kind: str, thing: Object, query: Mapping[str, str], body: Object) -> None:
        metadata = thing["metadata"]
        if kind == "jobs" and body.get("propagationPolicy") == "Foreground":
            metadata.setdefault("deletionTimestamp", now())
            return
        assert kind == "pods"
        grace = body.get("gracePeriodSeconds")
        asked = thing["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
        # A later deletion shortens the grace, and never lengthens it.
        before = metadata.get("deletionGracePeriodSeconds", asked)
        metadata["deletionGracePeriodSeconds"] = min(asked, before)
        metadata.setdefault("deletionTimestamp", now())


def _selected(here: Mapping[str, Object], query: Mapping[str, str]) -> list[Object]:
    found = list(here.values())
    if selector := query.get("labelSelector"):
        key, _, value = selector.partition("=")
        found = [one for one in found if one["metadata"]["labels"].get(key) == value]
    if selector := query.get("fieldSelector"):
        name = selector.removeprefix("involvedObject.name=")
        found = [one for one in found if one["involvedObject"]["name"] == name]
    return found


def require_valid(thing: Object) -> None:
    """Refuse a manifest as a server does: unknown fields, absent ones, names and amounts."""
    if unknown := unknown_fields(thing, f"V1{thing['kind']}"):
        told = f'strict decoding error: unknown field "{unknown[0]}"'
        raise Refused(400, "BadRequest", told)
    if thing["kind"] != "Job":
        return
    pod = thing["spec"]["template"]["spec"]
    if not _DNS_LABEL.fullmatch(thing["metadata"]["name"]):
        raise Refused(422, "Invalid", f"Job is invalid: name {thing['metadata']['name']!r}")
    if pod["restartPolicy"] != "Never" and "podFailurePolicy" in thing["spec"]:
        raise Refused(422, "Invalid", "Job is invalid: podFailurePolicy needs Never")
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        for mount in container["volumeMounts"]:
            if mount["name"] not in volumes:
                raise Refused(422, "Invalid", f"Job is invalid: no volume {mount['name']!r}")
        for amount in container["resources"]["requests"].values():
            if quantity(amount) is None:
                raise Refused(422, "Invalid", f"Job is invalid: quantity {amount!r}")
        if any("value" in one and not isinstance(one["value"], str) for one in container["env"]):
            raise Refused(400, "BadRequest", "env value must be a string")


def unknown_fields(thing: Any, kind: str, where: str = "") -> list[str]:
    """Fields of a manifest that the client's model of its kind doesn't have."""
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        return [name for one in thing for name in unknown_fields(one, listed[1], where)]
    model = getattr(client, kind, None)
    if model is None or kind == "object" or not hasattr(model, "openapi_types"):
        return []
    if not isinstance(thing, dict):
        return [f"{where} (is no object)"]
    fields = {json_name: name for name, json_name in model.attribute_map.items()}
    found = [f"{where}{name}" for name in thing if name not in fields]
    for name in thing.keys() & fields.keys():
        found += unknown_fields(thing[name], model.openapi_types[fields[name]], f"{where}{name}.")
    return found


class _Handler(BaseHTTPRequestHandler):
    server_of: ApiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("get")

    def do_POST(self) -> None:
        self._serve("create")

    def do_DELETE(self) -> None:
        self._serve("delete")

    def _serve(self, verb: str) -> None:
        split = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(split.query))
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        status = 200
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            answer = self.server_of.answer(verb, split.path, query, body)
        except Refused as refused:
            status = refused.status
            answer = {
                "kind": "Status",
                "status": "Failure",
                "code": refused.status,
                "reason": refused.reason,
                "message": refused.message,
            }
        written = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(written)))
        self.end_headers()
        self.wfile.write(written)
