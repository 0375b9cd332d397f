"""Silence for transformers' progress bars and load reports: the stages speak for themselves."""

from __future__ import annotations

from transformers.utils import logging


def quiet_transformers() -> None:
    """Errors alone are shown from here on, and no progress bars, in this process."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
