"""A release as GGUF: the files that are really written, rounded, run by llama.cpp and compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, OPTConfig, T5Config

from chatllama_pipeline.cli.serving.export import export as command
from chatllama_pipeline.errors import CheckError, DataError, SettingsError
from chatllama_pipeline.evaluation.figures import Comparison, Reply, write_comparisons
from chatllama_pipeline.llm.rules import RulesJudge
from chatllama_pipeline.models.bases import exportable
from chatllama_pipeline.models.bases.exportable import require_exportable, split_of
from chatllama_pipeline.models.chat.rendering import rendered
from chatllama_pipeline.models.chat.template import CHAT_TEMPLATE
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Message, Outcome, user_prompt
from chatllama_pipeline.serving.gguf import parity
from chatllama_pipeline.serving.gguf.conversion import convert
from chatllama_pipeline.serving.gguf.export import Exported, export
from chatllama_pipeline.serving.gguf.llama_cpp import LlamaCpp
from chatllama_pipeline.serving.gguf.modelfile import modelfile, turn_form
from chatllama_pipeline.serving.gguf.parity import compare, known_of
from chatllama_pipeline.serving.gguf.probes import Probe
from chatllama_pipeline.serving.gguf.rounding import FILE_TYPES, round_weights, types_of
from chatllama_pipeline.serving.loaded import Loaded, load_release
from chatllama_pipeline.store.manifests import Recipe, Version
from chatllama_pipeline.store.versions import Store, Workbench
from tests.serving.gguf.templates import CHATML, GEMMA
from tests.serving.served import NAME, lively

Released = tuple[Store, Version, Version]
ASKED = "What should I know to practise bass?"
ANSWERED = [Message("user", "a"), Message("assistant", "caf\u00e9 ..."), Message("user", ASKED)]
PROBES = [
    Probe(user_prompt(ASKED), "gamma delta"),
    Probe(ANSWERED, "x y z"),
    Probe([Message("system", "3 + 4  ="), Message("user", ASKED)], "seven"),
]
QUIET = Progress("export", lambda line: None)
# The last turn alone is told the rules: no two texts stand around every turn.
IRREGULAR = (
    "{% for m in messages %}{% if loop.last %}{{ 'Be brief. ' }}{% endif %}"
    "{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}{{ '[assistant]' }}"
)
DAILY = "{{ 'Today: ' + strftime_now('%d %b %Y') }}" + CHATML


@pytest.fixture(scope="module")
def full(released: Released) -> Loaded:
    return load_release(released[1].path)


@pytest.fixture(scope="module")
def exported(
    released: Released, tmp_path_factory: pytest.TempPathFactory, convert_once: Callable[..., None]
) -> tuple[Path, list[Exported]]:
    """The folder of the first release's files, and how they did."""
    target = tmp_path_factory.mktemp("exported") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chatllama_pipeline.serving.gguf.export.convert", convert_once)
        made = export(
            released[1].path,
            "tiny",
            ["f16", "q8_0"],
            PROBES,
            target,
            floor=0.5,
            judge=RulesJudge(),
            progress=QUIET,
        )
    return target, made


@pytest.fixture(scope="module")
def whole(exported: tuple[Path, list[Exported]]) -> Path:
    """The first release as a file of float16."""
    return exported[0] / "tiny-f16.gguf"


@pytest.fixture(scope="module")
def server(whole: Path, full: Loaded) -> Iterator[LlamaCpp]:
    running = LlamaCpp(whole, full.context)
    yield running
    running.close()


def test_llama_cpp_reads_and_says_what_the_model_does(server: LlamaCpp, full: Loaded) -> None:
    known = known_of(full, PROBES)
    assert len(known) == 3
    told = compare(server, known, "whole.gguf")
    assert (told.prompts, told.agreement) == (3, 1.0)
    assert told.tokens == sum(len(one.likeliest) for one in known) > 9


