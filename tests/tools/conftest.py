"""Tools run inside the test process; what they set up is put back."""

import logging

import pytest
import torch

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.logger import PACKAGE
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def package_logger_as_before():
    """Without the handlers of a tool, which write to streams that end with the test."""
    logger = logging.getLogger(PACKAGE)
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    for handler in logger.handlers:
        if handler not in before[0]:
            handler.close()
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> str:
    """A checkpoint of configs/shapes/glip_B.yaml with random weights."""
    config = default_config()
    config.merge_from_file(str(REPOSITORY / "configs/shapes/glip_B.yaml"))
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({"model": build_detection_model(config).state_dict()}, path)
    return str(path)
