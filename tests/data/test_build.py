"""Loaders from a configuration: real sets, exact resumption, and settings that cannot be."""

import logging
import pickle

import pytest
import torch

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.build import write_schedule_length
from maskrcnn_benchmark.data.datasets.grounding_target import NOT_DETECTION
from maskrcnn_benchmark.data.sample_key import SampleKey
from maskrcnn_benchmark.errors import ConfigError
from tests.data.conftest import make_coco_folder
from tests.data.containers import DETECTION, GROUNDING, write_json_lines, write_shards
from tests.data.test_caption_data import V1, write_captions
from tests.data.test_tsv import CAT, DOG, write_detection_set

ODINW = {
    "Raccoon": "Raccoon/Raccoon.v2-raw.coco",
    "BCCD": "BCCD/BCCD.v3-raw.coco",
    "PascalVOC": "PascalVOC",
    "ChessPieces": "ChessPieces/Chess Pieces.v23-raw.coco",
}


def configuration(sets: dict[str, dict], *options):
    cfg = default_config.clone()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.REGISTER = CfgNode(sets, new_allowed=True)
    cfg.merge_from_list(
        [
            *("DATASETS.TRAIN", "('train',)", "DATASETS.TEST", "('val',)"),
            *("DATASETS.TRAIN_DATASETNAME_SUFFIX", "_grounding"),
            *("DATASETS.SEPARATION_TOKENS", ". "),
            *("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "100"),
            *("AUGMENT.MULT_MIN_SIZE_TRAIN", "(32, 48, 64)", "INPUT.MAX_SIZE_TRAIN", "100"),
            *("DATALOADER.NUM_WORKERS", "0", "DATALOADER.SIZE_DIVISIBILITY", "32"),
            *("SOLVER.IMS_PER_BATCH", "2", "TEST.IMS_PER_BATCH", "4"),
            *options,
        ]
    )
    return cfg


@pytest.fixture
def generated(tmp_path):
    """Configuration of a generated set of eight pictures for training and testing."""
    folder = make_coco_folder(tmp_path / "coco", num_images=8)
    entry = {"img_dir": str(folder.images), "ann_file": str(folder.annotations)}

    def configure(*options):
        return configuration({"train": dict(entry), "val": dict(entry)}, *options)

    return configure


def same_batches(first, second) -> bool:
    if len(first) != len(second):
        return False
    return all(
        torch.equal(a.images.tensors, b.images.tensors)
        and a.ids == b.ids
        and torch.equal(a.positive_map, b.positive_map)
        and [t.get_field("caption") for t in a.targets]
        == [t.get_field("caption") for t in b.targets]
        and all(torch.equal(x.bbox, y.bbox) for x, y in zip(a.targets, b.targets))
        for a, b in zip(first, second)
    )


class TestResuming:
    def test_a_resumed_run_sees_the_same_pixels_boxes_and_captions(self, generated, bert_tokenizer):
        cfg = generated("SOLVER.MAX_EPOCH", "5")
        whole = list(make_data_loader(cfg, tokenizer=bert_tokenizer))

        resumed = list(make_data_loader(cfg, start_iter=7, tokenizer=bert_tokenizer))

        assert len(whole) == 20
        assert same_batches(resumed, whole[7:])
        assert len({t.get_field("caption") for batch in whole for t in batch.targets}) > 1

    def test_the_number_of_workers_does_not_matter(self, generated, bert_tokenizer):
        cfg = generated("SOLVER.MAX_EPOCH", "3")
        alone = list(make_data_loader(cfg, tokenizer=bert_tokenizer))
        cfg.DATALOADER.NUM_WORKERS = 2

        shared = list(make_data_loader(cfg, start_iter=4, tokenizer=bert_tokenizer))

        assert same_batches(shared, alone[4:])

    def test_a_dataset_can_be_sent_to_a_process_that_does_not_share_memory(
        self, generated, bert_tokenizer
    ):
        cfg = generated("DATASETS.GENERAL_COPY", "2", "DATASETS.TRAIN", "('train', 'val')")
        dataset = make_data_loader(cfg, tokenizer=bert_tokenizer).dataset
        key = SampleKey(19, seed=5)

        here, there = dataset[key], pickle.loads(pickle.dumps(dataset))[key]

        assert torch.equal(here[0], there[0])
        assert here[1].get_field("caption") == there[1].get_field("caption")

    def test_the_global_generators_are_neither_read_nor_moved(self, generated, bert_tokenizer):
        cfg = generated("SOLVER.MAX_EPOCH", "1")
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = list(make_data_loader(cfg, tokenizer=bert_tokenizer))
        torch.manual_seed(2)
        second = list(make_data_loader(cfg, tokenizer=bert_tokenizer))

        assert same_batches(first, second)
        assert torch.equal(torch.manual_seed(1).get_state(), state)

    def test_another_seed_gives_other_batches(self, generated, bert_tokenizer):
        first = list(
            make_data_loader(generated("SOLVER.SEED", "1"), tokenizer=bert_tokenizer).batch_sampler
        )[:8]
        second = list(
            make_data_loader(generated("SOLVER.SEED", "2"), tokenizer=bert_tokenizer).batch_sampler
        )[:8]

        assert first != second


class TestSchedule:
    @pytest.mark.parametrize(
        ("epochs", "samples", "batch", "expected"), [(30, 100, 64, 46), (5, 8, 2, 20)]
    )
    def test_epochs_become_iterations(self, epochs, samples, batch, expected):
        cfg = default_config.clone()
        cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.IMS_PER_BATCH = epochs, batch
        cfg.freeze()

        write_schedule_length(cfg, samples)

        assert (expected, samples) == (cfg.SOLVER.MAX_ITER, cfg.SOLVER.DATASET_LENGTH)
        assert cfg.is_frozen()

    def test_without_epochs_the_iterations_stay(self, generated, bert_tokenizer):
        cfg = generated("SOLVER.MAX_ITER", "3")

        loader = make_data_loader(cfg, tokenizer=bert_tokenizer)

        assert len(loader) == len(list(loader)) == 3
        assert cfg.SOLVER.DATASET_LENGTH == -1

    def test_copies_count_as_samples(self, generated, bert_tokenizer):
        cfg = generated("SOLVER.MAX_EPOCH", "1", "DATASETS.GENERAL_COPY", "4")

        make_data_loader(cfg, tokenizer=bert_tokenizer)

        assert cfg.SOLVER.MAX_ITER == 16

    def test_accumulated_batches_share_the_total_batch(self, generated, bert_tokenizer):
        cfg = generated(
            *("SOLVER.MAX_EPOCH", "1", "SOLVER.IMS_PER_BATCH", "4"),
            *("SOLVER.ACCUMULATION_STEPS", "2", "DATALOADER.ASPECT_RATIO_GROUPING", "False"),
        )

        batches = list(make_data_loader(cfg, tokenizer=bert_tokenizer))

        assert cfg.SOLVER.MAX_ITER == 2
        assert [len(batch.ids) for batch in batches] == [2, 2, 2, 2]

    def test_less_than_one_batch_is_refused(self):
        cfg = default_config.clone()
        cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.IMS_PER_BATCH = 1, 64

        with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH"):
            write_schedule_length(cfg, 10)


class TestSettings:
    def test_several_sets_are_joined_for_training_and_separate_for_testing(
        self, generated, bert_tokenizer
    ):
        cfg = generated("DATASETS.TRAIN", "('train', 'val')", "DATASETS.TEST", "('val', 'train')")
        cfg.SOLVER.MAX_EPOCH = 1

        training = make_data_loader(cfg, tokenizer=bert_tokenizer)
        testing = make_data_loader(cfg, is_train=False)

        assert len(training.dataset) == 16
        assert [len(loader.dataset) for loader in testing] == [8, 8]
        assert [batch.positive_map for batch in testing[0]] == [None, None]

    def test_test_batches_cover_the_set_once(self, generated):
        (loader,) = make_data_loader(generated(), is_train=False)

        assert sorted(i for batch in loader for i in batch.ids) == list(range(8))

    def test_multi_scale_tests_get_raw_images(self, generated):
        (loader,) = make_data_loader(generated("TEST.USE_MULTISCALE", "True"), is_train=False)

        assert next(iter(loader)).images[0].size == (60, 40)

    def test_prompts_word_the_captions(self, generated, bert_tokenizer):
        cfg = generated("DATASETS.USE_CAPTION_PROMPT", "True", "DATASETS.DISABLE_SHUFFLE", "True")
        cfg.DATASETS.CAPTION_PROMPT = [
            {"prefix": "a ", "name": "puppy", "suffix": ""},
            {"prefix": "", "name": "kitten", "suffix": " asleep"},
            {"prefix": "", "name": "sausage", "suffix": ""},
        ]

        batch = next(iter(make_data_loader(cfg, tokenizer=bert_tokenizer)))

        assert batch.targets[0].get_field("caption") == "a puppy. kitten asleep. sausage"

    def test_sampled_classes_on_request(self, generated, bert_tokenizer):
        cfg = generated(
            *("DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING", "True"),
            *("DATASETS.RANDOM_SAMPLE_NEG", "1", "SOLVER.MAX_EPOCH", "4"),
        )

        captions = [
            target.get_field("caption")
            for batch in make_data_loader(cfg, tokenizer=bert_tokenizer)
            for target in batch.targets
        ]

        assert len({len(caption.split(". ")) for caption in captions}) > 1

    @pytest.mark.parametrize(
        ("safeguard", "cure"),
        [
            (False, r"Set \S+GROUNDING True with \S+NEG and DATASETS\.DISABLE_SHUFFLE False to"),
            (True, r"off\. Set DATASETS\.DISABLE_SHUFFLE False: it keeps classes from being"),
        ],
    )
    def test_a_class_list_that_does_not_fit_is_refused_with_what_helps(
        self, generated, bert_tokenizer, safeguard, cure
    ):
        cfg = generated(
            *("DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING", str(safeguard)),
            *("DATASETS.RANDOM_SAMPLE_NEG", "1", "DATASETS.DISABLE_SHUFFLE", "True"),
            *("MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN", "6"),
        )

        with pytest.raises(ConfigError, match=cure):
            make_data_loader(cfg, tokenizer=bert_tokenizer)

        cfg.DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING = True
        cfg.DATASETS.DISABLE_SHUFFLE = False
        make_data_loader(cfg, tokenizer=bert_tokenizer)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("DATASETS.USE_CAPTION_PROMPT", "True"), "DISABLE_SHUFFLE"),
            (("SOLVER.IMS_PER_BATCH", "3", "SOLVER.ACCUMULATION_STEPS", "2"), "does not divide"),
            (("SOLVER.IMS_PER_BATCH", "64"), "GENERAL_COPY"),
            (("DATASETS.TRAIN", "()"), r"DATASETS\.TRAIN names no dataset"),
            (("MODEL.MASK_ON", "True"), "MASK_ON"),
            (("DATASETS.CLASS_CONCAT", "True"), "CLASS_CONCAT"),
            (("DATASETS.MULTISTAGE_TRAINING", "True"), r"DATASETS\.MULTISTAGE_TRAINING is not"),
            (("DATASETS.ALTERNATIVE_TRAINING", "True"), r"DATASETS\.ALTERNATIVE_TRAINING is not"),
            (
                (
                    *("MODEL.DYHEAD.FUSE_CONFIG.USE_CLASSIFICATION_LOSS", "True"),
                    *("MODEL.DYHEAD.NUM_CLASSES", "3"),
                ),
                r"class 3 \('hot_dog'\) has no column. Set it to 4",
            ),
        ],
    )
    def test_settings_that_cannot_be_are_refused(self, generated, bert_tokenizer, options, message):
        cfg = generated(*options)
        cfg.DATASETS.CAPTION_PROMPT = [{"name": "a"}, {"name": "b"}, {"name": "c"}]

        with pytest.raises(ValueError, match=message):
            make_data_loader(cfg, tokenizer=bert_tokenizer)

    def test_training_sets_without_captions_are_refused_before_they_are_read(
        self, generated, bert_tokenizer, tmp_path
    ):
        (tmp_path / "coco/annotations.json").write_text("{")
        cfg = generated("DATASETS.TRAIN_DATASETNAME_SUFFIX", "")

        with pytest.raises(
            ConfigError, match=r"in train \(COCODataset\),.*SUFFIX _grounding"
        ) as caught:
            make_data_loader(cfg, tokenizer=bert_tokenizer)

        assert "\n" not in str(caught.value)

    def test_sets_with_and_without_captions_are_not_mixed(self, generated, bert_tokenizer):
        cfg = generated("DATASETS.TRAIN", "('train', 'val')")
        cfg.DATASETS.REGISTER.val["type"] = "COCODataset"

        message = r"no captions in val_grounding \(COCODataset\) \(unlike train_grounding\)"
        with pytest.raises(ConfigError, match=message):
            make_data_loader(cfg, tokenizer=bert_tokenizer)

    def test_replayed_sets_need_captions_too(self, generated, bert_tokenizer):
        cfg = generated("DATASETS.REPLAY", "('train',)")
        cfg.DATASETS.TRAIN_DATASETNAME_SUFFIX = ""
        cfg.DATASETS.REGISTER.val["type"] = "CocoGrounding"
        cfg.DATASETS.TRAIN = ("val",)

        with pytest.raises(
            ConfigError, match=r"DATASETS\.REPLAY: no captions in train \(COCODataset\)"
        ):
            make_data_loader(cfg, tokenizer=bert_tokenizer)

    def test_captions_need_a_tokenizer(self, generated):
        with pytest.raises(ValueError, match=r"train_grounding \(CocoGrounding\) .* tokenizer"):
            make_data_loader(generated())

    def test_broken_pictures_are_skipped_only_when_asked_for(
        self, generated, bert_tokenizer, tmp_path, caplog
    ):
        (tmp_path / "coco/images/picture0.png").write_bytes(b"no picture")
        with pytest.raises(OSError, match=r"picture0\.png"):
            list(make_data_loader(generated("SOLVER.MAX_EPOCH", "1"), tokenizer=bert_tokenizer))

        cfg = generated("SOLVER.MAX_EPOCH", "1", "DATASETS.SKIP_BROKEN_IMAGES", "True")
        with caplog.at_level(logging.WARNING):
            batches = list(make_data_loader(cfg, tokenizer=bert_tokenizer))

        assert len(batches) == 4
        assert "picture0.png" in caplog.text


