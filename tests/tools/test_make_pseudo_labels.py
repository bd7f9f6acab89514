"""tools/make_pseudo_labels.py as a user calls it, with a small untrained teacher."""

import json
import os
import signal

import pytest
import torch

from maskrcnn_benchmark.engine.pseudo_label_parts import LabelParts
from maskrcnn_benchmark.utils import comm
from tests.conftest import REPOSITORY
from tests.data.containers import write_json_lines
from tests.engine.test_resume import in_process
from tests.process_tools import run_world
from tools import make_pseudo_labels as tool

CONFIG = str(REPOSITORY / "configs/shapes/glip_B.yaml")


@pytest.fixture
def pairs(tmp_path):
    lines = [{"caption": text} for text in ("a red star", "of the", "a ring", "a cross and a star")]
    return write_json_lines(tmp_path / "pairs", lines, size=(64, 64))


def command(weights, pairs, output, *flags, confidence="0.0"):
    return [
        *("--config-file", CONFIG, "--weight", weights, "--pairs", str(pairs)),
        *("--images", str(pairs.parent / "images"), "--output", str(output)),
        *("--part", "2", "--batch", "2", "--pictures", "1", *flags),
        *("MODEL.ATSS.INFERENCE_TH", "0.0", "DATALOADER.NUM_WORKERS", "0"),
        *("INPUT.MIN_SIZE_TEST", "64", "DATASETS.CAPTION_NMS", "0.5"),
        *("DATASETS.CAPTION_CONF", confidence),
    ]


@pytest.fixture
def run(tmp_path, weights, pairs):
    def call(*flags, confidence="0.0"):
        arguments = command(weights, pairs, tmp_path / "out", *flags, confidence=confidence)
        return tool.main(arguments)

    return call


def test_pairs_become_a_set_with_counts_and_a_picture(run, tmp_path, capsys):
    assert run() == 0

    output = capsys.readouterr().out
    assert "labelled: 3" in output
    assert "no noun phrase: 1" in output
    assert "DATASETS.REGISTER: pseudo: {img_dir:" in output
    lines = (tmp_path / "out/pseudo.jsonl").read_text().splitlines()
    assert len(lines) == 3
    regions = json.loads(lines[2])["grounding"]["regions"]
    assert {region["phrase"] for region in regions} <= {"a cross", "a star"}
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1


def test_the_same_command_again_joins_without_labelling(run, tmp_path, capsys, monkeypatch):
    run()
    first = (tmp_path / "out/pseudo.jsonl").read_bytes()
    monkeypatch.setattr(tool, "load_model", None)

    assert run() == 0

    assert (tmp_path / "out/pseudo.jsonl").read_bytes() == first


def test_shares_are_done_one_by_one_and_joined(run, tmp_path, capsys):
    assert run("--shard", "0/2") == 0
    assert not (tmp_path / "out/pseudo.jsonl").exists()
    assert run("--join") == 1
    assert "1 of 2 parts are missing" in capsys.readouterr().err
    assert run("--shard", "1/2") == 0

    assert run("--join", "--to", "tsv", "--to", "json-lines") == 0

    assert (tmp_path / "out/pseudo.yaml").is_file()
    assert (tmp_path / "out/pseudo.jsonl").is_file()


def test_other_rules_in_the_same_folder_are_refused(run, capsys):
    run()

    assert run(confidence="0.5") == 1
    assert "another run (confidence: 0.0 / 0.5)" in capsys.readouterr().err


def test_a_threshold_that_nothing_passes_is_an_error(run, capsys):
    assert run(confidence="1.0") == 1
    assert "not one pair has enough boxes" in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["2/2", "x", "1", "-1/2"])
def test_a_share_that_is_none_is_refused(run, capsys, shard):
    assert run(f"--shard={shard}") == 2
    assert "--shard must be K/N" in capsys.readouterr().err


def label_in_a_world(arguments):
    """The tool inside a process group that exists already."""
    torch.set_num_threads(1)
    comm.setup, comm.cleanup = lambda *arguments: comm.read_launch_settings(), lambda: None
    return tool.main(arguments)


def label_and_die(arguments, after):
    """The tool, killed from outside once so many parts are on disk."""
    torch.set_num_threads(1)
    write, written = LabelParts.write, []

    def write_and_die(self, *content):
        write(self, *content)
        written.append(content)
        if len(written) == after:
            os.kill(os.getpid(), signal.SIGKILL)

    LabelParts.write = write_and_die
    tool.main(arguments)


@pytest.mark.slow
def test_two_processes_and_a_killed_run_write_what_one_undisturbed_run_writes(
    run, tmp_path, weights, pairs
):
    run()
    expected = (tmp_path / "out/pseudo.jsonl").read_bytes()

    arguments = command(weights, pairs, tmp_path / "two")
    assert run_world(2, label_in_a_world, arguments, folder=tmp_path / "processes") == [0, 0]

    arguments = command(weights, pairs, tmp_path / "killed")
    assert in_process(label_and_die, arguments, 1) == -signal.SIGKILL
    assert not (tmp_path / "killed/pseudo.jsonl").exists()
    assert tool.main(arguments) == 0

    for name in ("two", "killed"):
        assert (tmp_path / name / "pseudo.jsonl").read_bytes() == expected
