"""Tiny tokenizers of the kinds that model families use, by the library's own classes."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    CodeGenTokenizer,
    DebertaV2Tokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    T5Tokenizer,
)

WORDS = [
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliet",
    "kilo",
    "lima",
]
CORPUS = [" ".join(WORDS), " ".join(reversed(WORDS)), "Human: User: Assistant: System: <|user|>"]
GEMMA_EMBEDDINGS, GEMMA_IMAGE = 344, "<image_soft_token>"
BYTES = [f"<0x{value:02X}>" for value in range(256)]


def byte_level_bpe(special: list[str], size: int = 340) -> tuple[dict[str, int], list[Any]]:
    """Vocabulary and merges of a byte-level BPE; the special tokens have the first ids."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS * 4, trainer)
    return core.get_vocab(), [tuple(merge) for merge in _merges(core)]


def sentencepiece_bpe(special: list[str], size: int = 340) -> tuple[dict[str, int], list[Any]]:
    """The same in SentencePiece's manner: spaces are U+2581, unknown text falls back to bytes."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special + BYTES, show_progress=False
    )
    core.train_from_iterator(CORPUS * 4, trainer)
    return core.get_vocab(), [tuple(merge) for merge in _merges(core)]


def unigram(special: list[str]) -> list[tuple[str, float]]:
    """Pieces of a Unigram model with their log-probabilities."""
    letters = sorted({letter for text in CORPUS for letter in text if letter not in " <>|"})
    pieces = ["\u2581", *letters, *(f"\u2581{word}" for word in WORDS)]
    return [(token, 0.0) for token in special] + [
        (piece, -2.0 if len(piece) > 1 else -6.0) for piece in pieces
    ]


def backend(special: list[str], prefix: str | None = None, **named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE without a class of its own; `prefix` opens every plain text."""
    vocabulary, merges = byte_level_bpe(special)
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    if prefix:
        core.post_processor = processors.TemplateProcessing(
            single=f"{prefix} $A",
            pair=f"{prefix} $A {prefix} $B",
            special_tokens=[(prefix, vocabulary[prefix])],
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, **named)


def gpt2() -> Any:
    vocabulary, merges = byte_level_bpe(["<|endoftext|>"])
    return GPT2Tokenizer(vocab=vocabulary, merges=merges)


def codegen() -> Any:
    vocabulary, merges = byte_level_bpe(["<|endoftext|>"])
    return CodeGenTokenizer(vocab=vocabulary, merges=merges)


def gpt_neox() -> Any:
    vocabulary, merges = byte_level_bpe(["<|endoftext|>", "<|padding|>"])
    return GPTNeoXTokenizer(vocab=vocabulary, merges=merges)


def opt() -> Any:
    """Begins every text with `</s>`, which is its BOS and its EOS."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    return backend(special, prefix="</s>", **names)


def galactica() -> Any:
    """Its vocabulary holds the usual tokens, and none of them is named."""
    return backend(["<s>", "<pad>", "</s>", "<unk>"])


def bloom() -> Any:
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return backend(special, **names)


def llama() -> Any:
    """SentencePiece BPE; no pad token, BOS before every text."""
    vocabulary, merges = sentencepiece_bpe(["<unk>", "<s>", "</s>"])
    return LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def llama3() -> Any:
    header = "<|start_header_id|>", "<|end_header_id|>"
    special = ["<|begin_of_text|>", "<|end_of_text|>", *header, "<|eot_id|>"]
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    tokenizer = backend(special, prefix="<|begin_of_text|>", **names)
    # Llama 3.2's names the day, in a system turn that we leave out for room.
    tokenizer.chat_template = (
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }}"
        "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
        "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )
    return tokenizer


def mistral() -> Any:
    """Knows no system turn, and says so by an error in its template."""
    vocabulary, merges = sentencepiece_bpe(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]"]})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
        "{{ ' ' + m['content'] + eos_token }}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}"
        "{% endif %}{% endfor %}"
    )
    return tokenizer


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def qwen3() -> Any:
    """No BOS; a reply ends in `<|im_end|>`, texts in `<|endoftext|>`, which is the pad too."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary, merges = byte_level_bpe(special)
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


# What Qwen3's does with thoughts: an assistant's last turn has one, be it empty, and older ones
# lose theirs; with `enable_thinking: false` the generation prompt brings the empty one.
CHATML_THINKING = """
{%- for m in messages %}
    {%- set said = m.content %}
    {%- set thought = '' %}
    {%- if m.role == 'assistant' and '</think>' in m.content %}
        {%- set said = m.content.split('</think>')[-1].lstrip('\\n') %}
        {%- set thought = m.content.split('</think>')[0].rstrip('\\n') %}
        {%- set thought = thought.split('<think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' and loop.last %}
        {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- set said = said.lstrip('\\n') %}
    {%- endif %}
    {{- said + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def qwen3_thinking() -> Any:
    """Qwen3 as published: the marks of thoughts are tokens that aren't flagged as special."""
    tokenizer = qwen3()
    tokenizer.add_tokens(
        [AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")]
    )
    tokenizer.chat_template = CHATML_THINKING
    return tokenizer


def smollm() -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary, merges = byte_level_bpe(special)
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=merges, **names)
    tokenizer.chat_template = CHATML
    return tokenizer


def gemma3() -> Any:
    """With a token for images at the end, which its models that only read have no embedding for."""
    turn = ["<start_of_turn>", "<end_of_turn>"]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *turn]
    vocabulary, merges = sentencepiece_bpe(special, GEMMA_EMBEDDINGS)
    tokenizer = GemmaTokenizer(
        vocab=vocabulary,
        merges=merges,
        add_bos_token=True,
        extra_special_tokens={"image_token": GEMMA_IMAGE},
    )
    tokenizer.add_special_tokens({"additional_special_tokens": turn})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + "
        "m['content'] + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    )
    return tokenizer


def t5() -> Any:
    """SentencePiece Unigram; no BOS, `</s>` after every text, no angle bracket in its ids."""
    return T5Tokenizer(vocab=unigram(["<pad>", "</s>", "<unk>"]), extra_ids=4)


def deberta_v3() -> Any:
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    return DebertaV2Tokenizer(vocab=unigram(special), unk_id=3)


def electra() -> Any:
    """WordPiece."""
    letters = sorted({letter for text in CORPUS for letter in text.lower() if letter != " "})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *WORDS]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})


def _merges(core: Tokenizer) -> list[list[str]]:
    found: list[list[str]] = json.loads(core.to_str())["model"]["merges"]
    return found
