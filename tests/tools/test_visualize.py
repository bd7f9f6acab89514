"""tools/visualize_grounding_net.py on a tiny set."""

import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.modeling.detector import build_detection_model
from tests.engine.small_task import CONFIG_FILE, SMALL, small_config, write_task
from tools import visualize_grounding_net


@pytest.fixture
def draw(tmp_path):
    """Run the tool on untrained weights; its exit status."""
    weight = tmp_path / "start.pth"
    torch.save({"model": build_detection_model(small_config()).state_dict()}, weight)
    task = write_task(tmp_path)

    def run(*flags):
        arguments = ["--config-file", CONFIG_FILE, "--weight", str(weight)]
        arguments += ["--task_config", str(task), "--output", str(tmp_path / "drawn")]
        return visualize_grounding_net.main([*arguments, *flags, *SMALL])

    return run


def test_all_pictures_of_the_set_are_drawn(draw, tmp_path, capsys):
    assert draw("--image_index", "-1", "--threshold", "0.0", "--box_pixel", "2") == 0

    names = sorted(path.name for path in (tmp_path / "drawn").glob("*.jpg"))
    assert names == ["img_0.jpg", "img_1.jpg", "img_2.jpg"]
    assert Image.open(tmp_path / "drawn" / "img_0.jpg").size == (640, 640)
    assert "img_2.jpg" in capsys.readouterr().out


def test_one_picture_is_the_default(draw, tmp_path):
    assert draw() == 0

    assert [path.name for path in (tmp_path / "drawn").glob("*.jpg")] == ["img_0.jpg"]


def test_a_picture_that_the_set_lacks_is_an_error(draw, capsys):
    assert draw("--image_index", "3") == 2

    assert "colours: val has 3 pictures" in capsys.readouterr().err