def test_a_tokenizer_without_bos_is_given_none_in_llama_cpp(server: LlamaCpp, full: Loaded) -> None:
    assert full.tokenizer.bos_token is None and "bos_token" in full.tokenizer.chat_template
    ids = server.prompt_ids([{"role": "user", "content": "alpha"}])
    assert ids[0] == full.tokenizer.convert_tokens_to_ids("<|user|>")


def test_a_prompt_that_is_read_otherwise_is_told_with_its_place(
    server: LlamaCpp, full: Loaded
) -> None:
    one, *_ = known_of(full, PROBES)
    other = one._replace(prompt=[*one.prompt[:2], one.prompt[2] + 1, *one.prompt[3:]])
    with pytest.raises(
        CheckError, match=r"reads the prompt 'What.*bass.' as other ids .* token 2 "
    ):
        compare(server, [other], "whole.gguf")
    with pytest.raises(CheckError, match=f"from token {len(one.prompt)} on"):
        compare(server, [one._replace(prompt=[*one.prompt, 5])], "whole.gguf")


def test_the_likeliest_tokens_are_counted_against_the_full_models(
    server: LlamaCpp, full: Loaded
) -> None:
    one, *_ = known_of(full, PROBES)
    wrong = {length: token + 1 for length, token in list(one.likeliest.items())[:1]}
    told = compare(server, [one._replace(likeliest=one.likeliest | wrong)], "whole.gguf")
    assert told.agreed == told.tokens - 1


