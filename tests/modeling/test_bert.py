"""BERT: recorded features, where weights come from, sizes."""

import json
import logging

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.language_backbone import hub
from maskrcnn_benchmark.modeling.language_backbone.bert import BertEncoder, load_bert
from maskrcnn_benchmark.modeling.language_backbone.build import build_language_backbone
from maskrcnn_benchmark.modeling.language_backbone.hub import PretrainedFilesMissing
from maskrcnn_benchmark.modeling.language_backbone.untrained import warn_if_untrained
from tests.golden_tools import load_case, with_named_weights

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 100,
    "max_position_embeddings": 24,
}


def small_encoder(num_layers=1, **options):
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SMALL), add_pooling_layer=False)
    return BertEncoder(model, num_layers, **options).eval()


def tokens(lengths=(7, 4), width=10):
    generator = torch.Generator().manual_seed(5)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, 100, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask.long()}


@pytest.fixture(scope="module")
def base():
    """BERT base under its name in a whole model, weights by name."""
    encoder = BertEncoder(BertModel(BertConfig(), add_pooling_layer=False))
    with_named_weights(nn.ModuleDict({"language_backbone": nn.ModuleDict({"body": encoder})}))
    return encoder.eval()


@pytest.mark.parametrize("name", ["A_duo", "B_single", "C_duo", "L_duo"])
def test_features_equal_the_recorded_ones(base, name):
    case = load_case("forward", name)
    batch = {
        "input_ids": case.tensor("bert.input_ids"),
        "attention_mask": case.tensor("bert.masks"),
    }
    with torch.inference_mode():
        text = base(batch)
    for field in ("hidden", "embedded", "aggregate"):
        case.assert_close(f"bert.{field}", getattr(text, field), atol=2e-5)
    assert torch.equal(text.masks, case.tensor("bert.masks")) and text.mlm_labels is None


def test_state_dict_has_the_published_names_and_shapes(golden_dir, base):
    path = golden_dir / "glip/state_dict/glip_Swin_T_O365_GoldG.json"
    prefix = "language_backbone.body."
    recorded = {
        key: shape
        for key, (shape, _) in json.loads(path.read_text()).items()
        if key.startswith(prefix)
    }
    state = base.state_dict(prefix=prefix)
    assert {key: list(value.shape) for key, value in state.items()} == recorded
    assert state[prefix + "model.embeddings.position_ids"].tolist() == [list(range(512))]


def test_checkpoints_may_lack_the_numbers_of_the_positions():
    encoder = small_encoder()
    state = encoder.state_dict()
    del state["model.embeddings.position_ids"]
    encoder.load_state_dict(state)


def test_features_of_tokens_do_not_depend_on_padding():
    encoder = small_encoder()
    long, short = tokens(width=20), tokens(width=7)
    short["input_ids"] = long["input_ids"][:, :7]
    with torch.no_grad():
        padded, trimmed = encoder(long), encoder(short)
    real = short["attention_mask"].bool()
    torch.testing.assert_close(padded.hidden[:, :7][real], trimmed.hidden[real])
    torch.testing.assert_close(padded.aggregate, trimmed.aggregate)


def test_embedded_is_zero_at_padding_and_hidden_is_not():
    with torch.no_grad():
        text = small_encoder()(tokens())
    assert text.embedded[1, 4:].eq(0).all() and text.hidden[1, 4:].ne(0).any()
    torch.testing.assert_close(text.aggregate[1], text.hidden[1, :4].mean(dim=0))
    assert text.masks.dtype == torch.int64


def test_several_layers_are_averaged_and_divided_once_more():
    encoder = small_encoder(num_layers=2)
    batch = tokens()
    with torch.no_grad():
        text = encoder(batch)
        layers = encoder.model(**batch, output_hidden_states=True).hidden_states
    expected = (layers[-1] + layers[-2]) / 4 * batch["attention_mask"][..., None]
    torch.testing.assert_close(text.embedded, expected)
    torch.testing.assert_close(text.hidden, layers[-1])


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(ValueError, match="depth 3"):
        small_encoder(num_layers=4)


