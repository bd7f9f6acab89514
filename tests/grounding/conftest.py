"""Fixtures of the grounding tests."""

import pytest
from transformers import AutoTokenizer


@pytest.fixture(scope="session")
def bert_tokenizer(bert_vocab_dir):
    return AutoTokenizer.from_pretrained(bert_vocab_dir)
