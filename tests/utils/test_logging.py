"""Log lines of several processes, running values, random state."""

import logging
import math
import random

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.utils.logger import PACKAGE, TERMINAL_LINES, setup_logger
from maskrcnn_benchmark.utils.metric_logger import MetricLogger, SmoothedValue
from maskrcnn_benchmark.utils.random_state import (
    capture_random_state,
    preserved_random_state,
    restore_random_state,
    seed_all,
)


@pytest.fixture
def package_logger():
    """The package's logger, put back as it was."""
    logger = logging.getLogger(PACKAGE)
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level, logger.propagate = before


def test_the_main_process_writes_to_the_terminal_and_appends_to_the_log(
    tmp_path, package_logger, capsys
):
    for message in ("first", "second"):
        setup_logger(tmp_path)
        logging.getLogger(f"{PACKAGE}.engine").info(message)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["first", "second"]
    assert "maskrcnn_benchmark.engine INFO: second" in lines[1]
    assert capsys.readouterr().out.count("second") == 1


def test_other_processes_write_to_their_own_file_only(tmp_path, package_logger, capsys):
    setup_logger(tmp_path, rank=2)
    logging.getLogger(PACKAGE).info("hello")
    assert "hello" in (tmp_path / "log_rank2.txt").read_text()
    assert capsys.readouterr().out == ""


def test_details_for_debugging_are_for_the_file_alone(tmp_path, package_logger, capsys):
    setup_logger(tmp_path)
    logging.getLogger(PACKAGE).debug("traceback of a mistaken setting")
    assert "traceback of a mistaken setting" in (tmp_path / "log.txt").read_text()
    assert capsys.readouterr().out == ""


def test_long_texts_are_for_the_file_where_there_is_one(tmp_path, package_logger, capsys):
    text = "settings:\n" + "\n".join(f"line {n}" for n in range(TERMINAL_LINES))
    for folder in (tmp_path, None):
        setup_logger(folder)
        logging.getLogger(PACKAGE).info(text)
    assert text in (tmp_path / "log.txt").read_text()
    cut, _, whole = capsys.readouterr().out.partition("\n")
    assert cut.endswith(f"settings: ({TERMINAL_LINES} lines, in {tmp_path / 'log.txt'})")
    assert text in whole


def test_a_smoothed_value_shows_recent_median_and_overall_mean():
    value = SmoothedValue(window=3)
    for number in (100.0, 1.0, math.nan, 2.0, 6.0):
        value.update(number)
    assert (value.median, value.average, value.global_average) == (2.0, 3.0, 109 / 4)


def test_a_value_without_numbers_is_nan():
    assert math.isnan(SmoothedValue().median)
    assert math.isnan(SmoothedValue().global_average)


def test_metrics_read_as_name_median_and_mean():
    meters = MetricLogger()
    meters.update({"loss": 1.0, "lr": 0.5})
    meters.update({"loss": 3.0})
    assert str(meters) == "loss: 2.0000 (2.0000)  lr: 0.5000 (0.5000)"


def draw() -> tuple:
    return (
        random.random(),
        np.random.rand(),  # noqa: NPY002 - the global generator is the subject
        torch.rand(1).item(),
    )


def test_captured_random_state_survives_a_checkpoint_and_repeats_the_numbers(tmp_path):
    seed_all(5)
    random.gauss(0, 1)  # leaves half a pair behind, part of the state
    torch.save(capture_random_state(), tmp_path / "state.pth")
    expected = (*draw(), random.gauss(0, 1))
    seed_all(6)
    restore_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert (*draw(), random.gauss(0, 1)) == expected


def test_preserved_random_state_hides_what_happened_inside():
    seed_all(5)
    expected = draw()
    seed_all(5)
    with preserved_random_state():
        draw()
    assert draw() == expected
