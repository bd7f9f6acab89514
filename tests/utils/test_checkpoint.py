"""A run's folder of checkpoints, and weights into a model from anywhere."""

import functools
import hashlib
import http.server
import logging
import threading

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.utils.checkpoint import (
    CheckpointFolder,
    DetectronCheckpointer,
    load_weights,
    resolve_weight,
)
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError, write_checkpoint


def small_model(value: float | None = None) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    if value is not None:
        for parameter in model.parameters():
            nn.init.constant_(parameter, value)
    return model


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_pointer_follows_resumable_saves_only(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    assert folder.latest() is None
    folder.save("model_0000010", {"iteration": 10})
    folder.save("model_best", {"iteration": 12}, resumable=False)

    assert (tmp_path / "run/last_checkpoint").read_text() == "model_0000010.pth"
    saved = folder.latest()
    assert (saved.path.name, saved.contents["iteration"]) == ("model_0000010.pth", 10)


def test_only_the_last_checkpoints_are_kept_and_named_ones_stay(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    folder.save("model_best", {}, resumable=False)
    for iteration in (10, 20, 30, 40):
        folder.save(f"model_{iteration:07d}", {"iteration": iteration})
    folder.save("model_final", {"iteration": 40})
    assert names_in(tmp_path) == [
        "last_checkpoint",
        "model_0000030.pth",
        "model_0000040.pth",
        "model_best.pth",
        "model_final.pth",
    ]


def test_checkpoints_of_an_earlier_and_longer_run_go_first(tmp_path):
    earlier = CheckpointFolder(tmp_path)
    for name in ("model_0000020", "model_0000016", "model_final"):
        earlier.save(name, {"run": "earlier"})
    folder = CheckpointFolder(tmp_path, keep_last=2)
    folder.save("model_0000004", {"run": "new"})
    assert {p.name for p in tmp_path.glob("model_0*")} == {"model_0000004.pth", "model_0000020.pth"}
    folder.save("model_0000008", {"run": "new"})
    assert {p.name for p in tmp_path.glob("model_0*")} == {"model_0000004.pth", "model_0000008.pth"}


def test_a_damaged_checkpoint_is_not_replaced_by_that_of_an_earlier_run(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for name in ("model_0000020", "model_0000004", "model_0000008"):
        folder.save(name, {"name": name})
    (tmp_path / "model_0000008.pth").write_bytes(b"damaged")
    assert folder.latest().contents["name"] == "model_0000004"


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        CheckpointFolder(tmp_path, keep_last=0)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage, caplog):
    folder = CheckpointFolder(tmp_path)
    folder.save("model_0000010", {"iteration": 10})
    newest = folder.save("model_0000020", {"iteration": 20})
    if damage == "cut":
        newest.write_bytes(newest.read_bytes()[:-50])
    else:
        newest.unlink()

    with caplog.at_level(logging.WARNING):
        saved = folder.latest()

    assert saved.contents["iteration"] == 10
    assert "cannot continue from" in caplog.text


def test_a_folder_whose_checkpoints_are_all_damaged_says_how_to_start_over(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save("model_0000010", {"iteration": 10}).write_bytes(b"")
    with pytest.raises(CheckpointError, match="Remove last_checkpoint to start over"):
        folder.latest()


def test_weights_fill_the_model_and_differences_are_logged(tmp_path, caplog):
    state = small_model(2.0).state_dict()
    state["1.bias"] = torch.zeros(7)
    write_checkpoint(tmp_path / "w.pth", {"model": state})
    model = small_model()

    with caplog.at_level(logging.INFO):
        report = load_weights(model, tmp_path / "w.pth")

    assert torch.all(model[0].weight == 2.0)
    assert report.reshaped == [("1.bias", (7,), (2,))]
    assert "3 loaded, 0 missing, 0 unexpected, 1 reshaped" in caplog.text
    assert "[7] in the file, [2] in the model" in caplog.text


def test_weights_of_another_model_are_refused(tmp_path):
    write_checkpoint(tmp_path / "w.pth", {"model": {"resnet.conv.weight": torch.zeros(3)}})
    with pytest.raises(
        CheckpointError, match=r"of another model.*its first is resnet\.conv\.weight"
    ):
        load_weights(small_model(), tmp_path / "w.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, value):
    state = small_model(2.0).state_dict()
    state["1.weight"][0, 1] = value
    write_checkpoint(tmp_path / "w.pth", {"model": state})
    model = small_model(1.0)

    with pytest.raises(CheckpointError, match=r"w\.pth cannot be used: 1\.weight holds values"):
        load_weights(model, tmp_path / "w.pth")

    assert torch.all(model[0].weight == 1.0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_every_precision_are_looked_at(tmp_path, kind):
    state = {name: value.to(kind) for name, value in small_model(2.0).state_dict().items()}
    write_checkpoint(tmp_path / "w.pth", {"model": state})
    assert load_weights(small_model(), tmp_path / "w.pth").complete


def test_a_partly_fitting_file_is_refused_where_the_very_model_is_needed(tmp_path):
    state = small_model(2.0).state_dict()
    del state["1.bias"]
    write_checkpoint(tmp_path / "w.pth", {"model": state})
    with pytest.raises(
        CheckpointError, match=r"1 of its values stay unfilled, for example 1\.bias"
    ):
        load_weights(small_model(), tmp_path / "w.pth", partial=False)


def test_a_file_of_a_larger_model_is_refused_where_the_very_model_is_needed(tmp_path):
    state = {**small_model(2.0).state_dict(), "fusion.weight": torch.zeros(2)}
    write_checkpoint(tmp_path / "w.pth", {"model": state})
    with pytest.raises(CheckpointError, match=r"of a larger model.*for example fusion\.weight"):
        load_weights(small_model(), tmp_path / "w.pth", partial=False)


def test_optional_heads_do_not_count_as_differences(tmp_path):
    state = {**small_model(2.0).state_dict(), "rpn.head.mlm_head.bias": torch.zeros(2)}
    write_checkpoint(tmp_path / "w.pth", {"model": state})
    load_weights(small_model(), tmp_path / "w.pth", partial=False)


def test_a_checkpoint_without_weights_says_what_it_holds(tmp_path):
    write_checkpoint(tmp_path / "w.pth", {"iteration": 3})
    with pytest.raises(CheckpointError, match="holds no weights; its entries are: iteration"):
        load_weights(small_model(), tmp_path / "w.pth")


@pytest.fixture
def config(tmp_path):
    config = cfg.clone()
    config.MODEL.WEIGHT = str(tmp_path / "configured.pth")
    write_checkpoint(config.MODEL.WEIGHT, {"model": small_model(1.0).state_dict()})
    return config


def test_the_checkpointer_takes_the_configured_weight_in_a_fresh_folder(tmp_path, config):
    model = small_model()
    DetectronCheckpointer(config, model, save_dir=tmp_path / "run").load()
    assert torch.all(model[0].weight == 1.0)


def test_the_last_checkpoint_of_the_folder_wins_unless_forced(tmp_path, config, caplog):
    model = small_model()
    checkpointer = DetectronCheckpointer(config, small_model(3.0), save_dir=tmp_path / "run")
    checkpointer.save("model_0000001", iteration=1)
    with caplog.at_level(logging.WARNING):
        DetectronCheckpointer(config, model, save_dir=tmp_path / "run").load()
    assert torch.all(model[0].weight == 3.0)
    assert "last_checkpoint names it" in caplog.text
    DetectronCheckpointer(config, model, save_dir=tmp_path / "run").load(force=True)
    assert torch.all(model[0].weight == 1.0)


def test_no_configured_weight_leaves_the_model_as_it_was_initialised(config, caplog):
    config.MODEL.WEIGHT = ""
    model = small_model(5.0)
    with caplog.at_level(logging.WARNING):
        assert DetectronCheckpointer(config, model).load() is None
    assert torch.all(model[0].weight == 5.0)
    assert "stays as it was initialised" in caplog.text


@pytest.fixture
def web(tmp_path):
    """A web server on this machine; yields its address, its folder and the requests it saw."""
    folder = tmp_path / "web"
    folder.mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, requests
    server.shutdown()
    server.server_close()


def test_weights_on_the_web_are_fetched_once(tmp_path, web, monkeypatch):
    address, folder, requests = web
    monkeypatch.chdir(tmp_path)
    write_checkpoint(folder / "w.pth", {"model": small_model(4.0).state_dict()})
    model = small_model()
    for _ in range(2):
        load_weights(model, resolve_weight(f"{address}/w.pth"))
    assert torch.all(model[0].weight == 4.0)
    assert requests == ["/w.pth"]
    assert names_in(tmp_path / "model") == ["w.pth"]


def test_a_hash_in_the_name_is_checked(tmp_path, web, monkeypatch):
    address, folder, _ = web
    monkeypatch.chdir(tmp_path)
    good = hashlib.sha256(b"weights").hexdigest()[:8]
    (folder / f"net-{good}.pth").write_bytes(b"weights")
    (folder / "net-00000000.pth").write_bytes(b"weights")
    assert resolve_weight(f"{address}/net-{good}.pth").read_bytes() == b"weights"
    with pytest.raises(CheckpointError, match="its name promises 00000000"):
        resolve_weight(f"{address}/net-00000000.pth")
    assert names_in(tmp_path / "model") == [f"net-{good}.pth"]


def test_an_address_that_fails_says_where_to_put_the_file(tmp_path, web, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"404.*put the file at model/missing\.pth"):
        resolve_weight(f"{web[0]}/missing.pth")


@pytest.mark.parametrize("search", [True, False])
def test_weights_that_are_not_there_are_told_how_to_get(search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"download_weights\.py glip_large_model fetches"):
        resolve_weight("MODEL/glip_large_model.pth", search=search)
    with pytest.raises(FileNotFoundError, match=r"mine\.pth .*download_weights\.py --list"):
        resolve_weight("mine.pth", search=search)
