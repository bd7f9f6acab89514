"""tools/finetune.py given again with other settings, and tasks of one name."""

import json

import torch

from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint
from tests.engine.small_task import run_finetune, write_task


def test_tasks_from_files_of_equal_stem_both_have_their_numbers(tmp_path, capsys):
    tasks = [write_task(tmp_path / name) for name in ("first", "second")]

    flags = ("--ft-tasks", ",".join(map(str, tasks)), "--skip-train")
    assert run_finetune(tmp_path / "out", *flags) == 0

    shown = capsys.readouterr().out
    assert "| colours (ft_task_1): val |" in shown
    assert "| colours (ft_task_2): val |" in shown


def test_a_finished_run_never_gets_the_name_of_other_settings(tmp_path, capsys):
    flags = ("--ft-tasks", str(write_task(tmp_path)))
    assert run_finetune(tmp_path / "out", *flags) == 0
    folder = tmp_path / "out" / "ft_task_1"
    records = [folder / name for name in ("config.yml", "finished.json", "parameters.txt")]
    before = [path.read_bytes() for path in records]
    others = ["MODEL.WEIGHT", "absent.pth", "SOLVER.BASE_LR", "0.25"]

    assert run_finetune(tmp_path / "out", *flags, opts=others) == 2

    message = "finished under other settings: MODEL.WEIGHT, SOLVER.BASE_LR; choose another"
    assert message in capsys.readouterr().err
    assert [path.read_bytes() for path in records] == before

    assert run_finetune(tmp_path / "out", *flags, "--skip-train", opts=others) == 0
    assert [path.read_bytes() for path in records] == before

    capsys.readouterr()
    assert run_finetune(tmp_path / "out", *flags) == 0
    shown = capsys.readouterr().out
    assert "is finished" in shown
    # Only the file of all runs saw the other command.
    assert shown.count("the earlier run had") == 2


def test_a_finished_run_made_longer_goes_on(tmp_path):
    flags = ("--ft-tasks", str(write_task(tmp_path)), "--skip-test")
    assert run_finetune(tmp_path / "out", *flags) == 0
    folder = tmp_path / "out" / "ft_task_1"
    short = read_checkpoint(folder / "model_final.pth")

    assert run_finetune(tmp_path / "out", *flags, opts=["SOLVER.MAX_EPOCH", "2"]) == 0

    final = read_checkpoint(folder / "model_final.pth")
    assert final["iteration"] == 2 * short["iteration"]
    assert any(not torch.equal(short["model"][k], v) for k, v in final["model"].items())
    assert "MAX_EPOCH: 2" in (folder / "config.yml").read_text()
    assert json.loads((folder / "finished.json").read_text())["iteration"] == final["iteration"]


def test_the_record_of_an_older_program_keeps_its_facts(tmp_path):
    flags = ("--ft-tasks", str(write_task(tmp_path)), "--skip-test")
    run_finetune(tmp_path / "out", *flags)
    path = tmp_path / "out/ft_task_1/finished.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "settings": "of a program that knew fewer settings"}))

    assert run_finetune(tmp_path / "out", *flags) == 0

    assert json.loads(path.read_text()) == record


def test_the_same_command_again_has_the_same_settings(tmp_path, capsys):
    flags = ("--ft-tasks", str(write_task(tmp_path)), "--skip-train", "--skip-test")

    for _ in range(2):
        assert run_finetune(tmp_path / "out", *flags) == 0

    assert "the earlier run had" not in capsys.readouterr().out
