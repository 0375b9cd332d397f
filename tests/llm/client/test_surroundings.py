"""Keys, URLs, proxies and certificates: what is wrong with them is told, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.requests import LlmClient
from tests.llm.loopback.asking import ask, asks
from tests.llm.loopback.replies import told
from tests.llm.loopback.server import OpenAiServer

MakeClient = Callable[..., LlmClient]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "SSL_CERT_FILE|ALL_PROXY"),
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "SSL_CERT_FILE|does not answer"),
    ],
)
def test_an_environment_that_no_client_can_be_made_in_is_told(
    make_client: MakeClient,
    openai_server: OpenAiServer,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(ProviderError, match=said):
        make_client().answer(asks(2))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("sk-abc\u201d", "quotation marks"),
        ('"sk-abc"', "quotation marks"),
        ("sk-abc\ndefsecret", "a line break or a space within"),
        ("sk abc", "a line break or a space within"),
        ("sk-\u00e4bc", "characters that are not printable ASCII"),
    ],
)
def test_what_is_no_key_is_refused_when_it_is_read_and_not_echoed(
    make_client: MakeClient,
    openai_server: OpenAiServer,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    said: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ProviderError, match=f"OPENAI_API_KEY holds {said}") as refused:
        make_client()
    assert "abc" not in str(refused.value) and "secret" not in str(refused.value)
    assert openai_server.seen == []


def test_a_redirect_that_loses_the_question_is_told(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    moved = f"text/html\r\nLocation: {openai_server.url}/chat/completions?moved"
    openai_server.behaviour.product = lambda body: told(302, "", moved)
    with pytest.raises(
        ProviderError, match=r"path of chat calls: .*after a redirect to .*moved.*Not Allowed"
    ):
        make_client().answer([ask("a")])
