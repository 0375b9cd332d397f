"""The release gate: what is released, what is held back, and why. Pure; knows no torch."""

from __future__ import annotations

from collections.abc import Sequence

from chatllama_pipeline.evaluation.figures import Agreement, Figures, OverRelease, Verdict
from chatllama_pipeline.records import Check
from chatllama_pipeline.settings import CheckSettings, ReleaseSettings
from chatllama_pipeline.statistics import wilson_interval

# A bootstrap over a handful of prompts is far too sure of itself: one prompt won gives [1, 1].
FEWEST_PROMPTS = 20
# What a candidate meets the release in use on.
TESTED, RATED = "test prompts", "held-out prompts that people rated"
# Of fewer pairs a good reward model's interval may well hold one half.
FEWEST_PAIRS = 100


def decide(
    figures: Figures,
    release: ReleaseSettings,
    *,
    assistant: str,
    judge: str | None,
    judge_in_reward: bool = False,
    reward_model_pays: bool = True,
    unpromoted_overrides: Sequence[str],
) -> Verdict:
    """Whether `release.stage` may be released.

    `judge` names who compared the replies, None where nobody did. It must be no term of PPO's
    reward (`judge_in_reward`): a policy learns to please what it is paid by, so the reward says
    nothing here. A judge whose scores taught the reward model may judge, and the report says so.
    A reward model that PPO wasn't paid by (`reward_model_pays`) need not be better than a coin.
    """
    approve = f"a person approves it: python -m chatllama_pipeline approve {assistant}"
    held: list[str] = []
    if release.stage == "actor_sft":
        held.append(f"release.stage is actor_sft, and an SFT model is released only when {approve}")
    else:
        if judge is None:
            held.append(
                "no judge that is no part of PPO's reward compared the replies "
                f"(evaluation.judge), so the model is released only when {approve}"
            )
        elif judge_in_reward:
            held.append(
                f"the judge {judge} is the reward model or judge that PPO was paid by; set "
                f"evaluation.judge to another, or {approve}"
            )
        else:
            held += _unconvincing(figures, release)
        held += _guessing(figures) if reward_model_pays else []
        held += _drifted(figures, release)
    held += _loses_to_release(figures.over_release, release)
    held += _loses_on_feedback(figures.on_feedback)
    held += _contradicts_people(figures.with_people, judge, approve)
    if unpromoted_overrides:
        keys = ", ".join(unpromoted_overrides)
        held.append(
            f"the run overrides {keys} and is released only with promote: true in run_options"
        )
    if held:
        return Verdict(False, "; ".join(held))
    return Verdict(True, _praise(figures, release))


def checks(
    figures: Figures,
    verdict: Verdict,
    release: ReleaseSettings,
    limits: CheckSettings,
    has_reward_model: bool = True,
) -> list[Check]:
    """The checks that the figures give; a figure that was not measured counts as 0 and fails.

    Of a reward model that the way to the actor didn't need (`has_reward_model`) nothing is asked.
    """
    kl, ratio = figures.kl, figures.length_ratio
    return [
        Check(
            "release_gate",
            verdict.released,
            False,
            figures.win_rate_low or 0.0,
            release.min_win_rate,
            verdict.reason,
        ),
        _reward_accuracy(figures, limits, has_reward_model),
        Check(
            "kl_per_reply",
            kl is not None and kl <= limits.max_kl,
            False,
            kl or 0.0,
            limits.max_kl,
            "nats per reply between PPO and SFT, at most the limit"
            if kl is not None
            else "not measured: no test prompts, or a figure that is not finite",
        ),
        Check(
            "reply_length",
            ratio is not None and 1 / limits.max_length_ratio <= ratio <= limits.max_length_ratio,
            False,
            ratio or 0.0,
            limits.max_length_ratio,
            "length of PPO's replies over SFT's, between 1 / limit and the limit"
            if ratio is not None
            else "not measured: no test prompts",
        ),
        _known_answers(figures, release, limits),
        _over_release(figures.over_release, release),
    ]


def _reward_accuracy(figures: Figures, limits: CheckSettings, has_reward_model: bool) -> Check:
    accuracy, pairs = figures.reward_model_accuracy, figures.reward_model_pairs
    least, name = limits.min_reward_accuracy, "reward_accuracy"
    if not has_reward_model:
        told = "not asked: the way to this actor (improve_by) needs no reward model"
        return Check(name, True, False, 0.0, least, told)
    told = "not measured: preference_data holds no test pairs"
    if pairs:
        told = f"share of {pairs} test pairs whose chosen reply scores higher; at least the limit"
    passed = accuracy is not None and accuracy >= least
    return Check(name, passed, False, accuracy or 0.0, least, told)


def _over_release(over: OverRelease | None, release: ReleaseSettings) -> Check:
    least = release.min_win_rate_over_release
    if over is None:
        told = "not compared: no release, or nobody judged, or min_win_rate_over_release is 0"
        return Check("over_release", True, False, 0.0, least, told)
    held = _loses_to_release(over, release)
    told = held[0] if held else _beside_release(over)
    return Check("over_release", not held, False, over.win_rate_low or 0.0, least, told)


def _known_answers(figures: Figures, release: ReleaseSettings, limits: CheckSettings) -> Check:
    known, most = figures.known_answers, limits.max_known_answers_lost
    if known is None:
        told = "not asked: evaluation.known_answers names no file"
        return Check("known_answers", True, False, 0.0, most, told)
    lost = known.lost(release.stage)
    told = (
        f"{known}; share of what the base answers that {release.stage} doesn't, at most the limit"
    )
    return Check("known_answers", lost <= most, False, lost, most, told)


