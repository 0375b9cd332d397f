"""README and docs tell what is: parts, paths, links, commands and keys are held to the code."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from assets.docs import filled, generated_parts
from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import SettingsError, UnknownAssistantError
from chatllama_pipeline.settings import AssistantSettings
from tests.docs.pages import ALL, PAGES, REPOSITORY
from tests.settings.test_assistants import ORIGINAL_CONFIG

QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", ALL)))
# Folders that runs or readers make, and names of models on the hub.
MADE = ("storage/", "dagster_home/", "assistants/poet/", "assistants/NAME/", "facebook/")
README_LINES = 200


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    without_blocks = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    times: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} (.+)$", without_blocks, re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(f"{anchor}-{times[anchor]}" if times[anchor] else anchor)
        times[anchor] += 1
    return found


def test_the_readme_can_be_read_at_one_sitting() -> None:
    assert len(PAGES["README.md"].splitlines()) <= README_LINES


def test_the_generated_parts_are_those_of_the_code() -> None:
    parts = generated_parts(definitions)
    for page, text in PAGES.items():
        assert filled(text, parts) == text, f"{page}: run `make docs`"
    for name, part in parts.items():
        assert part in ALL, f"no page has the part {name}"
    assert "preference_data --> reward_model" in PAGES["docs/running/dagster.md"]
    assert "| `actor_config` | `min_tokens` |" in PAGES["docs/coming_from_chatllama.md"]


def dead_links(page: str, text: str) -> list[str]:
    """The relative links in a page's text that lead to no file, or to no heading of a page."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent.joinpath(path).resolve() if path else REPOSITORY / page
        if not target.exists() or (
            anchor and anchor not in anchors(str(target.relative_to(REPOSITORY)))
        ):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_anchor_leads_somewhere(page: str) -> None:
    assert dead_links(page, PAGES[page]) == []


def test_a_link_to_nowhere_is_told() -> None:
    text = "[a](models.md) [b](#the-probe) [c](https://x.y/#z) [d](modells.md) [e](llms.md#judges)"
    assert dead_links("docs/making/models.md", text) == ["modells.md", "llms.md#judges"]


def test_every_page_is_reached_from_the_readme() -> None:
    reached = set(re.findall(r"\]\(([^)#\s]+\.md)", PAGES["README.md"]))
    assert set(PAGES) - {"README.md"} - reached == set()


def test_every_path_that_they_name_exists() -> None:
    paths = [text for text in QUOTED if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", text)]
    # Dagster's own tags look like paths.
    paths = [path for path in paths if not path.startswith(("datasets/", "dagster/", *MADE))]
    assert len(paths) > 10
    missing = [path for path in paths if not (REPOSITORY / path).exists()]
    assert missing == []


def test_every_command_of_ours_is_told() -> None:
    asked = set(re.findall(r"\bchatllama ([a-z]+)", ALL))
    assert asked == set(cli.commands)
    targets = set(re.findall(r"(?:^|`)make (\w+)", ALL, re.MULTILINE))
    made = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {"quickstart", "test", "ui", "chat", "check", "format", "lock"} <= targets
    assert targets <= made


def test_every_section_and_every_key_of_the_original_is_told() -> None:
    for name in AssistantSettings.model_fields:
        assert f"`{name}`" in PAGES["docs/settings.md"], name
    keys = re.findall(r"(\w+):(?= )", ORIGINAL_CONFIG)
    assert len(keys) > 50
    page = PAGES["docs/coming_from_chatllama.md"]
    assert [key for key in keys if f"`{key}`" not in page] == []


@pytest.mark.parametrize("file", sorted(REPOSITORY.glob("chatllama_pipeline/*.py")), ids=str)
def test_the_file_tree_knows_every_module(file: Path) -> None:
    if file.name != "__init__.py":
        assert file.name in PAGES["docs/house.md"]


def test_the_first_errors_that_they_tell_of_read_as_they_say() -> None:
    from chatllama_pipeline.settings.folder import load_assistant

    with pytest.raises(UnknownAssistantError, match="unknown assistant"):
        load_assistant("nobody", root=REPOSITORY / "assistants")
    with pytest.raises(SettingsError, match="unknown key"):
        load_assistant("quickstart", {"sed": 1}, root=REPOSITORY / "assistants")
