"""tools/finetune.py given again with other settings, and tasks of one name."""

from tests.engine.small_task import run_finetune, write_task


def test_tasks_from_files_of_equal_stem_both_have_their_numbers(tmp_path, capsys):
    tasks = [write_task(tmp_path / name) for name in ("first", "second")]

    flags = ("--ft-tasks", ",".join(map(str, tasks)), "--skip-train")
    assert run_finetune(tmp_path / "out", *flags) == 0

    shown = capsys.readouterr().out
    assert "| colours (ft_task_1): val |" in shown
    assert "| colours (ft_task_2): val |" in shown
