"""What is asked of the API server, by the `kubernetes` client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.jobs.scheduler import NoAnswerError

# To connect, and to answer.
ANSWER_SECONDS = (10.0, 60.0)
IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# What passes by itself: credentials that are being renewed, a server that is busy or starts.
PASSING = frozenset({401, 429})
Object = dict[str, Any]


class RefusedError(SettingsError):
    """The server says no, and will say so again; `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """A cluster's API server, in one namespace.

    All that asks raises NoAnswerError where it is away, RefusedError where it says no.
    """

    def __init__(self, context: str, namespace: str) -> None:
        """Raises SettingsError where this machine knows no cluster, or not that `context`."""
        from kubernetes import client

        settings, found = _settings(context)
        self.namespace = namespace or found or "default"
        self.server = str(settings.host)
        asker = client.ApiClient(settings)
        self._asker = asker
        self._jobs, self._core = client.BatchV1Api(asker), client.CoreV1Api(asker)

    def create_job(self, manifest: Mapping[str, Any], *, trial: bool = False) -> None:
        """Make a Job, or with `trial` only hear whether it would be taken."""
        more: dict[str, Any] = {"dry_run": "All"} if trial else {}
        ask = self._jobs.create_namespaced_job
        try:
            # Strict: a server that doesn't know a field says so, where it would pass over it.
            _asked(ask, self.namespace, manifest, field_validation="Strict", **more)
        except RefusedError as error:
            # An answer that was lost: the name is the job's own.
            if error.status != 409:
                raise

    def job(self, name: str) -> Object | None:
        return self._found(self._jobs.read_namespaced_job, name)

    def claim(self, name: str) -> Object | None:
        return self._found(self._core.read_namespaced_persistent_volume_claim, name)

    def service(self, name: str) -> Object | None:
        return self._found(self._core.read_namespaced_service, name)

    def pods(self, job: str) -> list[Object]:
        """All pods of a job that are still known."""
        ask = self._core.list_namespaced_pod
        listed = _asked(ask, self.namespace, label_selector=f"job-name={job}")
        pods: list[Object] = listed["items"]
        return pods

    def events(self, name: str) -> list[Object]:
        """What happened to the object of that name, the newest last; none where that's secret."""
        ask = self._core.list_namespaced_event
        try:
            listed = _asked(ask, self.namespace, field_selector=f"involvedObject.name={name}")
        except RefusedError:
            return []
        return sorted(listed["items"], key=_when)

    def delete_job(self, name: str) -> None:
        """Have a job end: its pods get TERM, and their grace; it is there until they are gone."""
        self._found(
            self._jobs.delete_namespaced_job, name, body={"propagationPolicy": "Foreground"}
        )

    def end_pod(self, name: str) -> None:
        """End a pod with the shortest grace at which its node still confirms the end."""
        self._found(self._core.delete_namespaced_pod, name, body={"gracePeriodSeconds": 1})

    def close(self) -> None:
        self._asker.close()

    def _found(self, ask: Callable[..., Any], name: str, **more: Any) -> Object | None:
        try:
            return _asked(ask, name, self.namespace, **more)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise


def _asked(ask: Callable[..., Any], *arguments: Any, **more: Any) -> Object:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        reply = ask(*arguments, _preload_content=False, _request_timeout=ANSWER_SECONDS, **more)
        answer: Object = json.loads(reply.data)
    except ApiException as error:
        told = f"{_message(error.body) or error.reason} ({error.status})"
        if error.status in PASSING or not error.status or error.status >= 500:
            raise NoAnswerError(f"Kubernetes' API server: {told}") from None
        raise RefusedError(told, error.status) from None
    except (HTTPError, OSError, ValueError) as error:
        raise NoAnswerError(f"Kubernetes' API server doesn't answer: {error}") from None
    return answer


def _message(body: object) -> str:
    """The words of a Status, which is what a server refuses with."""
    try:
        return str(
            json.loads(str(body if not isinstance(body, bytes) else body.decode()))["message"]
        )
    except (ValueError, KeyError, TypeError):
        return ""


def _when(event: Mapping[str, Any]) -> str:
    times: Sequence[str | None] = [event.get("lastTimestamp"), event.get("eventTime")]
    return next((time for time in times if time), event["metadata"].get("creationTimestamp", ""))


def _settings(context: str) -> tuple[Any, str]:
    """The client's configuration, and the namespace that goes with it ("" if none does)."""
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        if not context and (IN_POD / "token").exists():
            config.load_incluster_config(client_configuration=settings)
            return settings, (IN_POD / "namespace").read_text().strip()
        file = os.environ.get("KUBECONFIG") or None
        config.load_kube_config(file, context or None, settings)
        known, current = config.list_kube_config_contexts(file)
        named = [one for one in known if one["name"] == context]
        one = named[0] if named else current
        return settings, str(one["context"].get("namespace") or "")
    except config.ConfigException as error:
        raise SettingsError(
            f"compute.kubernetes.context {context!r}: no cluster is known here ({error}): set "
            "KUBECONFIG, name one of `kubectl config get-contexts`, or start Dagster in a pod "
            "whose service account may make jobs (deploy/kubernetes/rights.yaml)"
        ) from None
