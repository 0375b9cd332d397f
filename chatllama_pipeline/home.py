"""Where `assistants/` and `storage/` stand unless a variable names another place; a run's name."""

from __future__ import annotations

from pathlib import Path

ASSISTANTS = "assistants"
# Who waits for a run finds it in the store by this name of its own, which the run takes over.
ASKED_VARIABLE = "CHATLLAMA_ASKED"
CHECKOUT = Path(__file__).parents[1]


def home() -> Path:
    """The working directory where it has assistants, else this checkout.

    So a service that is started elsewhere, as unit files are, finds what the terminal finds.
    """
    here = Path.cwd()
    return (
        here if (here / ASSISTANTS).is_dir() or not (CHECKOUT / ASSISTANTS).is_dir() else CHECKOUT
    )