def test_tsv_and_caption_sets_are_built_by_their_type(tmp_path, bert_tokenizer):
    (tmp_path / "od").mkdir()
    (tmp_path / "captions").mkdir()
    detection = write_detection_set(tmp_path / "od", [[DOG], [DOG, CAT], [CAT], [DOG]])
    captions = write_captions(tmp_path / "captions", [V1, V1, V1, V1])
    sets = {
        "objects": {"type": "CocoDetectionTSV", "yaml_path": str(detection)},
        "web": {"type": "CaptionTSV", "yaml_path": str(captions)},
    }
    cfg = configuration(
        sets,
        *("DATASETS.TRAIN", "('objects', 'web')", "DATASETS.TRAIN_DATASETNAME_SUFFIX", ""),
        *("DATASETS.CONTROL_PROB", "(0.0, 0.0, 0.5, 0.0)", "DATASETS.RANDOM_SAMPLE_NEG", "2"),
        *("DATASETS.PACK_RANDOM_CAPTION_NUMBER", "2", "SOLVER.MAX_EPOCH", "2"),
        *("DATALOADER.ASPECT_RATIO_GROUPING", "False"),
    )

    batches = list(make_data_loader(cfg, tokenizer=bert_tokenizer))

    assert len(batches) == 8
    for batch in batches:
        assert len(batch.positive_map) == sum(len(target) for target in batch.targets)
        assert (batch.positive_map.sum(dim=1) > 0).all()


