"""Why nothing can be read of a judge's reply."""

from __future__ import annotations

OUT_OF_RANGE = "out of range"
SEVERAL = "several numbers"
UNSURE = "not sure"
OTHER_SCALE = "another scale"
NO_SCORE = "no score"
NO_CHOICE = "no choice"
REFUSED = "refused"
CUT_OFF = "cut off"
