"""`chatllama compare NAME V1 V2`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from chatllama_pipeline.cli.names import assistant_name

# So many pairs a person may read at a sitting.
USUAL_PROMPTS = 40

if TYPE_CHECKING:
    from chatllama_pipeline.settings.folder import Assistant
    from chatllama_pipeline.store.trials import Trial
    from chatllama_pipeline.store.versions import Store


@click.command()
@assistant_name
@click.argument("first")
@click.argument("second")
@click.option(
    "--prompts",
    type=click.IntRange(1),
    help=f"Test prompts of a trial that begins; {USUAL_PROMPTS} if not given.",
)
@click.option("--rater", default="", help="Who rates; you, by your login, if not given.")
@click.option("--results", is_flag=True, help="Tell what came out so far, and rate nothing.")
@click.option("--judge", is_flag=True, help="With --results: ask an LLM judge too, which may cost.")
def compare(
    name: str,
    first: str,
    second: str,
    prompts: int | None,
    rater: str,
    results: bool,
    judge: bool,
) -> None:
    """Compare the replies of two versions blindly: a test prompt, two replies, which is better?

    FIRST and SECOND are versions of the release or of an actor, or `release` (the one in use) and
    `candidate` (what was evaluated last). The same two are the same trial, whoever rates.
    """
    import getpass

    from chatllama_pipeline.evaluation.trials.terminal import rate_in_terminal
    from chatllama_pipeline.evaluation.trials.votes import rater_of
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.feedback import FeedbackLog
    from chatllama_pipeline.store.versions import Store, store_root

    assistant, store = load_assistant(name), Store(store_root())
    if results:
        _tell(assistant, store, (first, second), judge=judge)
        return
    trial = open_trial(assistant, store, (first, second), prompts)
    own = rater_of(trial, rater or getpass.getuser())
    left = rate_in_terminal(trial, FeedbackLog(store.root, name), own)
    again = f"chatllama compare {name} {first} {second}"
    told = f"{left} pairs are left to you: go on with the same command" if left else "all rated"
    click.echo(f"\n{told}; {again} --results tells what came out", err=True)


def open_trial(
    assistant: Assistant, store: Store, versions: tuple[str, str], prompts: int | None
) -> Trial:
    """The trial of two versions that stands, or one on so many prompts that begins."""
    from chatllama_pipeline.lineage.recipes import read_in_use
    from chatllama_pipeline.lineage.trials import named_ids, read_speaking
    from chatllama_pipeline.store.trials import find_trial, keep_trial, trials_of

    first, second = named_ids(assistant, store, versions)
    trial = find_trial(trials_of(store.root, assistant.name), first, second)
    if trial is not None and prompts in (None, len(trial.pairs)):
        return trial
    read = [read_speaking(assistant, store, number) for number in (first, second)]
    rows = read_in_use("rlhf_training_data", assistant, store)
    # torch and transformers take seconds to import: what is missing is told before.
    from chatllama_pipeline.evaluation.trials.writing import write_trial
    from chatllama_pipeline.progress import Progress

    progress = Progress("compare", lambda line: click.echo(line, err=True))
    trial = write_trial(
        read[0], read[1], assistant.settings, rows.path, prompts or USUAL_PROMPTS, progress
    )
    keep_trial(store.root, assistant.name, trial)
    return trial


def _tell(assistant: Assistant, store: Store, versions: tuple[str, str], *, judge: bool) -> None:
    from chatllama_pipeline.errors import AbsentError
    from chatllama_pipeline.evaluation.trials.judged import judge_lines
    from chatllama_pipeline.evaluation.trials.results import result_lines, results_of
    from chatllama_pipeline.evaluation.trials.votes import votes_in
    from chatllama_pipeline.lineage.recipes import version_in_use
    from chatllama_pipeline.lineage.trials import named_ids
    from chatllama_pipeline.progress import Progress
    from chatllama_pipeline.store.feedback import FeedbackLog
    from chatllama_pipeline.store.trials import find_trial, trials_of

    name, settings = assistant.name, assistant.settings
    trial = find_trial(trials_of(store.root, name), *named_ids(assistant, store, versions))
    rate = f"rate with: chatllama compare {name} {' '.join(versions)}"
    if trial is None:
        raise AbsentError(f"there is no trial of {' and '.join(versions)} yet; {rate}")
    votes = votes_in(trial, FeedbackLog(store.root, name))
    if not votes:
        raise AbsentError(f"nobody has voted in trial {trial.id} yet; {rate}")
    for line in result_lines(results_of(trial, votes, settings)):
        click.echo(line)
    for side in (trial.first, trial.second):
        if store.version(side.asset, name, side.version) is None:
            click.echo(f"{side} was removed since; its replies stand in the trial")
    if settings.role("evaluation_judge").asks_a_model and not judge:
        click.echo("the judge is a language model, which may cost: --judge asks it too")
        return
    personal = version_in_use("personal_data", assistant, store)
    progress = Progress("compare", lambda line: click.echo(line, err=True))
    for line in judge_lines(trial, votes, settings, personal.path if personal else None, progress):
        click.echo(line)
