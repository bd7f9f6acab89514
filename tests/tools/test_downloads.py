"""The download tools as a user calls them, against a server on this machine."""

import hashlib
import io
import json
import zipfile

import pytest

from maskrcnn_benchmark.utils.download_catalog import (
    BY_HAND,
    DATA,
    DATA_GROUPS,
    ODINW,
    WEIGHT_GROUPS,
    WEIGHTS,
)
from odinw import download as odinw_tool
from odinw import download_datasets
from tests.conftest import REPOSITORY
from tests.web_server import WebSite, serve
from tools import download_data as data_tool
from tools import download_weights as weights_tool

HUB = "/GLIPModel/GLIP/resolve/main"


def archive_of(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return stream.getvalue()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    files = {
        f"{HUB}/odinw_35/Aquarium.zip": archive_of(Aquarium__train__a="1", Aquarium__b="2"),
        f"{HUB}/odinw_35/Raccoon.zip": archive_of(Raccoon__a="3"),
        f"{HUB}/lvis_od_val.json": b"{}",
        f"{HUB}/glip_a_tiny_o365.pth": b"weights",
        f"{HUB}/glip_tiny_model_o365_goldg.pth": b"other weights",
    }
    with serve(WebSite(files=files)) as served:
        monkeypatch.setenv("GLIP_MIRROR", served.address)
        yield served


class TestData:
    def test_archives_are_unpacked_and_removed(self, site, tmp_path, capsys):
        status = data_tool.main(["odinw/Aquarium", "lvis_val", "--root", str(tmp_path)])

        assert status == 0
        assert (tmp_path / "odinw/Aquarium/train/a").read_text() == "1"
        assert not (tmp_path / "odinw/Aquarium.zip").exists()
        assert (tmp_path / "coco/annotations/lvis_od_val.json").read_text() == "{}"
        assert "2 files unpacked" in capsys.readouterr().out

    def test_what_is_there_is_not_fetched_again(self, site, tmp_path, capsys):
        arguments = ["odinw/Aquarium", "lvis_val", "--root", str(tmp_path)]
        data_tool.main(arguments)
        before = len(site.requests)

        assert data_tool.main(arguments) == 0

        assert len(site.requests) == before
        assert "already unpacked" in capsys.readouterr().out

    def test_checksums_are_recorded_and_held_against_what_is_there(self, site, tmp_path, capsys):
        arguments = ["lvis_val", "--root", str(tmp_path), "--verify"]
        data_tool.main(arguments)
        ledger = json.loads((tmp_path / ".downloads.json").read_text())
        assert ledger["coco/annotations/lvis_od_val.json"]["sha256"] == (
            hashlib.sha256(b"{}").hexdigest()
        )
        (tmp_path / "coco/annotations/lvis_od_val.json").write_text("[]")

        assert data_tool.main(arguments) == 1

        assert "is expected; remove it" in capsys.readouterr().err

    def test_a_file_that_changed_at_its_host_is_refused(self, site, tmp_path, capsys):
        data_tool.main(["lvis_val", "--root", str(tmp_path)])
        (tmp_path / "coco/annotations/lvis_od_val.json").unlink()
        site.files[f"{HUB}/lvis_od_val.json"] = b"something else"

        assert data_tool.main(["lvis_val", "--root", str(tmp_path)]) == 1
        assert "is expected" in capsys.readouterr().err

    def test_a_failure_is_told_and_the_rest_goes_on(self, site, tmp_path, capsys):
        status = data_tool.main(["lvis", "--root", str(tmp_path)])

        assert status == 1
        assert (tmp_path / "coco/annotations/lvis_od_val.json").is_file()
        error = capsys.readouterr().err
        assert "lvis_v1_minival_inserted_image_name.json: 404" in error
        assert "1 of 2 files failed" in error

    def test_a_damaged_archive_is_removed_and_the_next_try_may_succeed(self, site, tmp_path):
        good = site.files[f"{HUB}/odinw_35/Raccoon.zip"]
        site.files[f"{HUB}/odinw_35/Raccoon.zip"] = good[:50]
        arguments = ["odinw/Raccoon", "--root", str(tmp_path)]
        assert data_tool.main(arguments) == 1
        assert not (tmp_path / "odinw/Raccoon.zip").exists()

        site.files[f"{HUB}/odinw_35/Raccoon.zip"] = good

        assert data_tool.main(arguments) == 0

    def test_an_unknown_name_lists_the_nearest(self, tmp_path, capsys):
        assert data_tool.main(["odinw/Aquariom", "--root", str(tmp_path)]) == 1
        assert "nearest: odinw/Aquarium" in capsys.readouterr().err

    def test_what_must_be_fetched_by_hand_says_how(self, tmp_path, capsys):
        assert data_tool.main(["objects365", "--root", str(tmp_path)]) == 1
        assert "OpenDataLab" in capsys.readouterr().err

    def test_offline_the_error_names_host_and_place(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("GLIP_MIRROR", "http://127.0.0.1:9")

        assert data_tool.main(["lvis_val", "--root", str(tmp_path)]) == 1

        error = capsys.readouterr().err
        assert "127.0.0.1:9 cannot be reached" in error
        assert str(tmp_path / "coco/annotations/lvis_od_val.json") in error

    def test_a_mirror_may_be_named_on_the_command_line(self, site, tmp_path, monkeypatch):
        monkeypatch.delenv("GLIP_MIRROR")

        arguments = ["lvis_val", "--root", str(tmp_path), "--mirror", site.address]

        assert data_tool.main(arguments) == 0

    def test_the_list_shows_names_addresses_and_groups(self, capsys, monkeypatch):
        monkeypatch.delenv("GLIP_MIRROR", raising=False)
        assert data_tool.main(["--list"]) == 0

        output = capsys.readouterr().out
        assert "https://huggingface.co/GLIPModel/GLIP/resolve/main/odinw_35/dice.zip" in output
        assert "goldg" in output

    def test_no_name_at_all_is_an_error(self):
        assert data_tool.main([]) == 2


class TestWeights:
    def test_weights_go_to_their_folder(self, site, tmp_path):
        assert weights_tool.main(["glip_a_tiny_o365", "--root", str(tmp_path)]) == 0
        assert (tmp_path / "glip_a_tiny_o365.pth").read_bytes() == b"weights"

    def test_weights_of_known_checksum_are_checked(self, site, tmp_path, capsys):
        arguments = ["glip_tiny_model_o365_goldg", "--root", str(tmp_path)]

        assert weights_tool.main(arguments) == 1

        assert "4274770c" in capsys.readouterr().err
        assert not (tmp_path / "glip_tiny_model_o365_goldg.pth").exists()


class TestOdinw:
    def test_chosen_sets_are_unpacked_side_by_side(self, site, tmp_path):
        arguments = ["--dataset_names", "Aquarium, Raccoon", "--dataset_path", str(tmp_path)]

        assert odinw_tool.main(arguments) == 0

        assert (tmp_path / "Aquarium/b").read_text() == "2"
        assert (tmp_path / "Raccoon/a").read_text() == "3"

    def test_an_unknown_set_is_told_and_the_others_go_on(self, site, tmp_path, capsys):
        arguments = ["--dataset_names", "Raccon,Raccoon", "--dataset_path", str(tmp_path)]

        assert odinw_tool.main(arguments) == 1

        assert "dataset not found" in capsys.readouterr().err
        assert (tmp_path / "Raccoon/a").is_file()

    def test_the_name_of_the_readme_works_too(self, site, tmp_path):
        assert (
            download_datasets.main(["--dataset_names", "Raccoon", "--dataset_path", str(tmp_path)])
            == 0
        )
        assert (REPOSITORY / "odinw/download_datasets.py").is_file()


def test_the_catalogue_is_consistent():
    assert len(ODINW) == len(set(ODINW)) == 33
    assert all(name in DATA for names in DATA_GROUPS.values() for name in names)
    assert all(name in WEIGHTS for names in WEIGHT_GROUPS.values() for name in names)
    assert not set(DATA) & (set(DATA_GROUPS) | set(BY_HAND))
    files = [file for catalog in (DATA, WEIGHTS) for files in catalog.values() for file in files]
    assert all(file.url.startswith(("https://", "http://images.cocodataset.org")) for file in files)
    assert not any("/tree/" in file.url or "/blob/" in file.url for file in files)
    assert len({file.path for file in files}) == len(files)
