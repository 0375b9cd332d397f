"""URLs and variables that lead to no bucket are refused before one is asked."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.store.remote.objects import Objects
from chatllama_pipeline.store.versions import store_root

KEY = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
OF_A_CLOUD = ("AWS_", "GOOGLE_", "AZURE_")
NAMED = r"set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY to whom"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that says nothing of clouds."""
    for name in list(os.environ):
        if name.startswith(OF_A_CLOUD):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHATLLAMA_STORE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://", "it names no bucket; write s3://BUCKET/FOLDER"),
        ("s3:///folder", "it names no bucket"),
        ("s3:/bucket/folder", "it names no bucket"),
        ("s3:bucket", "it names no bucket"),
        ("gs://", "it names no bucket; write gs://BUCKET/FOLDER"),
        ("s3://buck et/folder", "'buck et' is no bucket's name"),
        ("s3://bucket:9000/folder", "'bucket:9000' is no bucket's name"),
        ("s3://bucket//folder", "a folder in a bucket can't be called ''"),
        ("s3://bucket/a/../b", "a folder in a bucket can't be called '..'"),
        ("s3://bucket/folder?region=eu", "what follows the ? would not be heard; options stand"),
        ("s3://bucket/folder#new", "what follows the # would not be heard"),
        ("s3a://bucket/folder", "stands in a bucket (s3, gs, az; s3://, perhaps)"),
        ("S3://bucket/folder", "s3://, perhaps"),
        ("gcs://bucket/folder", "gs://, perhaps"),
        ("abfs://container/folder", "az://, perhaps"),
        ("https://bucket.s3.amazonaws.com/folder", "stands in a bucket (s3, gs, az); or name a"),
        ("file:///srv/store", "or name a local folder"),
        (" s3://bucket/folder", "stands in a bucket"),
    ],
)
def test_what_is_no_buckets_url_is_refused_with_what_is(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHATLLAMA_STORE", url)
    with pytest.raises(StoreError, match=re.escape(told)):
        store_root()
    for command in (["check", url], ["copy", url, "elsewhere"]):
        done = CliRunner().invoke(cli, ["store", *command])
        assert (done.exit_code, told in done.output + str(done.exception)) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_a_url_is_refused_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", "s3://me:my-secret@bucket/folder")
    with pytest.raises(StoreError, match="leave it out, and set AWS_ACCESS_KEY_ID") as refused:
        store_root()
    assert "my-secret" not in str(refused.value)
    assert "s3://...@bucket/folder" in str(refused.value)


@pytest.mark.parametrize(
    ("url", "variables", "told"),
    [
        ("s3://b/f", KEY | {"AWS_ENDPOINT_URL": "localhost:9000"}, "write it with its scheme"),
        ("s3://b/f", KEY | {"AWS_ENDPOINT_URL": ""}, "AWS_ENDPOINT_URL is '': write it with"),
        ("s3://b/f", KEY | {"AWS_ENDPOINT_URL": "http://a:9"}, "or set AWS_ALLOW_HTTP=true"),
        ("s3://b/f", KEY | {"AWS_REGION": ""}, "AWS_REGION is empty: name the bucket's region"),
        (
            "s3://b/f",
            {"AWS_ACCESS_KEY_ID": "key"},
            "Missing SecretAccessKey; set AWS_ACCESS_KEY_ID",
        ),
        ("az://c/f", {}, f"Account must be specified; {NAMED}"),
        ("az://c/f", {"AZURE_STORAGE_ENDPOINT": "http://a:9"}, "or set AZURE_ALLOW_HTTP=true"),
        (
            "az://c/f",
            {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "no key!"},
            f"Invalid Access Key.*; {NAMED}",
        ),
        (
            "gs://b/f",
            {"GOOGLE_SERVICE_ACCOUNT": "/no/key"},
            "/no/key.*; set GOOGLE_SERVICE_ACCOUNT",
        ),
        ("gs://b/f", {"GOOGLE_SERVICE_ACCOUNT": ""}, "; set GOOGLE_SERVICE_ACCOUNT, the path"),
        ("gs://b/f", {"GOOGLE_SERVICE_ACCOUNT": "/dev/null"}, "set GOOGLE_SERVICE_ACCOUNT"),
    ],
)
def test_variables_that_open_no_bucket_are_named_with_the_cure(
    url: str, variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=told) as refused:
        Objects(url)
    assert "run the same again" not in str(refused.value)


SKEWED = (
    403,
    "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and "
    "the current time is too large.</Message></Error>",
)
MALFORMED = (
    400,
    "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; "
    "expecting 'eu-west-1'</Message><Region>eu-west-1</Region></Error>",
)


class Answers(BaseHTTPRequestHandler):
    """Says the same to all: `said` is a status and a body."""

    said = (301, "")

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, body = self.said
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_PUT = do_GET

    def log_message(self, *arguments: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((301, ""), "set AWS_REGION to the region of the bucket"),
        (MALFORMED, "set AWS_REGION to the region of the bucket"),
        (SKEWED, "this machine's clock is minutes apart from the bucket's: set it by NTP"),
    ],
    ids=["moved", "malformed", "skewed"],
)
def test_an_answer_of_s3s_that_has_a_cure_of_its_own_names_it(
    elsewhere: str, monkeypatch: pytest.MonkeyPatch, said: tuple[int, str], told: str
) -> None:
    monkeypatch.setattr(Answers, "said", said)
    for name, value in {**KEY, "AWS_ENDPOINT_URL": elsewhere, "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    bucket = Objects("s3://bucket/folder")
    for ask in (lambda: bucket.get("a"), lambda: bucket.create("a", b"1")):
        with pytest.raises(StoreError, match=told):
            ask()


def test_the_home_folder_may_be_told_by_its_sign(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHATLLAMA_STORE", "~/store")
    assert store_root() == tmp_path / "store"
