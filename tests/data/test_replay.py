"""A share of other data mixed into a training set."""

from collections import Counter

import pytest

from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.datasets.replay import ReplayDataset, replay_length
from maskrcnn_benchmark.data.sample_key import SampleKey
from maskrcnn_benchmark.modeling.language_backbone import build_tokenizer
from tests.engine.small_task import small_config, write_set, write_task


class Numbers:
    """A dataset of a hundred samples that are their own numbers."""

    name = "numbers"

    def __len__(self):
        return 100

    def __getitem__(self, key):
        return key


@pytest.mark.parametrize(("share", "expected"), [(0.5, 60), (0.25, 20), (0.2, 15), (0.001, 1)])
def test_the_share_is_of_all_samples(share, expected):
    assert replay_length(60, share) == expected


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="REPLAY_SHARE"):
        replay_length(60, share)


def test_a_seed_draws_the_same_sample_and_others_draw_others():
    replay = ReplayDataset(Numbers(), 5)

    assert replay[SampleKey(0, 1234)] == replay[SampleKey(0, 1234)] == SampleKey(34, 1234)
    assert len({replay[SampleKey(0, seed)].index for seed in range(100)}) == 100


def test_training_sees_its_own_data_and_the_share_of_the_old(tmp_path):
    write_set(tmp_path / "old", 9, classes={1: "wheel", 2: "hat"}, first_id=1000)
    old = {
        "type": "CocoGrounding",
        "ann_file": str(tmp_path / "old" / "annotations_without_background.json"),
        "img_dir": str(tmp_path / "old"),
    }
    config = small_config()
    config.merge_from_file(write_task(tmp_path, number=6, REPLAY=["old"], REPLAY_SHARE=0.5))
    config.merge_from_other_cfg({"DATASETS": {"REGISTER": {"old": old}}})
    config.merge_from_list(["DATASETS.FEW_SHOT", 1, "SOLVER.MAX_EPOCH", 4])

    loader = make_data_loader(config, is_train=True, tokenizer=build_tokenizer(config))
    targets = [target for batch in loader for target in batch.targets]

    words = Counter("hat" in target.get_field("caption") for target in targets)
    assert len(targets) == 4 * (3 + 3)  # one image per class, as many of the old data
    assert words == {True: 12, False: 12}
    ids = {int(t.get_field("image_id")) for t in targets if int(t.get_field("image_id")) >= 1000}
    assert len(ids) > 3  # drawn afresh in every pass, few-shot selection does not apply