def _unconvincing(figures: Figures, release: ReleaseSettings) -> list[str]:
    """Why the judge's comparison doesn't carry a release."""
    if figures.judged < FEWEST_PROMPTS:
        unread = figures.prompts - figures.judged
        left_out = f" (the judge's word on {unread} more was unreadable)" if unread else ""
        return [
            f"{figures.judged} test prompts are too few to judge by{left_out}, "
            f"at least {FEWEST_PROMPTS} are needed"
        ]
    low = figures.win_rate_low
    if figures.win_rate is None or low is None:
        return ["the win rate was not measured"]
    if not low > release.min_win_rate:
        return [
            f"win rate {figures.win_rate:.3f}, its lower bound {low:.3f} is not above "
            f"{release.min_win_rate:g} (release.min_win_rate)"
        ]
    return []


def _loses_on_feedback(rated: OverRelease | None) -> list[str]:
    """Whether the candidate is worse for certain on prompts that people rated.

    They are among those of `_loses_to_release` already: so few of them say nothing else alone.
    """
    if rated is None or rated.judged < FEWEST_PROMPTS or rated.win_rate_high is None:
        return []
    lost = rated.win_rate_high < 0.5
    return [f"it loses to the release in use: {_beside_release(rated, RATED)}"] if lost else []


def _contradicts_people(people: Agreement | None, judge: str | None, approve: str) -> list[str]:
    """Whether the judge takes people's word for the opposite of its own, for certain.

    Then one of them is wrong, and a judge that is can't tell what learning from people made, nor
    does learning from people who are make anything worth a release.
    """
    if people is None or people.votes < FEWEST_PROMPTS or people.high is None:
        return []
    if people.high >= 0.5:
        return []
    return [
        f"the judge {judge} and people contradict each other: it says the same as "
        f"{people.share:.3f} of {people.votes} votes for one reply over another (95 % interval "
        f"{people.low:.3f} to {people.high:.3f}); see who rated what (chatllama feedback list) and "
        f"delete what isn't meant so, or {approve}"
    ]


def _loses_to_release(over: OverRelease | None, release: ReleaseSettings) -> list[str]:
    """Whether the candidate is worse than the release in use, or may be much worse.

    Worse is a win rate below one half, however little, so that small losses don't add up over many
    retrainings: in the mean over many, what passes is better than what was there. The lower bound
    asks for as many prompts as it takes to tell.
    """
    if over is None:
        return []
    low, least = over.win_rate_low, release.min_win_rate_over_release
    if over.judged < FEWEST_PROMPTS or over.win_rate is None or low is None:
        return [
            f"{over.judged} test prompts are too few to compare with the release in use "
            f"({over.version}), at least {FEWEST_PROMPTS} are needed"
        ]
    if over.win_rate < 0.5:
        return [f"it loses to the release in use: {_beside_release(over)}"]
    if not low > least:
        return [
            "it may be much worse than the release in use: "
            f"{_beside_release(over)}, and the lower bound is not above {least:g} "
            "(release.min_win_rate_over_release)"
        ]
    return []


def _beside_release(over: OverRelease, asked: str = TESTED) -> str:
    return (
        f"win rate {over.win_rate:.3f} over release {over.version} (95 % interval "
        f"{over.win_rate_low:.3f} to {over.win_rate_high:.3f}) on {over.judged} {asked}"
    )


def _guessing(figures: Figures) -> list[str]:
    """Whether the reward model that PPO followed tells test pairs no better than a coin.

    Then a win is luck: PPO went where noise led it.
    """
    accuracy, pairs = figures.reward_model_accuracy, figures.reward_model_pairs
    if accuracy is None or pairs < FEWEST_PAIRS:
        return []
    low, high = wilson_interval(accuracy, pairs)
    if low > 0.5:
        return []
    return [
        f"the reward model is right on {accuracy:.3f} of {pairs} test pairs (95 % interval "
        f"{low:.3f} to {high:.3f}), which a coin may be too"
    ]


def _drifted(figures: Figures, release: ReleaseSettings) -> list[str]:
    """What shows that PPO went too far from SFT."""
    found: list[str] = []
    kl, ratio = figures.kl, figures.length_ratio
    if kl is None:
        found.append("the KL per reply was not measured")
    elif not kl <= release.max_kl:
        found.append(f"KL {kl:.2f} nats per reply is above {release.max_kl:g} (release.max_kl)")
    if ratio is None:
        found.append("the replies' length was not measured")
    elif not 1 / release.max_length_ratio <= ratio <= release.max_length_ratio:
        found.append(
            f"replies are {ratio:.2f} times as long as SFT's, outside of "
            f"{1 / release.max_length_ratio:.2f} to {release.max_length_ratio:g} "
            "(release.max_length_ratio)"
        )
    return found


def _praise(figures: Figures, release: ReleaseSettings) -> str:
    told = (
        f"win rate {figures.win_rate:.3f} (95 % interval {figures.win_rate_low:.3f} to "
        f"{figures.win_rate_high:.3f}) on {figures.judged} test prompts is above "
        f"{release.min_win_rate:g}; KL {figures.kl:.2f} nats per reply is within "
        f"{release.max_kl:g}; replies are {figures.length_ratio:.2f} times as long as SFT's"
    )
    if over := figures.over_release:
        told += f"; {_beside_release(over)}"
    if (rated := figures.on_feedback) and rated.win_rate is not None:
        told += f"; {_beside_release(rated, RATED)}"
    return told
