"""Tools run inside the test process; what they set up is put back."""

import logging

import pytest

from maskrcnn_benchmark.utils.logger import PACKAGE


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