def test_prompts_that_spell_control_tokens_or_do_not_fit_are_left_out(
    full: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = Probe(user_prompt("what is <|end|>"), "so")
    long = Probe(user_prompt("alpha " * 200), "so")
    assert [one.turns for one in known_of(full, [marked, long, *PROBES])] == [
        probe.prompt for probe in PROBES
    ]
    with pytest.raises(CheckError, match="no test prompt fits"):
        known_of(full, [marked, long])
    monkeypatch.setattr(parity, "PROMPTS", 2)
    assert len(known_of(full, PROBES)) == 2


@pytest.mark.parametrize("kind", list(FILE_TYPES))
def test_rounded_weights_are_near_those_they_were_made_from(
    kind: str, whole: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rounded.gguf"
    round_weights(whole, kind, file)
    assert file.stat().st_size < whole.stat().st_size
    exact = {tensor.name: tensor for tensor in GGUFReader(whole).tensors}
    for tensor in GGUFReader(file).tensors:
        before = dequantize(exact[tensor.name].data, exact[tensor.name].tensor_type)
        after = dequantize(tensor.data, tensor.tensor_type)
        assert before.shape == after.shape
        error = np.abs(after - before).max() / np.abs(before).max()
        assert error < {"Q8_0": 0.01, "Q5_0": 0.07}.get(tensor.tensor_type.name, 1e-6)
    said = [GGUFReader(path).get_field("tokenizer.chat_template") for path in (whole, file)]
    assert said[0].contents() == said[1].contents()  # type: ignore[union-attr]


@pytest.mark.slow
def test_rows_of_whole_blocks_take_llama_cpps_mixture_of_types(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(
        tiny_base_folder, hidden_size=256, intermediate_size=512, num_hidden_layers=4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tiny_base_folder)
    tokenizer.save_pretrained(tmp_path)
    convert(tmp_path, tokenizer, "tiny", whole := tmp_path / "whole.gguf")
    round_weights(whole, "q4_k_m", rounded := tmp_path / "rounded.gguf")
    types = {name: kind.name for name, kind in types_of(rounded).items()}
    # Tied: what embeds chooses tokens too.
    assert types["token_embd.weight"] == "Q6_K"
    assert types["blk.0.attn_q.weight"] == types["blk.0.ffn_up.weight"] == "Q4_K"
    # An eighth of 4 layers is none: the last and each third have more bits.
    precise = [types[f"blk.{layer}.ffn_down.weight"] for layer in range(4)]
    assert precise == [types[f"blk.{layer}.attn_v.weight"] for layer in range(4)]
    assert precise == ["Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    assert types["output_norm.weight"] == "F32"


def test_an_export_holds_files_modelfiles_and_a_card_that_says_how_they_did(
    released: Released, exported: tuple[Path, list[Exported]]
) -> None:
    target, made = exported
    assert sorted(path.name for path in target.iterdir()) == [
        "Modelfile.f16",
        "Modelfile.q8_0",
        "README.md",
        "tiny-f16.gguf",
        "tiny-q8_0.gguf",
    ]
    assert made[0].parity.agreement == 1.0
    assert made[0].against is not None and made[0].against.rate == 0.5
    card = (target / "README.md").read_text()
    assert "| `tiny-q8_0.gguf` |" in card
    assert "3 test prompts as the same ids as the model, and of " in card
    assert f"{made[1].parity.agreement:.1%}" in card
    assert "0.500 (95 % interval 0.500 to 0.500; rules, 3 prompts)" in card
    with pytest.raises(DataError, match=r"tiny-q8_0.gguf exists already: name another folder"):
        write(released, target, ["q8_0"], 0.5)
    # Beneath a file, and where nobody makes a folder.
    for nowhere in (target / "README.md" / "x", Path("/proc/none")):
        with pytest.raises(DataError, match=f"{nowhere}: can't be written to .*name another"):
            write(released, nowhere, ["q8_0"], 0.5)


def test_what_answers_otherwise_is_not_written(
    released: Released, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"

    def copied(folder: Path, tokenizer: Any, name: str, target: Path) -> None:
        shutil.copyfile(whole, target)

    def deaf(self: LlamaCpp, ids: Any, most: int) -> list[int]:
        return [7] * most

    monkeypatch.setattr(LlamaCpp, "greedy", deaf)
    monkeypatch.setattr("chatllama_pipeline.serving.gguf.export.convert", copied)
    with pytest.raises(CheckError, match=r"less than 90%: nothing was written. Take more bits"):
        write(released, target, ["f16"], 0.9)
    assert list(target.iterdir()) == []


def write(released: Released, target: Path, kinds: list[str], floor: float) -> None:
    where = (released[1].path, "tiny", kinds, PROBES, target)
    export(*where, floor=floor, judge=None, progress=QUIET)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, CHATML, GEMMA], ids=["own", "chatml", "gemma"])
def test_a_regular_template_is_said_in_ollamas_words(template: str, full: Loaded) -> None:
    tokenizer = load_tokenizer(Path(full.tokenizer.name_or_path))
    tokenizer.chat_template = template
    form = turn_form(tokenizer)
    assert form is not None
    talk = [Message("system", "s"), Message("user", "q"), Message("assistant", "r")]
    more = [*talk, Message("user", "p")]
    assert form.text(more) == rendered(tokenizer, more)
    assert form.text(more[1:]) == rendered(tokenizer, more[1:])


@pytest.mark.parametrize("template", [IRREGULAR, DAILY], ids=["irregular", "daily"])
def test_a_template_that_ollama_cannot_say_gets_no_modelfile(template: str, full: Loaded) -> None:
    tokenizer = load_tokenizer(Path(full.tokenizer.name_or_path))
    tokenizer.chat_template = template
    assert turn_form(tokenizer) is None


def test_a_modelfile_samples_as_the_release_does(full: Loaded) -> None:
    lines = (modelfile(full, "tiny-q8_0.gguf") or "").splitlines()
    assert lines[0] == "FROM ./tiny-q8_0.gguf"
    assert "PARAMETER temperature 0.0" in lines and "PARAMETER num_ctx 128" in lines
    assert "PARAMETER num_predict 12" in lines and 'PARAMETER stop "<|end|>"' in lines
    assert lines[1].startswith('TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}')


def test_families_that_llama_cpp_does_not_run_are_refused_by_name(full: Loaded) -> None:
    with pytest.raises(SettingsError, match="converter doesn't know OPTForCausalLM"):
        require_exportable(OPTConfig(), "OPTForCausalLM", full.tokenizer, "release.gguf")
    with pytest.raises(SettingsError, match="T5ForConditionalGeneration reads with an encoder"):
        require_exportable(T5Config(), "T5ForConditionalGeneration", full.tokenizer, "it")
    require_exportable(full.model.config, "LlamaForCausalLM", full.tokenizer, "it")


def test_without_its_packages_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(exportable.NEEDED, "no_such_package", "no-such-package")
    with pytest.raises(SettingsError, match=r"packages no-such-package: .*-e '\.\[gguf\]'"):
        exportable.converter_folder("it")


@pytest.mark.slow
def test_a_release_is_converted_to_the_same_bytes_wherever_that_is_done(
    released: Released, full: Loaded, tmp_path: Path
) -> None:
    files = [tmp_path / name / "whole.gguf" for name in ("one", "other")]
    for file in files:
        file.parent.mkdir()
        convert(released[1].path, full.tokenizer, "tiny", file)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_split_that_llama_cpp_has_no_name_for_is_refused_not_guessed(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    lively(tiny_base_folder, tmp_path, 0)
    file = tmp_path / "tokenizer.json"
    core = json.loads(file.read_text())
    assert split_of(load_tokenizer(tmp_path)) == "gpt-2"
    core["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {**core["pre_tokenizer"]},
        ],
    }
    file.write_text(json.dumps(core))
    tokenizer = load_tokenizer(tmp_path)
    assert split_of(tokenizer) is None
    GenerationConfig(max_new_tokens=4).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match="doesn't know how the tokenizer of this model splits"):
        convert(tmp_path, tokenizer, "tiny", tmp_path / "whole.gguf")


def test_the_command_exports_on_the_prompts_of_the_releases_own_evaluation(
    released: Released, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "assistants" / NAME
    folder.mkdir(parents=True)
    # An LLM that judges costs: it is not asked unless somebody says so.
    (folder / "config.yaml").write_text(
        "llm: {provider: openai, model: gpt-5-mini, prices: {gpt-5-mini: unknown}}\n"
        "evaluation: {judge: openai}\nrelease: {gguf: [q8_0]}\n"
    )
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(folder.parent))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(
        "chatllama_pipeline.serving.gguf.export.convert",
        lambda folder, tokenizer, name, target: shutil.copyfile(whole, target),
    )
    store = Store(tmp_path / "store")
    arguments = [NAME, "--to", str(tmp_path / "out")]

    def publish(asset: str, upstream: dict[str, str], fill: Callable[[Path], None]) -> Version:
        def build(bench: Workbench) -> Outcome:
            fill(bench.output)
            return Outcome(metrics={"stage": "actor_sft"})

        return store.make(
            Recipe(asset, NAME, "1", upstream, {}, {}), build, {}, force=False
        ).version

    def compared(folder: Path) -> None:
        sft, ppo = (Reply(text, 2, True, None, None, None) for text in ("gamma", "x" * 400))
        write_comparisons(folder, [Comparison(user_prompt(ASKED), "own", sft, ppo, 0.0)])

    def copied(folder: Path) -> None:
        for file in released[1].manifest.files:
            shutil.copyfile(released[1].path / file.path, folder / file.path)

    evaluation = publish("evaluation", {}, compared)
    publish("release", {"evaluation": evaluation.id}, copied)
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.exception
    # The reply is that of the stage that was released: PPO's would not fit.
    assert "next tokens on 1 prompts" in result.stderr and "wins" not in result.stderr
    assert (tmp_path / "out" / "tiny-q8_0.gguf").is_file()
    assert "FROM ./tiny-q8_0.gguf" in (tmp_path / "out" / "Modelfile").read_text()