def test_detection_json_of_many_classes_has_captions_of_sampled_ones(generated, bert_tokenizer):
    cfg = generated(
        *("SOLVER.MAX_EPOCH", "6", "DATASETS.TRAIN_DATASETNAME_SUFFIX", ""),
        *("DATASETS.CONTROL_PROB", "(0.0, 0.0, 0.5, 0.0)", "DATASETS.RANDOM_SAMPLE_NEG", "1"),
    )
    cfg.DATASETS.REGISTER.train["type"] = "CocoSampledGrounding"

    batches = list(make_data_loader(cfg, tokenizer=bert_tokenizer))

    targets = [target for batch in batches for target in batch.targets]
    assert len({target.get_field("caption") for target in targets}) > 4
    for target in targets:
        labels = target.get_field("labels")
        assert torch.equal(target.get_field("original_od_label"), labels)
        of_tokens = target.get_field("positive_map_for_od_labels")
        assert set(labels.tolist()) <= set(of_tokens.tolist())


@pytest.mark.parametrize("safeguard", [True, False])
def test_the_safeguard_names_the_classes_of_boxes_but_not_of_tokens(
    generated, bert_tokenizer, safeguard
):
    cfg = generated(
        *("DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING", str(safeguard)),
        *("DATASETS.RANDOM_SAMPLE_NEG", "1", "SOLVER.MAX_EPOCH", "1"),
    )

    batches = list(make_data_loader(cfg, tokenizer=bert_tokenizer))

    for target in (target for batch in batches for target in batch.targets):
        labels = target.get_field("labels")
        of_boxes = labels if safeguard else torch.full_like(labels, NOT_DETECTION)
        assert torch.equal(target.get_field("original_od_label"), of_boxes)
        assert (target.get_field("positive_map_for_od_labels") == -1).all()


