"""The small model for a first training."""

import json
from pathlib import Path

import pytest

from maskrcnn_benchmark.config import default_config

FOLDER = Path(__file__).parents[2] / "configs" / "raccoon"


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(
        str(FOLDER / "bert_small"), local_files_only=True
    )


def test_vocabulary_and_text_encoder_agree():
    words = (FOLDER / "bert_small" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    encoder = json.loads((FOLDER / "bert_small" / "config.json").read_text(encoding="utf-8"))
    config = default_config()
    config.merge_from_file(FOLDER / "small.yaml")
    assert len(words) == len(set(words)) == encoder["vocab_size"]
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert encoder["hidden_size"] == config.MODEL.LANGUAGE_BACKBONE.LANG_DIM
    assert encoder["max_position_embeddings"] >= config.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN


def test_known_words_are_one_token_and_others_are_spelt(tokenizer):
    assert tokenizer.is_fast
    assert tokenizer.tokenize("A raccoon.") == ["a", "raccoon", "."]
    assert tokenizer.tokenize("zzyzx-42") == [
        *("z", "##z", "##y", "##z", "##x"),
        "-",
        *("4", "##2"),
    ]


def test_no_printable_character_is_unknown(tokenizer):
    printable = "".join(chr(code) for code in range(33, 127))
    assert tokenizer.unk_token not in tokenizer.tokenize(" ".join(printable))
    assert tokenizer.unk_token not in tokenizer.tokenize(printable)
