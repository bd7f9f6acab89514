"""What one process does for all, and folders that one command has at a time."""

import errno
import fcntl
import multiprocessing
import time

import pytest

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.engine.main_process import (
    EVALUATION_LOCK,
    locked_folder,
    on_main_process,
)
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError
from tests.engine.small_world import write_config, write_detection_set
from tests.process_tools import run_world
from tools.test_grounding_net import main as evaluate_net
from tools.train_net import main as train_net


def error_of_main_process() -> str:
    def fail():
        raise CheckpointError("no room")

    try:
        on_main_process(fail)
    except CheckpointError as error:
        return str(error)
    return "nothing"


def test_an_error_of_the_main_process_is_that_of_all(tmp_path):
    assert run_world(2, error_of_main_process, folder=tmp_path) == ["no room", "no room"]


def test_a_folder_is_locked_for_one_purpose_until_it_is_left(tmp_path):
    with locked_folder(tmp_path / "run"):
        with pytest.raises(ConfigError, match="another command is at work"):
            locked_folder(tmp_path / "run").__enter__()
        with locked_folder(tmp_path / "run", EVALUATION_LOCK):
            pass
    with locked_folder(tmp_path / "run"):
        pass


def test_a_process_that_stays_behind_does_not_keep_the_lock(tmp_path):
    with locked_folder(tmp_path):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        worker.start()
        time.sleep(0.5)
    with locked_folder(tmp_path):
        assert worker.is_alive()
    worker.kill()
    worker.join()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked_folder(tmp_path):
        assert "cannot be locked" in caplog.text


@pytest.fixture
def arguments(tmp_path):
    write_detection_set(tmp_path, 2)
    return ["--config-file", str(write_config(tmp_path))]


def test_a_second_training_in_a_folder_is_refused_and_leaves_its_files_alone(
    tmp_path, arguments, capsys
):
    with locked_folder(tmp_path / "output"):
        assert train_net(arguments) == 2
    assert "another command is at work" in capsys.readouterr().err
    assert not (tmp_path / "output/config.yml").exists()


def test_a_second_evaluation_into_a_folder_is_refused(tmp_path, arguments, capsys):
    with locked_folder(tmp_path / "output", EVALUATION_LOCK):
        assert evaluate_net(arguments) == 2
    assert "another command is at work" in capsys.readouterr().err
