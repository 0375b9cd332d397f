"""Whether an assistant is released: the gate's word, or a person's."""

from __future__ import annotations

import json

from chatllama_pipeline.evaluation import EVALUATION_FILE
from chatllama_pipeline.evaluation.figures import Verdict
from chatllama_pipeline.lineage.recipes import read_in_use
from chatllama_pipeline.lineage.trials import missing_of_people
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.approvals import is_approved, rejection
from chatllama_pipeline.store.versions import Store


def release_verdict(store: Store, assistant: Assistant) -> Verdict:
    """The verdict on the evaluation in use.

    Raises AbsentError where there is none, CorruptVersionError where it can't be trusted.
    """
    evaluation = read_in_use("evaluation", assistant, store)
    found = json.loads((evaluation.path / EVALUATION_FILE).read_text())
    released, reason = bool(found["released"]), str(found["reason"])
    candidate = evaluation.manifest.upstream.get(assistant.settings.release.stage, "")
    if left := rejection(store.root, assistant.name, candidate):
        return Verdict(
            False,
            f"{left.by} went back from it to release {left.back_to} at {left.at}: it is released "
            f"again only when a person approves it: chatllama approve {assistant.name}",
        )
    approved = is_approved(store.root, assistant.name, evaluation.id)
    # An approval is of the model; that it came of a run with overrides takes that run's promote.
    if approved and not released and not evaluation.manifest.inputs["unpromoted_overrides"]:
        return Verdict(True, f"approved by a person, though: {reason}")
    if not approved and (missing := missing_of_people(assistant, store, candidate)):
        return Verdict(False, f"{missing} ({reason})")
    if released and not approved and assistant.settings.release.by == "person":
        return Verdict(
            False,
            "the gate lets it pass, and release.by asks for a person's word: read the report, then "
            f"chatllama approve {assistant.name} ({reason})",
        )
    return Verdict(released, reason)
