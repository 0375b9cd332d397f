"""`chatllama store check URL`: what holds of a bucket, and what follows where it doesn't."""

from __future__ import annotations

import re

import pytest
import time_machine
from click.testing import CliRunner, Result

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.store.remote.objects import Objects
from tests.store.buckets.s3 import S3


def checked(url: str) -> Result:
    return CliRunner().invoke(cli, ["store", "check", url])


def test_a_bucket_with_conditions_holds_to_all_and_nothing_stays(url: str) -> None:
    done = checked(url)
    assert done.exit_code == 0, done.output
    assert "warning" not in done.output
    assert done.output.count("of 4 writers at once one wins, 5 times") == 2
    assert done.output.endswith(f"a store can stand in {url}\n")
    assert list(Objects(url).list("")) == []


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({"refuse": ["PUT"]}, "fault    reading and writing: .* no right to write"),
        ({"refuse": ["POST"]}, "fault    reading and writing: .* no right to remove objects"),
        ({"unconditional": True}, "fault    puts where nothing stands: of two machines"),
        ({"stale": True}, "warning  lists: lag behind what was written"),
    ],
)
def test_what_a_bucket_lacks_is_told_with_what_follows(
    url: str, s3: S3, faults: dict[str, object], told: str
) -> None:
    s3.fail(**faults)
    done = checked(url)
    assert done.exit_code == ("fault" in told)
    assert re.search(f"^{told}", done.output, re.MULTILINE), done.output


def test_a_bucket_that_cuts_lines_is_sound_all_the_same(url: str, s3: S3) -> None:
    s3.fail(drop=5)
    done = checked(url)
    assert done.exit_code == 0, done.output


def test_a_bucket_that_is_not_there_is_told(s3: S3) -> None:
    done = checked("s3://nowhere/at/all")
    assert done.exit_code == 1 and "there is no such bucket; make it first" in done.output


def test_a_bucket_of_another_time_is_told(url: str) -> None:
    # What is signed an hour off is refused by S3 itself; moto lets it pass.
    with time_machine.travel(1.0e9, tick=True):
        done = checked(url)
    assert done.exit_code == 0
    assert "warning  clock: that of the bucket is" in done.output