def test_checkpointing_changes_no_gradient():
    plain, recomputed = small_encoder(), small_encoder(use_checkpoint=True)
    recomputed.load_state_dict(plain.state_dict())
    for encoder in (plain, recomputed):
        encoder.train()
        for module in encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif hasattr(module, "dropout_prob"):  # attention of transformers before version 5
                module.dropout_prob = 0.0
        encoder(tokens()).embedded.square().mean().backward()
    for (name, ours), theirs in zip(plain.named_parameters(), recomputed.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def options(name, **keys):
    config = cfg.clone()
    config.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE = str(name)
    for key, value in keys.items():
        config.MODEL.LANGUAGE_BACKBONE[key] = value
    return config


@pytest.fixture
def folder(tmp_path):
    BertConfig(**SMALL).save_pretrained(tmp_path)
    return tmp_path


class TestBuilding:
    def test_a_folder_without_weights_gives_an_untrained_model_that_can_be_told(
        self, folder, caplog
    ):
        backbone = build_language_backbone(options(folder, LANG_DIM=16, MAX_QUERY_LEN=24))
        with caplog.at_level(logging.WARNING):
            warn_if_untrained(backbone)
        assert "UNTRAINED" in caplog.text and str(folder) in caplog.text
        assert backbone.language_dim == 16
        assert backbone(tokens()).hidden.shape == (2, 10, 16)
        assert all(name.startswith("body.model.") for name in backbone.state_dict())

    def test_weights_of_a_folder_are_loaded(self, folder, caplog):
        saved = small_encoder().model
        saved.save_pretrained(folder)
        with caplog.at_level(logging.WARNING):
            loaded = load_bert(str(folder))
            warn_if_untrained(loaded)
        assert "UNTRAINED" not in caplog.text
        for ours, theirs in zip(loaded.parameters(), saved.parameters()):
            assert torch.equal(ours, theirs)

    def test_without_network_bert_base_has_the_published_size(self, monkeypatch):
        monkeypatch.setattr(hub, "hub_is_reachable", lambda: False)
        monkeypatch.setattr(BertModel, "from_pretrained", nothing_there)
        with torch.device("meta"):
            model = load_bert("bert-base-uncased")
        assert "bert-base-uncased" in model.random_start.reason
        assert sum(parameter.numel() for parameter in model.parameters()) == 108_891_648

    def test_without_network_an_unknown_name_is_an_error_with_advice(self, monkeypatch):
        monkeypatch.setattr(hub, "hub_is_reachable", lambda: False)
        monkeypatch.setattr(BertModel, "from_pretrained", nothing_there)
        with pytest.raises(PretrainedFilesMissing, match=r"some/bert.*MODEL_TYPE"):
            load_bert("some/bert")

    def test_a_width_that_disagrees_is_an_error_that_names_the_right_one(self, folder):
        with pytest.raises(ValueError, match="set LANG_DIM to 16"):
            build_language_backbone(options(folder, MAX_QUERY_LEN=24))

    def test_captions_longer_than_the_position_table_are_refused(self, folder):
        with pytest.raises(ValueError, match="at most 24"):
            build_language_backbone(options(folder, LANG_DIM=16))

    def test_a_folder_of_another_model_is_refused(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
        with pytest.raises(ValueError, match="roberta"):
            load_bert(str(tmp_path))

    def test_a_folder_without_configuration_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"config\.json"):
            load_bert(str(tmp_path))

    @pytest.mark.parametrize("name", ["rnn", "roberta-base"])
    def test_encoders_that_are_not_offered_are_refused_by_name(self, name):
        with pytest.raises(ConfigError, match=name):
            build_language_backbone(options(name))


def nothing_there(*_, **__):
    raise OSError("not in the cache")