def container_sets(tmp_path):
    """Four samples of every kind in every container; (name, register entry) pairs."""
    lines = [{"grounding": GROUNDING}] * 4
    write_shards(tmp_path / "web", [V1] * 4)
    objects = {"objects": [DOG, CAT]}
    write_shards(tmp_path / "od", [objects] * 4)
    captions = write_json_lines(tmp_path / "lines", lines)
    detection = write_json_lines(tmp_path / "od_lines", [{"detection": DETECTION}] * 4)
    label_map = tmp_path / "labels.json"
    label_map.write_text('{"dog": 1, "cat": 2, "cow": 3}')
    return {
        "web": {"shards": f"{tmp_path}/web/s-{{000..001}}.tar"},
        "od_shards": {"shards": str(tmp_path / "od"), "label_map": str(label_map)},
        "lines": {"img_dir": str(captions.parent / "images"), "ann_file": str(captions)},
        "od_lines": {
            "img_dir": str(detection.parent / "images"),
            "ann_file": str(detection),
            "label_map": str(label_map),
        },
    }


@pytest.mark.parametrize("name", ["web", "od_shards", "lines", "od_lines"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_the_same_batches_from_every_container(
    tmp_path, bert_tokenizer, name, workers
):
    cfg = configuration(
        container_sets(tmp_path),
        *("DATASETS.TRAIN", f"('{name}',)", "DATASETS.TRAIN_DATASETNAME_SUFFIX", ""),
        *("DATASETS.CONTROL_PROB", "(0.0, 0.0, 0.5, 0.0)", "DATASETS.RANDOM_SAMPLE_NEG", "2"),
        *("DATASETS.PACK_RANDOM_CAPTION_NUMBER", "2", "SOLVER.MAX_EPOCH", "3"),
        *("DATALOADER.NUM_WORKERS", str(workers)),
    )

    whole = list(make_data_loader(cfg, tokenizer=bert_tokenizer))
    resumed = list(make_data_loader(cfg, start_iter=2, tokenizer=bert_tokenizer))

    assert len(whole) == 6
    assert same_batches(resumed, whole[2:])
    for batch in whole:
        assert len(batch.positive_map) == sum(len(target) for target in batch.targets) > 0
        assert (batch.positive_map.sum(dim=1) > 0).all()


def test_all_kinds_of_data_mix_with_copies(tmp_path, bert_tokenizer):
    sets = container_sets(tmp_path)
    cfg = configuration(
        sets,
        *("DATASETS.TRAIN", str(tuple(sets)), "DATASETS.TRAIN_DATASETNAME_SUFFIX", ""),
        *("DATASETS.CONTROL_PROB", "(0.0, 0.0, 0.5, 0.0)", "DATASETS.RANDOM_SAMPLE_NEG", "2"),
        *("DATASETS.GENERAL_COPY", "3", "SOLVER.MAX_EPOCH", "1"),
    )

    batches = list(make_data_loader(cfg, tokenizer=bert_tokenizer))

    assert len(batches) == 4 * 4 * 3 // 2
    assert cfg.SOLVER.DATASET_LENGTH == 48


def test_tensor_pictures_give_the_batches_of_pil_but_for_rounding(generated, bert_tokenizer):
    plain = list(make_data_loader(generated("SOLVER.MAX_EPOCH", "2"), tokenizer=bert_tokenizer))
    options = ("SOLVER.MAX_EPOCH", "2", "INPUT.IMAGE_BACKEND", "torchvision")

    fast = list(make_data_loader(generated(*options), tokenizer=bert_tokenizer))

    assert len(plain) == len(fast) == 8
    for one, other in zip(plain, fast):
        assert one.ids == other.ids
        assert all(torch.equal(a.bbox, b.bbox) for a, b in zip(one.targets, other.targets))
        # The standard deviation is 1 here, so a difference of one is one step of 255.
        difference = (one.images.tensors - other.images.tensors).abs()
        assert difference.max() <= 2.001
        assert difference.gt(0.5).float().mean() < 0.1


def test_an_unknown_picture_backend_is_refused(generated, bert_tokenizer):
    with pytest.raises(ValueError, match=r"INPUT\.IMAGE_BACKEND must be 'pil' or 'torchvision'"):
        make_data_loader(generated("INPUT.IMAGE_BACKEND", "cv2"), tokenizer=bert_tokenizer)


def test_sampled_captions_need_control_probabilities(tmp_path, bert_tokenizer):
    path = write_detection_set(tmp_path, [[DOG]])
    sets = {"train": {"type": "CocoDetectionTSV", "yaml_path": str(path)}}
    cfg = configuration(sets, "DATASETS.TRAIN_DATASETNAME_SUFFIX", "")

    with pytest.raises(ValueError, match="CONTROL_PROB must hold four"):
        make_data_loader(cfg, tokenizer=bert_tokenizer)


@pytest.mark.parametrize("name", ODINW)
def test_odinw_sets_give_consistent_training_batches(name, shared_dir, bert_tokenizer):
    folder = shared_dir / "data/odinw" / ODINW[name]
    sets = {
        entry: {
            "img_dir": str(folder / split),
            "ann_file": str(folder / split / "annotations_without_background.json"),
        }
        for entry, split in (("train", "train"), ("val", "valid"))
    }
    cfg = configuration(sets, "SOLVER.MAX_ITER", "3")

    for batch in make_data_loader(cfg, tokenizer=bert_tokenizer):
        assert len(batch.positive_map) == sum(len(target) for target in batch.targets)
        assert batch.images.tensors.shape[-1] % 32 == 0
        for target in batch.targets:
            caption = target.get_field("caption")
            words = [caption[b:e] for ((b, e),) in target.get_field("tokens_positive")]
            assert all(word.strip() for word in words)
            assert (target.get_field("positive_map").sum(dim=1) > 0.99).all()
            assert (target.bbox[:, 2] < target.size[0]).all()
    (test_loader,) = make_data_loader(cfg, is_train=False)
    assert len(next(iter(test_loader)).targets) == 4
