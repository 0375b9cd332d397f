"""Ollama's templates are Go's: Go itself says what it makes of those that are written here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from chatllama_pipeline.models.chat.rendering import rendered
from chatllama_pipeline.models.chat.template import CHAT_TEMPLATE
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.records import Message
from chatllama_pipeline.serving.gguf.modelfile import turn_form
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.gguf.templates import CHATML, GEMMA, QUOTING
from tests.waiting import PATIENCE

GO = shutil.which("go")
PROGRAM = """package main

import (
\t"encoding/json"
\t"os"
\t"strings"
\t"text/template"
)

func main() {
\tvar asked []struct {
\t\tTemplate string
\t\tGiven    map[string]any
\t}
\tif err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
\t\tpanic(err)
\t}
\tmade := []string{}
\tfor _, one := range asked {
\t\tvar text strings.Builder
\t\tparsed := template.Must(template.New("").Parse(one.Template))
\t\tif err := parsed.Execute(&text, one.Given); err != nil {
\t\t\tpanic(err)
\t\t}
\t\tmade = append(made, text.String())
\t}
\tjson.NewEncoder(os.Stdout).Encode(made)
}
"""


@pytest.mark.slow
@pytest.mark.skipif(GO is None, reason="no Go here: apt-get install golang-go")
def test_go_makes_of_ollamas_words_what_the_model_s_template_makes(
    released: tuple[Store, Version, Version], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(released[1].path)
    ruled = [Message("system", "s"), Message("user", "q"), Message("assistant", "r{{ . }}")]
    talks = [[*ruled, Message("user", "p")], [*ruled[1:], Message("user", "p")], ruled[:2]]
    asked, expected = [], []
    for template in (CHAT_TEMPLATE, CHATML, GEMMA, QUOTING):
        tokenizer.chat_template = template
        form = turn_form(tokenizer)
        assert form is not None, template
        for talk in talks:
            # What the system says Ollama gives twice.
            turns = [{"Role": turn.role, "Content": turn.content} for turn in talk]
            system = talk[0].content if talk[0].role == "system" else ""
            asked.append({"Template": form.in_go(), "Given": {"Messages": turns, "System": system}})
            expected.append(rendered(tokenizer, talk).removeprefix(tokenizer.bos_token or ""))
    (tmp_path / "main.go").write_text(PROGRAM)
    ended = subprocess.run(
        [str(GO), "run", str(tmp_path / "main.go")],
        input=json.dumps(asked),
        env=os.environ | {"GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "off"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == expected
