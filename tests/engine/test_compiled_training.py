"""Training with compiled parts is training, and its checkpoints are those of any other run."""

import pytest
import torch

from maskrcnn_benchmark.modeling.compilation import PARTS
from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint
from tests.engine.one_update import assert_same_gradients, first_updates, write_even_world


@pytest.mark.slow
def test_compiled_parts_have_the_gradients_and_the_checkpoint_of_the_plain_model(tmp_path):
    """With the backend that traces and then runs what it has traced as it is."""
    config = write_even_world(tmp_path)
    plain = first_updates(str(config), str(tmp_path / "plain"))

    compiled = first_updates(
        *(str(config), str(tmp_path / "compiled")),
        *("SOLVER.COMPILE", PARTS, "SOLVER.COMPILE_BACKEND", "eager"),
    )

    assert compiled.losses[0] == pytest.approx(plain.losses[0], rel=1e-5)
    assert_same_gradients(compiled, plain)
    saved = read_checkpoint(tmp_path / "compiled/model_final.pth")["model"]
    assert saved.keys() == plain.weights.keys()
    torch._dynamo.reset()
