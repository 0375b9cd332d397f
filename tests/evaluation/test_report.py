from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chatllama_pipeline.evaluation.figures import (
    ActorFigures,
    Comparison,
    Evaluation,
    Figures,
    Verdict,
    read_comparisons,
    write_comparisons,
)
from chatllama_pipeline.evaluation.report import MINUS, NOT_MEASURED, render, select
from chatllama_pipeline.records import Curve, user_prompt
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.known_questions import KnownAnswers
from chatllama_pipeline.training.reward.equations import CalibrationBin
from chatllama_pipeline.training.reward.report import RewardReport, SourceReport
from chatllama_pipeline.training.terms.cheats import CheatsReport, Tried
from chatllama_pipeline.training.watching.report import Sample, WatchReport

NOTHING = ActorFigures(None, None, None, None, None, None)


class Page(HTMLParser):
    """The page's tags and its text in one line."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(
    figures: Figures,
    verdict: Verdict,
    rows: list[Comparison],
    settings: AssistantSettings | None = None,
    judge: str | None = "rules",
) -> str:
    curves = {"actor_sft": [Curve("loss", [(1, 6.5), (2, 3.5)])], "actor_ppo": [Curve("kl", [])]}
    return render(
        "mia", settings or AssistantSettings(), judge, Evaluation(figures, verdict), curves, rows
    )


def test_the_verdict_stands_on_top_with_its_reasons(make_figures: Callable[..., Figures]) -> None:
    held = Page(page(make_figures(), Verdict(False, "KL 12.00 is too much; win rate 0.4"), []))
    assert held.text.index("HELD BACK KL 12.00 is too much Win rate 0.4") < held.text.index(
        "Before"
    )
    assert "RELEASED" in Page(page(make_figures(), Verdict(True, "fine"), [])).text


def test_before_and_after_stand_beside_their_change(make_figures: Callable[..., Figures]) -> None:
    text = Page(page(make_figures(), Verdict(True, "fine"), [])).text
    assert "Rubric score, 0 to 1 0.500 0.850 +0.350" in text
    assert "Names the item asked about 40.0 % 65.0 % +25.0 points" in text
    assert "Distinct bigrams 0.300 0.200 \N{MINUS SIGN}0.100" in text
    assert "90.0 % 95 % interval over prompts 86.0 to 94.0 %" in text
    assert "Reward model right, of 431 unseen pairs 88.0 %" in text


def test_a_reply_is_shown_as_text_whatever_it_holds(
    make_figures: Callable[..., Figures], make_comparison: Callable[..., Comparison]
) -> None:
    row = make_comparison("<img src=x>", text="<script>alert('hi')</script> & more")
    found = Page(page(make_figures(), Verdict(True, "fine"), [row]))
    assert "<script>alert('hi')</script> & more" in found.text
    assert "<img src=x>" in found.text
    assert {"script", "img", "link", "iframe"} & set(found.tags) == set()


def test_the_page_asks_for_nothing_from_outside(
    make_figures: Callable[..., Figures], make_comparison: Callable[..., Comparison]
) -> None:
    html = page(make_figures(), Verdict(True, "fine"), [make_comparison()])
    assert re.findall(r"(?:https?:|//|url\(|@import|src=|href=)", html) == []


def test_what_was_not_measured_is_shown_as_such(
    make_figures: Callable[..., Figures], make_comparison: Callable[..., Comparison]
) -> None:
    figures = make_figures(
        actor_sft=NOTHING, actor_ppo=NOTHING, win_rate=None, kl=None, sft_validation_loss=None
    )
    row = make_comparison(before=None, after=None)
    text = Page(page(figures, Verdict(False, "no judge"), [row], judge=None)).text
    assert "Rubric score, 0 to 1 \N{EN DASH} \N{EN DASH} \N{EN DASH}" in text
    assert "Not measured: no judge compared the replies." in text
    assert "of 5" not in text


def test_a_judge_that_taught_the_reward_model_is_named_as_such(
    make_figures: Callable[..., Figures],
) -> None:
    taught = AssistantSettings.model_validate({"llm": {"provider": "rules"}})
    apart = taught.model_copy(
        update={"reward_config": taught.reward_config.model_copy(update={"objective": "pairwise"})}
    )
    told = "The judge also scored the replies that taught the reward model"
    assert told in Page(page(make_figures(), Verdict(True, "fine"), [], taught)).text
    assert told not in Page(page(make_figures(), Verdict(True, "fine"), [], apart)).text


def test_a_model_that_only_compares_taught_nothing(make_figures: Callable[..., Figures]) -> None:
    scored = {"provider": "openai", "model": "small", "price": "free"}
    told = "The judge also scored the replies that taught the reward model"

    def text(judge: dict[str, str]) -> str:
        settings = AssistantSettings.model_validate({"llm": scored, "evaluation": {"judge": judge}})
        return Page(page(make_figures(), Verdict(True, "fine"), [], settings)).text

    assert told in text({})
    assert told not in text({"model": "large", "price": "free"})


def test_flips_and_unread_prompts_of_the_judge_are_told(
    make_figures: Callable[..., Figures],
) -> None:
    figures = make_figures(judge_flip_rate=0.125, judged=190)
    text = " ".join(Page(page(figures, Verdict(True, "fine"), [])).text.split())
    assert "said otherwise when they changed places in 12.5 % of the prompts" in text
    assert "Its word on 10 prompts was unreadable and counts for neither side." in text


def test_the_shown_replies_are_the_best_the_middle_and_the_worst(
    make_comparison: Callable[..., Comparison],
) -> None:
    rows = [make_comparison(str(i), before=0.0, after=float(i)) for i in (3, 0, 4, 1, 2)]
    found = select(rows, 3)
    assert [(s.title, [row.prompt[0].content for row in s.rows]) for s in found] == [
        ("Replies: largest gains", ["4"]),
        ("Replies: typical", ["2"]),
        ("Replies: largest losses", ["0"]),
    ]


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 11, 12, 40])
def test_no_reply_is_shown_twice_and_as_many_as_asked_for(
    make_comparison: Callable[..., Comparison], rows: int
) -> None:
    shown = [
        row.prompt[0].content
        for section in select([make_comparison(str(i)) for i in range(rows)], 12)
        for row in section.rows
    ]
    assert len(shown) == len(set(shown)) == min(rows, 12)


def test_without_a_judge_the_reward_tells_what_is_best(
    make_comparison: Callable[..., Comparison],
) -> None:
    assert make_comparison(before=None, after=None).gain == 1.25
    assert make_comparison(before=1.0, after=4.0).gain == 3.0


def test_an_evaluation_holds_the_promised_keys_and_reads_back(
    make_figures: Callable[..., Figures], tmp_path: Path
) -> None:
    written = Evaluation(
        make_figures(kl=None, known_answers=KnownAnswers(6, 4, 5, 3, 3, 2)), Verdict(False, "why")
    )
    written.write(tmp_path)
    content = json.loads((tmp_path / "evaluation.json").read_text())
    actor = "rubric_score reward reply_tokens share_finished names_item distinct_2"
    assert list(content["actor_sft"]) == list(content["actor_ppo"]) == actor.split()
    assert list(content) == [
        "actor_sft",
        "actor_ppo",
        "kl",
        "win_rate",
        "win_rate_low",
        "win_rate_high",
        "reward_model_accuracy",
        "reward_model_pairs",
        "sft_validation_loss",
        "prompts",
        "judged",
        "judge_flip_rate",
        "known_answers",
        "over_release",
        "released",
        "reason",
    ]
    assert content["kl"] is None
    assert content["known_answers"]["base"] == 4
    assert Evaluation.read(tmp_path) == written


def test_replies_read_back_as_they_were(
    make_comparison: Callable[..., Comparison], tmp_path: Path
) -> None:
    rows = [make_comparison("Zeile\u2028zwei", text="ä\n\ufffd"), make_comparison(before=None)]
    write_comparisons(tmp_path, rows)
    assert read_comparisons(tmp_path) == rows


def test_what_cheats_are_paid_stands_beside_what_a_good_reply_is(
    make_figures: Callable[..., Figures],
) -> None:
    good = Tried("a good reply", -0.5, {"brief": -12.0}, None, "So.")
    empty = Tried("empty", 1.25, {"brief": None}, 0.875, "<b>nothing</b>")
    evaluation = Evaluation(make_figures(), Verdict(True, "fine"))
    cheats = CheatsReport(32, good, [empty])
    found = Page(render("mia", AssistantSettings(), None, evaluation, {}, [], cheats=cheats))
    assert "behind 32 held-out prompts" in found.text
    assert (
        f"reply paid brief beats the good reply for example a good reply {MINUS}0.50" in found.text
    )
    assert (
        f"{MINUS}12.00 {NOT_MEASURED} So. empty 1.25 {NOT_MEASURED} 88 % <b>nothing</b>"
        in found.text
    )
    assert "deserve nothing" not in Page(page(make_figures(), Verdict(True, "fine"), [])).text


def test_the_same_prompts_are_followed_through_training_with_what_was_said_of_each_reply(
    make_figures: Callable[..., Figures],
) -> None:
    first = Sample(0, "<i>so</i>", True, -0.5, {"brief": -2.0}, 0.25, 0.0)
    last = Sample(9, " ", False, 1.5, {"brief": None}, None, 3.25)
    prompts = [(user_prompt(f"why {n}?"), [first, last]) for n in range(9)]
    watched = WatchReport("rubric", 0, "the judge has fallen", prompts)
    evaluation = Evaluation(make_figures(), Verdict(True, "fine"))
    html = render("mia", AssistantSettings(), None, evaluation, {}, [], watched=watched)
    text = Page(html).text
    assert "the same 9 validation prompts" in text
    assert "iteration 0, which it liked best; training ended early, for the judge has" in text
    row = f"0 <i>so</i> {MINUS}0.50 {MINUS}2.00 0.25 0.00"
    assert f"why 0? iteration reply paid brief judge KL {row}" in text
    assert f"9 (empty reply) (cut off) 1.50 {NOT_MEASURED} {NOT_MEASURED} 3.25" in text
    # Half as many prompts as replies stand side by side.
    assert text.count(row) == html.count("<details") == 6
    assert html.count('<tr class="published">') == 6
    assert "Through training" not in page(make_figures(), Verdict(True, "fine"), [])


def test_how_far_the_reward_model_can_be_trusted_is_shown_by_source(
    make_figures: Callable[..., Figures],
) -> None:
    def source(pairs: int, score_correlation: float | None) -> SourceReport:
        return SourceReport(
            pairs, 0.75, (0.30, 0.95), 0.625, (0.22, 0.90), -0.25, score_correlation
        )

    report = RewardReport(
        "validation",
        {"all": source(4, 0.5), "<shp>": source(4, None)},
        [CalibrationBin(1, 0.55, 0.0), CalibrationBin(3, 0.9, 1.0)],
        0.2125,
    )
    html = render(
        "mia",
        AssistantSettings(),
        "rules",
        Evaluation(make_figures(), Verdict(True, "it won")),
        {},
        [],
        report,
    )
    text = Page(html).text
    start = text.index("How far the reward model can be trusted")
    assert "all 4 0.750 (0.300 to 0.950) 0.625 (0.220 to 0.900) \u22120.25 0.50" in text[start:]
    assert "<shp> 4 0.750 (0.300 to 0.950)" in text[start:] and "<shp>" not in html
    assert "the mean gap is 0.212" in text[start:] or "the mean gap is 0.213" in text[start:]
    assert "sure 0.55 0.90 right 0.00 1.00 pairs 1 3" in text[start:]


def test_without_a_reward_report_nothing_is_said_of_trust(
    make_figures: Callable[..., Figures],
) -> None:
    html = page(make_figures(), Verdict(True, "it won"), [])
    assert "can be trusted" not in html


def test_each_term_of_a_reward_has_a_curve_of_its_own(make_figures: Callable[..., Figures]) -> None:
    points = [(1.0, -5.0), (2.0, -3.0)]
    curves = {"actor_ppo": [Curve("raw_reward/brief", points), Curve("reward/brief", points)]}
    evaluation = Evaluation(make_figures(), Verdict(True, "it won"))
    html = render("mia", AssistantSettings(), "rules", evaluation, curves, [])
    assert Page(html).text.count("Paid: brief mean of what it gave, by iteration") == 1
