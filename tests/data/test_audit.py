"""The audit: its figures against counts made by hand, its checks, its page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatllama_pipeline.data import CHECK_NAMES
from chatllama_pipeline.data.audit import AUDIT_PAGE
from chatllama_pipeline.data.audit.build import AUDIT_FILE, build_data_audit
from chatllama_pipeline.data.audit.figures import AUDITED, measure
from chatllama_pipeline.data.audit.lengths import lengths_of, tokenizer_fingerprint
from chatllama_pipeline.data.audit.pairs import Contests, length_only_accuracy, measure_pairs
from chatllama_pipeline.data.audit.tables import LengthCounts
from chatllama_pipeline.progress import Progress, listening
from chatllama_pipeline.records import Check, Outcome
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PREFERENCE_SCHEMA, PROMPT_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.settings import AssistantSettings

SCHEMAS = dict(
    zip(AUDITED, (PREFERENCE_SCHEMA, ACTOR_SCHEMA, PROMPT_SCHEMA, REWARD_SCHEMA), strict=True)
)
WriteTable = Callable[..., Path]
Rows = list[dict[str, Any]]


def row(prompt: str, split: str = "train", **values: Any) -> dict[str, Any]:
    shared = {"source": "grammar", "strength": 1.0, "domain": "", "split": split}
    return {"prompt": [{"role": "user", "content": prompt}], **shared, **values}


def pair(prompt: str, chosen: str, rejected: str, split: str = "train") -> dict[str, Any]:
    return row(prompt, split, chosen=chosen, rejected=rejected)


@pytest.fixture
def folders(tmp_path: Path, write_table: WriteTable) -> Callable[..., dict[str, Path]]:
    """Version folders of the four tables, with the rows that a test names by table."""

    def make(**tables: Rows) -> dict[str, Path]:
        made = {}
        for name, schema in SCHEMAS.items():
            rows = [
                {column: value for column, value in row.items() if column in schema.names}
                for row in tables.get(name, [])
            ]
            made[name] = write_table(tmp_path / name, rows, schema)
        return made

    return make


def audited(
    folders: dict[str, Path], tmp_path: Path, settings: AssistantSettings | None = None
) -> tuple[Outcome, dict[str, Any], str]:
    output = tmp_path / "audit"
    output.mkdir(exist_ok=True)
    outcome = build_data_audit("poet", folders, settings or AssistantSettings(), output)
    figures = json.loads((output / AUDIT_FILE).read_text())
    return outcome, figures, (output / AUDIT_PAGE).read_text()


def check(outcome: Outcome, name: str) -> Check:
    (found,) = (check for check in outcome.checks if check.name == name)
    return found


def contests(*pairs: tuple[int, int]) -> Contests:
    counted = Contests.empty()
    counted.add(*(np.array(side, np.int64) for side in zip(*pairs, strict=True)))
    return counted


def test_a_classifier_of_lengths_learns_which_length_people_prefer() -> None:
    # People like 100 characters: more than 10, more than 1000. The longer reply wins half of these.
    training = contests(*[(100, 10), (100, 1000)] * 20)
    assert length_only_accuracy(training, contests((100, 10), (100, 1000))) == 1.0
    assert length_only_accuracy(training, contests((10, 100), (100, 1000))) == 0.5
    # 10 and 1000 never met, and lost alike: a tie, which counts half.
    assert length_only_accuracy(training, contests((10, 1000))) == 0.5


def test_within_a_bin_the_classifier_goes_by_what_the_bin_s_training_pairs_prefer() -> None:
    # 100 to 107 characters share a quarter octave; there the shorter one won three times of four.
    training = contests((100, 107), (101, 106), (102, 104), (107, 101))
    held_out = contests((100, 105), (105, 100), (103, 104), (104, 104))
    # Right, wrong, right, and a tie of equal lengths: 2.5 of 4.
    assert length_only_accuracy(training, held_out) == 0.625
    # Where the longer one won three times of four: wrong, right, wrong, and the tie: 1.5 of 4.
    longer = contests((107, 100), (106, 101), (104, 102), (101, 107))
    assert length_only_accuracy(longer, held_out) == 0.375


def test_nothing_to_fit_or_to_measure_on_is_not_measured() -> None:
    assert length_only_accuracy(Contests.empty(), contests((1, 2))) is None
    assert length_only_accuracy(contests((1, 2)), Contests.empty()) is None


def test_pairs_are_counted_by_how_their_replies_are_alike(folders: Any) -> None:
    rows = [
        pair("a", "La la", " La la\n"),  # the same text
        pair("b", "La la", "la  LA"),  # but for case and white space
        pair("c", "0123456789 yes", "0123456789 no"),  # in the first ten characters
        pair("d", "short", "longer", "test"),
    ]
    figures = measure_pairs(folders(preference_data=rows)["preference_data"], cut=10)
    assert (figures.identical, figures.alike, figures.alike_when_cut) == (1, 1, 1)
    assert (figures.pairs, figures.held_out) == (4, 1)
    # By characters as they stand: 5 < 7, 5 < 6, 14 > 13, 5 < 6.
    assert figures.longer_wins == 1 / 4


def test_lengths_are_told_by_median_95th_percentile_maximum_and_bins() -> None:
    lengths = lengths_of(np.array([1, 2, 3, 4, 4096], np.int64))
    assert (lengths.rows, lengths.median, lengths.longest) == (5, 3, 4096)
    # Half octaves from 1: 1 in the first, 2 in the third, 3 (2^1.58) in the fourth, 4 in the fifth.
    assert [count for _, _, count in lengths.bins[:6]] == [1, 0, 1, 1, 1, 0]
    assert lengths.bins[-1] == (4096.0, pytest.approx(4096 * 2**0.5), 1)
    assert sum(count for _, _, count in lengths.bins) == 5
    # A narrow range is drawn in finer bins, none narrower than half a character.
    narrow = lengths_of(np.arange(100, 132, dtype=np.int64))
    assert 12 <= len(narrow.bins) <= 32
    assert lengths_of(np.array([7], np.int64)).bins[0][2] == 1
    assert lengths_of(np.array([0], np.int64)).longest == 0
    assert lengths_of(np.zeros(0, np.int64)).bins == []


def test_training_rows_that_repeat_a_held_out_prompt_of_any_table_are_counted(
    folders: Any, tmp_path: Path
) -> None:
    made = folders(
        preference_data=[pair("What is a poem?", "A", "B", "test"), pair("Sing!", "A", "B")],
        actor_training_data=[
            row("  what is a POEM? ", completion="A"),  # the same, evened out
            row("What is: a poem", completion="A"),  # the same words
            row("Sing!", completion="A"),
        ],
        rlhf_training_data=[row("Hum!", "validation"), row("Hum!")],
    )
    lines: list[str] = []
    with listening(Progress("data_audit", lines.append, every_seconds=0, first_seconds=0)):
        outcome, figures, _ = audited(made, tmp_path)
    assert any("data_audit: reads actor_training_data: 3 of 3 rows" in line for line in lines)
    assert {o["table"]: (o["exact"], o["near"]) for o in figures["overlaps"]} == {
        "preference_data": (0, 0),
        "actor_training_data": (1, 1),
        "rlhf_training_data": (1, 0),
        "reward_training_data": (0, 0),
    }
    overlap = check(outcome, "split_overlap")
    assert (overlap.passed, overlap.value) == (False, 3)
    tables = {table["name"]: table for table in figures["tables"]}
    assert tables["actor_training_data"]["prompts"] == 3
    assert tables["actor_training_data"]["near_prompts"] == 1
    assert tables["rlhf_training_data"]["repeated_rows"] == 1
    assert tables["rlhf_training_data"]["by_split"] == {"test": 0, "train": 1, "validation": 1}


def test_personal_data_is_counted_once_per_text_and_shown_masked(
    folders: Any, tmp_path: Path
) -> None:
    talk = pair("I am jo@mail.org", "Call +49 30 1234567 or +49 30 1234567", "jo@mail.org")
    made = folders(
        preference_data=[talk],
        actor_training_data=[{**talk, "completion": talk["chosen"]}],
        rlhf_training_data=[talk],
    )
    outcome, figures, page = audited(made, tmp_path)
    assert figures["matches"] == {"email": 2, "phone": 2}
    assert figures["texts"] == {"email": 2, "phone": 1}
    assert figures["examples"] == {"email": ["j***@m***.org"], "phone": ["+49***67"]}
    assert "jo@mail.org" not in page + json.dumps(figures)
    assert "1234567" not in page + json.dumps(figures)
    assert "j***@m***.org" in page
    found = check(outcome, "personal_data")
    assert (found.passed, found.blocking, found.value) == (False, False, 4)
    assert "E-mail addresses: 2, Phone numbers: 2; set data.redact: true" in found.description


def test_the_checks_are_those_that_dagster_knows_and_hold_their_limits(
    folders: Any, tmp_path: Path
) -> None:
    rows = [
        pair(f"{n}?", "Yes, gladly.", "No.", "test" if n % 4 == 0 else "train") for n in range(40)
    ]
    outcome, _, _ = audited(folders(preference_data=rows), tmp_path)
    assert [(c.name, c.blocking) for c in outcome.checks] == CHECK_NAMES["data_audit"]
    assert [c.name for c in outcome.checks if not c.passed] == ["length_only_held_out"]
    length = check(outcome, "length_only_held_out")
    assert (length.value, length.limit) == (1.0, 0.65)
    shutil.rmtree(tmp_path / "audit")
    alike = [pair(f"other {n}", "La", "la", "test") for n in range(3)]
    lenient = AssistantSettings.model_validate(
        {"checks": {"max_length_only_accuracy": 1.0, "max_alike_pairs": 0.0}}
    )
    outcome, _, _ = audited(folders(preference_data=rows + alike), tmp_path, lenient)
    assert [c.name for c in outcome.checks if not c.passed] == ["alike_pairs"]
    # 3 of 43 pairs.
    assert round(check(outcome, "alike_pairs").value, 4) == 0.0698


def test_tables_without_a_row_are_audited_too(folders: Any, tmp_path: Path) -> None:
    outcome, figures, page = audited(folders(), tmp_path)
    assert all(check.passed for check in outcome.checks)
    assert figures["pairs"]["longer_wins"] is None
    assert "There are no pairs." in page
    assert "Not measured: no tokenizer is to be had" in page


FUNNEL = {
    "sources": {
        "hh_rlhf": {
            "read": 2000,
            "valid": 1900,
            "kept": 1234,
            "dropped": {"empty_reply": 100, "near_duplicate": 666},
        }
    }
}


def test_the_page_shows_the_funnels_escapes_texts_and_needs_nothing_beside_it(
    folders: Any, tmp_path: Path
) -> None:
    loud = "<script>alert(1)</script> jo@mail.org"
    made = folders(actor_training_data=[row(f"{n}?", completion=loud) for n in range(2)])
    (made["preference_data"] / "funnel.json").write_text(json.dumps(FUNNEL))
    _, figures, page = audited(made, tmp_path)
    assert figures["funnels"]["preference_data"] == FUNNEL["sources"]
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(
        r"hh_rlhf\s+2,000\s+1,900\s+1,234\s+near duplicate 666\s*,\s*empty reply 100", text
    )
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &lt;email&gt;" in page
    assert not re.search(r"<script|<link|src=|href=|url\(|https?://", page)
    assert page.count("<svg") == page.count("</svg>") >= 2
    assert "prefers-color-scheme: dark" in page


def test_tokens_are_counted_where_the_actor_s_tokenizer_is_at_hand(
    folders: Any, tmp_path: Path, tiny_base_folder: Path
) -> None:
    tokenizer = tmp_path / "small_model"
    tokenizer.mkdir()
    shutil.copy(tiny_base_folder / "tokenizer.json", tokenizer)
    settings = AssistantSettings.model_validate(
        {"actor_config": {"model": str(tokenizer), "max_sequence_length": 20}}
    )
    rows = [row(f"alpha {n}", completion="bravo " * n) for n in range(1, 31)]
    made = folders(preference_data=[pair("alpha", "bravo", "echo")], actor_training_data=rows)
    _, figures, page = audited(made, tmp_path, settings)
    tokens = figures["tables"][1]["tokens"]
    assert (tokens["sampled"], tokens["limit"]) == (30, 20)
    # A prompt has 2 or more tokens; a reply at least one a word, so those of 20 words are too long.
    assert 11 <= tokens["too_long"] < 30
    assert figures["tokenizer"] == "small_model"
    assert str(tmp_path) not in json.dumps(figures) + page
    assert "By the tokenizer of small_model" in page

    known = tokenizer_fingerprint(settings)
    assert known is not None
    (tokenizer / "tokenizer.json").write_text("{}")
    assert tokenizer_fingerprint(settings) not in (None, known)
    (tokenizer / "tokenizer.json").unlink()
    assert tokenizer_fingerprint(settings) is None
    for other in ("scratch", "nobody/knows-this-model"):
        named = AssistantSettings.model_validate({"actor_config": {"model": other}})
        assert tokenizer_fingerprint(named) is None


def test_tokens_are_counted_by_a_gguf_files_own_tokenizer(
    folders: Any, tmp_path: Path, tiny_gguf: Path, tiny_base_folder: Path
) -> None:
    made = folders(preference_data=[pair("alpha", "bravo", "echo")])
    tokens = []
    for model in (tiny_base_folder, tiny_gguf):
        settings = AssistantSettings.model_validate({"actor_config": {"model": str(model)}})
        _, figures, _ = audited(made, tmp_path, settings)
        assert figures["tokenizer"] == model.name
        tokens.append(figures["tables"][0]["tokens"])
    assert tokens[0] == tokens[1] is not None
    known = tokenizer_fingerprint(settings)
    assert known is not None and known.startswith("tiny.gguf ")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:900])
    settings = AssistantSettings.model_validate({"actor_config": {"model": str(broken)}})
    _, figures, _ = audited(made, tmp_path, settings)
    assert figures["tokenizer"] is None


def test_the_audit_is_the_same_whatever_the_process_hashes_by(folders: Any) -> None:
    """Hashes of texts differ from process to process; no figure may."""
    made = folders(
        preference_data=[pair(f"{n % 7}?", f"La {n % 3}", "No") for n in range(20)],
        actor_training_data=[row(f"{n}?", completion=f"Reply {n % 4}") for n in range(20)],
    )
    program = (
        "import sys; from pathlib import Path\n"
        "from chatllama_pipeline.data.audit.figures import AUDITED, measure\n"
        "from chatllama_pipeline.settings import AssistantSettings\n"
        "root = Path(sys.argv[1])\n"
        "print(measure({name: root / name for name in AUDITED}, AssistantSettings()))"
    )
    root = made["preference_data"].parent
    told = [
        subprocess.run(
            [sys.executable, "-c", program, str(root)],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    here = measure(made, AssistantSettings())
    assert here.tables[1].replies == [("Reply 0", 5), ("Reply 1", 5), ("Reply 2", 5)]
    assert here.tables[0].prompts == 7


def test_the_audit_is_the_same_where_memory_holds_few_numbers(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = ["train", "train", "test", "validation"]
    rows = [f"{n % 37}, {'what is this' if n % 2 else 'what is that'}?" for n in range(90)]
    made = folders(
        preference_data=[pair(t, t * (1 + n % 2), "No", splits[n % 4]) for n, t in enumerate(rows)],
        actor_training_data=[
            row(f"{t}!", splits[n % 3], completion=f"Me {n % 6}, a{n % 9}@b.org")
            for n, t in enumerate(rows)
        ],
    )
    roomy = measure(made, AssistantSettings(), tmp_path)
    monkeypatch.setattr("chatllama_pipeline.data.spill.column.MOST_BYTES", 0)
    monkeypatch.setattr("chatllama_pipeline.data.spill.column.VALUES_AT_ONCE", 7)
    assert measure(made, AssistantSettings(), tmp_path) == roomy
    assert roomy.overlaps[0].exact and roomy.tables[0].repeated_rows and roomy.matches
    assert len(roomy.tables[1].replies) == 3


def test_percentiles_of_counted_lengths_are_those_of_all() -> None:
    draw = np.random.default_rng(0)
    for count in (1, 2, 3, 20, 99, 1_000):
        values = draw.geometric(1 / 40, count)
        median, most_of = np.percentile(values, [50, 95])
        found = lengths_of(values)
        assert (found.rows, found.longest) == (count, values.max())
        assert (found.median, found.most_of) == (round(median), round(most_of))
        counted = LengthCounts()
        for start in range(0, count, 7):
            counted.add(values[start : start + 7])
        assert lengths_of(*counted.counted()) == found


def test_files_that_nobody_reads_are_named_on_the_page(
    tmp_path: Path, folders: Callable[..., dict[str, Path]]
) -> None:
    told = "datasets/actor_dataset.json is not read: rename it"
    output = tmp_path / "audit"
    output.mkdir()
    outcome = build_data_audit("poet", folders(), AssistantSettings(), output, [told])
    found = check(outcome, "unread_files")
    assert (found.passed, found.blocking, found.value) == (False, False, 1)
    assert told in found.description
    assert told in (output / AUDIT_PAGE).read_text()
    assert check(audited(folders(), tmp_path)[0], "unread_files").passed


def test_rows_that_spell_control_tokens_are_counted_per_table(
    folders: Any, tmp_path: Path, tiny_base_folder: Path
) -> None:
    settings = AssistantSettings.model_validate({"actor_config": {"model": str(tiny_base_folder)}})
    made = folders(
        preference_data=[
            pair("alpha", "bravo", "x<|end|>"),
            pair("<|user|>", "<|end|>", "echo"),
            pair("alpha <b>", "bravo |end|", "a <| b"),
        ],
        actor_training_data=[row("alpha", completion="bravo")],
        rlhf_training_data=[row("golf<|assistant|>Sure."), row("golf")],
    )
    _, figures, page = audited(made, tmp_path, settings)
    assert [table["marked_rows"] for table in figures["tables"]] == [2, 0, 1, 0]
    assert "Rows with control marks" in page and "models read them as text" in page
    _, figures, page = audited(made, tmp_path)
    assert {table["marked_rows"] for table in figures["tables"]} == {None}
    assert "Rows with control marks" not in page
