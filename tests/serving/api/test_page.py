"""The page to talk and to rate: what browsers may do with it, and a person in a real one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.served import NAME, Served, lively, publish, serving
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

# So many tokens that nobody waits for the last.
ENDLESS = 8192
KEY = "s3cret-\u00e4"
EVIL = "<img src=x onerror=alert()>"


@pytest.fixture(scope="module")
def paged(
    released: tuple[Store, Version, Version], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Two releases side by side, and the page."""
    log = FeedbackLog(tmp_path_factory.mktemp("feedback"), NAME)
    wanted = [Wanted(version, 1.0) for version in released[1:]]
    with serving(wanted, feedback=log, page=True) as running:
        yield running


def test_the_page_may_run_its_own_script_and_ask_its_own_server_and_nothing_else(
    paged: Served,
) -> None:
    status, headers, text = paged.ask("/")
    assert status == 200 and headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    for tag in ("script", "style"):
        [inner] = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|eval\(", text)


def test_there_is_no_page_where_none_is_asked_for(served: Served) -> None:
    assert served.ask("/")[0] == 404


def test_with_a_key_the_page_opens_and_asks_nothing_without_it(
    released: tuple[Store, Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_API_KEY", "a-long-random-word")
    with serving([Wanted(released[1], 1.0)], page=True) as running:
        assert running.ask("/")[0] == 200
        assert running.ask("/v1/models")[0] == 401


class Person:
    """Somebody at the page."""

    def __init__(self, page: Page, served: Served) -> None:
        self.page, self.served = page, served
        page.goto(f"http://127.0.0.1:{served.port}/")
        wait_until(lambda: page.title() == NAME)

    def say(self, text: str) -> None:
        """By the keyboard alone: the box has the focus."""
        before = self.page.locator(".turn.assistant").count()
        self.page.locator("#said").focus()
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")
        wait_until(lambda: self.page.locator(".turn.assistant").count() > before)
        self.rests()

    def rests(self) -> None:
        """Wait until nothing is being written."""
        wait_until(self.page.locator("#stop").is_disabled)

    def ratings(self) -> list[dict[str, Any]]:
        return [json.loads(entry.content) for entry in self.served.feedback.entries()]

    def kept(self, count: int) -> list[dict[str, Any]]:
        """The ratings, once there are so many."""
        wait_until(lambda: len(self.ratings()) == count, lambda: str(self.ratings()))
        return self.ratings()


@pytest.fixture
def person(paged: Served, phone: Page) -> Iterator[Person]:
    yield Person(phone, paged)
    for entry in paged.feedback.entries():
        paged.feedback.delete(ids=[entry.id])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_person_talks_rates_edits_compares_and_takes_it_all_back(person: Person) -> None:
    page = person.page
    assert "A rating is kept" in page.locator("#banner").inner_text()
    person.say(EVIL)
    assert page.locator(".turn.user .text").inner_text() == EVIL
    page.get_by_role("button", name="Good").click()
    [thumb] = person.kept(1)
    assert (thumb["kind"], thumb["good"], thumb["prompt"][0]["content"]) == ("thumb", True, EVIL)
    reply = page.locator(".turn.assistant .text").first.text_content()
    assert thumb["reply"]["text"] == reply
    assert page.get_by_text(f"version {thumb['reply']['version']}").is_visible()
    page.get_by_label("Why? (optional)").fill("clear <b>")
    page.get_by_label("Why? (optional)").press("Enter")
    assert person.kept(2)[1]["reason"] == "clear <b>"
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("What the reply should have been").fill(EVIL)
    page.get_by_role("button", name="Keep this").click()
    assert person.kept(3)[2]["edited"] == EVIL
    wait_until(lambda: page.locator(".turn.assistant .text").first.text_content() == EVIL)
    assert page.locator("#talk img").count() == 0

    page.get_by_label("Two replies").check()
    page.locator("#version").select_option(index=1)
    page.locator("#other").select_option(index=2)
    person.say("alpha")
    page.get_by_role("button", name="Second is better").click()
    preference = person.kept(4)[3]
    assert (preference["kind"], preference["better"]) == ("preference", "right")
    assert preference["prompt"][1] == {"role": "assistant", "content": EVIL}
    assert {preference[side]["version"] for side in ("left", "right")} == {
        speaker.id for speaker in person.served.versions.speakers
    }
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("button", name="Delete this conversation").click()
    assert person.kept(0) == []
    wait_until(lambda: page.locator(".turn").count() == 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_that_two_replies_say_the_same_is_told_and_neither_is_the_better(person: Person) -> None:
    page = person.page
    page.get_by_label("Two replies").check()
    for of in ("#version", "#other"):
        page.locator(of).select_option(index=1)
    person.say("alpha")
    assert page.get_by_text("Both say the same:").is_visible()
    assert page.get_by_role("button", name="First is better").is_disabled()
    assert page.get_by_role("button", name="Second is better").is_disabled()
    page.get_by_role("button", name="Both alike").click()
    assert person.kept(1)[0]["better"] == "tie"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_by_the_keyboard_alone_every_control_is_reached_and_none_is_covered(person: Person) -> None:
    page = person.page
    person.say("alpha")
    page.get_by_role("button", name="Good").press("Enter")
    person.kept(1)
    page.keyboard.press("Shift+Tab")
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        name, free = page.evaluate(
            """() => { const one = document.activeElement, box = one.getBoundingClientRect();
            const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            return [one.textContent || one.getAttribute("aria-label"), one.contains(top)]; }"""
        )
        reached.append(name)
        assert free, f"{name} is covered by what stands in front of it"
    assert reached == ["Good", "Bad", "Edit", "Why? (optional)", "Say why"]
    page.keyboard.press("Enter")
    assert [rating["good"] for rating in person.kept(2)] == [True, True]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whoever_wants_nothing_kept_is_answered_and_can_rate_nothing(person: Person) -> None:
    page = person.page
    page.get_by_label("Keep nothing").check()
    assert "Nothing is kept" in page.locator("#banner").inner_text()
    person.say("alpha")
    assert not page.get_by_role("button", name="Good").is_visible()
    page.get_by_role("button", name="Regenerate").click()
    person.rests()
    assert page.locator(".turn.user").count() == 1 and person.ratings() == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == "rgb(21, 23, 26)"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_refusal_is_told_and_the_conversation_goes_on(person: Person) -> None:
    page = person.page
    page.locator("#said").fill("word " * 2000)
    page.locator("#said").press("Enter")
    wait_until(lambda: page.locator("#error").text_content() != "")
    assert "context" in page.locator("#error").inner_text()
    person.say("alpha")
    assert page.locator("#error").inner_text() == ""
    assert page.locator(".turn.user").count() == 1


@pytest.fixture(scope="module")
def endless(
    released: tuple[Store, Version, Version],
    tiny_base_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """A release whose replies don't end by themselves, served with a page."""
    folder = lively(tiny_base_folder, tmp_path_factory.mktemp("endless"), 0, context=ENDLESS)
    version = publish(released[0], folder, "endless", max_new_tokens=ENDLESS)
    log = FeedbackLog(tmp_path_factory.mktemp("feedback"), NAME)
    with serving([Wanted(version, 1.0)], feedback=log, page=True) as running:
        yield running


def begins(person: Person) -> str:
    """What is written of a reply that goes on."""
    text = person.page.locator(".turn.assistant .text")
    wait_until(lambda: text.count() == 1 and len(text.text_content() or "") > 20)
    assert person.page.get_by_role("button", name="Stop").is_enabled()
    return str(text.text_content())


def idle(served: Served) -> bool:
    """Whether nobody is being answered."""
    return "\nchatllama_in_flight 0.0" in served.ask("/metrics")[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stop_ends_a_reply_and_its_work_and_what_was_written_stays(
    endless: Served, phone: Page
) -> None:
    person = Person(phone, endless)
    phone.keyboard.type("alpha")
    phone.keyboard.press("Enter")
    begun = begins(person)
    assert not idle(endless)
    phone.get_by_role("button", name="Stop").click()
    person.rests()
    wait_until(lambda: idle(endless))
    said = phone.locator(".turn.assistant .text").text_content()
    assert said is not None and said.startswith(begun)
    phone.get_by_role("button", name="Bad").click()
    [thumb] = person.kept(1)
    assert thumb["reply"]["text"] == said and thumb["good"] is False

    phone.get_by_role("button", name="Regenerate").click()
    begins(person)
    phone.keyboard.press("Escape")
    person.rests()
    wait_until(lambda: idle(endless))
    assert phone.locator(".turn.assistant").count() == 1
    assert phone.locator("#error").text_content() == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_conversation_that_is_left_in_mid_reply_leaves_nothing_in_the_next(
    endless: Served, phone: Page
) -> None:
    person = Person(phone, endless)
    before = len(person.ratings())
    phone.keyboard.type("alpha")
    phone.keyboard.press("Enter")
    begins(person)
    phone.get_by_role("button", name="New conversation").click()
    wait_until(lambda: idle(endless))
    assert phone.locator(".turn").count() == 0
    phone.locator("#said").fill("bravo")
    phone.locator("#said").press("Enter")
    begins(person)
    phone.get_by_role("button", name="Stop").click()
    person.rests()
    phone.get_by_role("button", name="Good").click()
    thumb = person.kept(before + 1)[-1]
    assert thumb["prompt"] == [{"role": "user", "content": "bravo"}]


@pytest.fixture
def locked(
    released: tuple[Store, Version, Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """A server that asks for `KEY`."""
    monkeypatch.setenv("CHATLLAMA_API_KEY", KEY)
    log = FeedbackLog(tmp_path, NAME)
    with serving([Wanted(released[1], 1.0)], feedback=log, page=True) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_asks_for_the_key_tells_a_wrong_one_and_keeps_the_right_one(
    locked: Served, phone: Page
) -> None:
    phone.goto(f"http://127.0.0.1:{locked.port}/")
    error, field = phone.locator("#error"), phone.get_by_label("API key")
    field.wait_for()
    wait_until(lambda: "an API key is missing" in error.inner_text())
    assert field.get_attribute("type") == "password"
    for wrong in ("s3cret", "\u4e2d"):
        field.fill(wrong)
        field.press("Enter")
        wait_until(lambda: "the API key is wrong" in error.inner_text())
        assert field.is_visible() and phone.title() != NAME
    field.fill(f" {KEY} ")
    phone.get_by_role("button", name="Use it").click()
    wait_until(lambda: phone.title() == NAME)
    assert not field.is_visible() and error.inner_text() == ""
    phone.reload()
    person = Person(phone, locked)
    person.say("alpha")
    phone.get_by_role("button", name="Good").click()
    person.kept(1)
    assert KEY not in phone.content() and KEY not in phone.url
