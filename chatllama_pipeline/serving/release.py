"""The release stage: a plain Hugging Face folder that anyone can load and talk to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from chatllama_pipeline.errors import CheckError, StoreError
from chatllama_pipeline.evaluation.figures import Evaluation, read_comparisons
from chatllama_pipeline.models.chat.template import stop_ids
from chatllama_pipeline.models.families.manner import manner_of
from chatllama_pipeline.models.generation import as_named, end_ids
from chatllama_pipeline.models.loading import load_config, load_tokenizer
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.serving.model_card import model_card
from chatllama_pipeline.settings import ActorSettings, AssistantSettings
from chatllama_pipeline.store.model_files import has_adapter
from chatllama_pipeline.store.pool import link_or_copy

EXAMPLES_FILE = "examples.json"
EXAMPLES = 3
CARD = "README.md"
# The weights, their config and what code they bring: no critic, curves or state of a training.
WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json", "*.py")


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Copy the released stage's weights and write all that it takes to use them.

    `spec.inputs` holds the stage that `release.stage` names, and the evaluation that let it pass
    or that a person approved. The weights are the source's, byte for byte; an adapter is merged
    into its base, so that a release is always a plain model.
    """
    quiet_transformers()
    settings = AssistantSettings.of_stage(spec)
    stage = settings.release.stage
    source, output = Path(spec.inputs[stage]), Path(spec.output)
    evaluation = Evaluation.read(Path(spec.inputs["evaluation"]))

    if has_adapter(source):
        _write_merged(source, output)
    else:
        _copy_weights(source, output, stage)
    tokenizer = load_tokenizer(source)
    tokenizer.save_pretrained(output)
    config = load_config(output)
    ends = end_ids(stop_ids(tokenizer), source)
    _generation_config(tokenizer, ends, config, settings.actor_config).save_pretrained(output)
    examples = _examples(Path(spec.inputs["evaluation"]))
    if examples:
        text = json.dumps(examples, indent=1, ensure_ascii=False) + "\n"
        (output / EXAMPLES_FILE).write_text(text, encoding="utf-8")
    card = model_card(
        spec.assistant, settings, evaluation, is_encoder_decoder=config.is_encoder_decoder
    )
    (output / CARD).write_text(card, "utf-8")
    told = _add_gguf(spec, settings, progress) if settings.release.gguf else {}
    size = sum(path.stat().st_size for path in output.glob("*.safetensors"))
    progress.say(f"{stage} released, {size / 1e6:.1f} MB of weights")
    return Outcome(metrics={"weight_bytes": size, "stage": stage, **told})


def _add_gguf(
    spec: StageSpec, settings: AssistantSettings, progress: Progress
) -> dict[str, float | None]:
    """Put the files of `release.gguf` beside the model, and what the card says of them into it.

    Returns figures of them. Raises CheckError where one reads or answers otherwise than the model,
    SettingsError for a family that can't be written.
    """
    # Without such files nothing of this is read.
    from chatllama_pipeline.llm.local.server import Machine
    from chatllama_pipeline.llm.providers import open_judge
    from chatllama_pipeline.llm.templates import load_templates
    from chatllama_pipeline.serving.gguf.export import write_files
    from chatllama_pipeline.serving.gguf.probes import evaluated

    output, evaluation = Path(spec.output), Path(spec.inputs["evaluation"])
    template = load_templates(Path(spec.inputs.get("personal_data", output)))["reward"]
    role, machine = settings.role("evaluation_judge"), Machine(spec.device, spec.threads)
    kinds = list(dict.fromkeys(settings.release.gguf))
    probes = evaluated(evaluation, settings.release.stage)
    with open_judge(role, template, Path(spec.run_folder), machine) as judge:
        rules = (settings.checks.min_gguf_agreement, judge, progress)
        made, told = write_files(output, spec.assistant, kinds, probes, output, *rules)
    with (output / CARD).open("a", encoding="utf-8") as card:
        card.write(told)
    figures: dict[str, float | None] = {}
    for kind, one in zip(kinds, made, strict=True):
        figures[f"gguf.{kind}.megabytes"] = one.megabytes
        figures[f"gguf.{kind}.agreement"] = one.parity.agreement
        figures[f"gguf.{kind}.win_rate"] = None if one.against is None else one.against.rate
    return figures


def _write_merged(source: Path, output: Path) -> None:
    """The model in `source` with its adapter merged; CheckError if it reads back as another."""
    # Only files are copied where there is no adapter: models take seconds to import.
    import torch

    from chatllama_pipeline.models.adapters.lora import merge_adapter, save_whole
    from chatllama_pipeline.models.adapters.merging import agree, outputs
    from chatllama_pipeline.models.heads import load_actor

    model = merge_adapter(load_actor(source, torch.float32))
    save_whole(model, output)
    said = outputs(model)
    del model
    if not agree(said, outputs(load_actor(output, torch.float32))):
        raise CheckError(
            "the merged model says something else once it is saved and loaded: train the adapter "
            "with other layers in actor_config.lora.target_modules, without embeddings and heads"
        )


def _copy_weights(source: Path, output: Path, stage: str) -> None:
    copied = [path for pattern in WEIGHTS for path in sorted(source.glob(pattern))]
    if not any(path.suffix == ".safetensors" for path in copied):
        raise StoreError(f"{source}: holds no *.safetensors to release; make {stage} again")
    for path in copied:
        # Only what nothing writes from here on may be the source's own file.
        place = link_or_copy if path.suffix == ".safetensors" else shutil.copyfile
        place(path, output / path.name)


def _generation_config(
    tokenizer: Any, ends: list[int], config: Any, actor: ActorSettings
) -> GenerationConfig:
    """Plain sampling at the temperature chosen for chatting; 0 is greedy."""
    common: dict[str, Any] = {
        "max_new_tokens": actor.max_tokens,
        "eos_token_id": as_named(ends),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "decoder_start_token_id": getattr(config, "decoder_start_token_id", None),
    }
    if manner_of(config).steps == "whole":
        # What its cache would make of a reply is not what was trained and judged.
        common["use_cache"] = False
    if actor.temperature == 0:
        return GenerationConfig(do_sample=False, **common)
    return GenerationConfig(
        do_sample=True, temperature=actor.temperature, top_k=0, top_p=1.0, **common
    )


def _examples(evaluation: Path) -> list[str]:
    """A few test questions of the embedded grammar, which an assistant trained on it can answer.

    Other sources' prompts may be private or vile: none of them is shown to whoever opens a chat.
    """
    asked = [
        row.prompt[0].content
        for row in read_comparisons(evaluation)
        if row.source == "grammar" and len(row.prompt) == 1
    ]
    return asked[:EXAMPLES]
