"""Which errors end a tool with one line, and which keep their traceback."""

import pytest

from maskrcnn_benchmark.data.image_files import UnreadableImageError, read_rgb
from maskrcnn_benchmark.data.writers import DatasetWriteError
from maskrcnn_benchmark.engine.command_line import explain_errors
from maskrcnn_benchmark.engine.loss_history import NonFiniteLossError
from maskrcnn_benchmark.errors import ConfigError, DataError, MissingPackageError, UserError
from maskrcnn_benchmark.evaluation import AnnotationError, EvaluationError
from maskrcnn_benchmark.modeling.language_backbone.hub import PretrainedFilesMissing
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError
from maskrcnn_benchmark.utils.download import DownloadError


def raising(error: Exception):
    @explain_errors
    def main() -> int:
        raise error

    return main


def test_without_an_error_the_exit_status_is_that_of_the_work():
    assert explain_errors(lambda status: status)(3) == 3


def test_a_mistaken_setting_is_one_line_and_status_2(capsys):
    assert raising(ConfigError("SOLVER.OPTIMIZER is 'ADAM'"))() == 2
    assert capsys.readouterr().err == "error: SOLVER.OPTIMIZER is 'ADAM'\n"


@pytest.mark.parametrize(
    "kind",
    [
        AnnotationError,
        CheckpointError,
        DataError,
        DatasetWriteError,
        DownloadError,
        EvaluationError,
        MissingPackageError,
        NonFiniteLossError,
        PretrainedFilesMissing,
        UnreadableImageError,
    ],
)
def test_what_else_the_user_can_put_right_is_one_line_and_status_1(kind, capsys):
    assert raising(kind("train.json is cut short"))() == 1
    assert capsys.readouterr().err == "error: train.json is cut short\n"


def test_a_path_that_the_system_refuses_is_named(tmp_path, capsys):
    assert explain_errors((tmp_path / "absent.txt").read_text)() == 1
    assert explain_errors(tmp_path.read_bytes)() == 1
    assert explain_errors(tmp_path.mkdir)() == 1
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert "absent.txt" in first
    assert str(tmp_path) in second
    assert str(tmp_path) in third


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, OSError, TypeError])
def test_a_mistake_of_the_program_keeps_its_traceback_whatever_it_says(kind):
    with pytest.raises(kind):
        raising(kind("SOLVER.BASE_LR is odd"))()


def test_callers_may_catch_errors_by_their_builtin_kind(tmp_path):
    broken = tmp_path / "picture.png"
    broken.write_bytes(b"no picture")

    with pytest.raises(OSError, match=r"picture\.png cannot be decoded"):
        read_rgb(broken, broken.name)

    assert issubclass(ConfigError, (KeyError, ValueError))
    assert issubclass(DataError, ValueError)
    assert issubclass(UserError, Exception)
