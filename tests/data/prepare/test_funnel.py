"""Every row that was read is either kept or dropped for a reason that stands in the funnel."""

from __future__ import annotations

import json
from pathlib import Path

from chatllama_pipeline.data.funnel import Funnel


def test_a_choice_leaves_a_row_valid_and_a_defect_does_not(tmp_path: Path) -> None:
    funnel = Funnel()
    funnel.read("shp", 10)
    funnel.drop("shp", "empty_reply", 2)
    funnel.drop_rows([{"source": "shp"}, {"source": "shp"}, {"source": "shp"}], "duplicate")
    funnel.read_rows([{"source": "grammar"}])
    funnel.write(tmp_path)
    assert json.loads((tmp_path / "funnel.json").read_text()) == {
        "sources": {
            "grammar": {"read": 1, "valid": 1, "kept": 1, "dropped": {}},
            # 10 - 2 empty = 8 valid, less 3 duplicates = 5.
            "shp": {
                "read": 10,
                "valid": 8,
                "kept": 5,
                "dropped": {"duplicate": 3, "empty_reply": 2},
            },
        }
    }
    assert funnel.dropped() == {"duplicate": 3, "empty_reply": 2}
