"""A folder belongs to one run at a time, and remembers what is finished."""

import pytest

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.engine.finetuning import FinetuningRun
from maskrcnn_benchmark.engine.finetuning_folder import (
    finished_record,
    own_folder,
    record_finish,
    settings_digest,
)
from tests.engine.small_task import small_config


def make_run(folder, *opts, task="colours", shots=1):
    config = small_config("OUTPUT_DIR", str(folder), *opts)
    config.freeze()
    return FinetuningRun(task, None, config, None, shots)


def test_two_commands_are_never_at_work_in_one_folder(tmp_path):
    run = make_run(tmp_path)

    with own_folder(run):
        second = own_folder(run)
        with pytest.raises(ConfigError, match="another command is at work"):
            second.__enter__()
    with own_folder(run):
        pass


@pytest.mark.parametrize(
    "other",
    [
        {"task": "shapes"},
        {"shots": 3},
        {"opts": ("DATASETS.SHUFFLE_SEED", "3")},
        {"opts": ("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "full")},
        {"opts": ("DATASETS.TRAIN", "('val',)")},
    ],
)
def test_a_folder_stays_with_its_task_subset_and_mode(tmp_path, other):
    with own_folder(make_run(tmp_path)):
        pass

    run = make_run(tmp_path, *other.pop("opts", ()), **other)

    with pytest.raises(ConfigError, match="holds another run"), own_folder(run):
        pass


def test_a_finished_run_is_known_by_the_settings_of_its_training(tmp_path):
    run = make_run(tmp_path)
    assert finished_record(run, run.config) is None

    record_finish(run, run.config, reason="done")

    assert finished_record(run, run.config)["reason"] == "done"
    tested_otherwise = make_run(tmp_path, "TEST.IMS_PER_BATCH", "1", "DATALOADER.NUM_WORKERS", "3")
    assert finished_record(tested_otherwise, tested_otherwise.config) is not None
    longer = make_run(tmp_path, "SOLVER.MAX_EPOCH", "99")
    assert finished_record(longer, longer.config) is None


def test_a_saved_configuration_has_the_digest_of_the_original(tmp_path):
    config = small_config()
    (tmp_path / "config.yml").write_text(config.dump())
    again = small_config()
    again.merge_from_file(tmp_path / "config.yml")

    assert settings_digest(again) == settings_digest(config)
