"""Archives, good and bad."""

import io
import shutil
import tarfile
import zipfile
from collections import namedtuple

import pytest

from maskrcnn_benchmark.utils.download import DownloadError
from maskrcnn_benchmark.utils.unpack import DamagedArchiveError, unpack


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_zip_is_unpacked_with_its_folders(tmp_path):
    archive = make_zip(
        tmp_path / "a.zip", {"set/train/a.jpg": b"1", "set/b.json": b"{}", "e/": b""}
    )
    seen = []

    written = unpack(archive, tmp_path / "out", on_file=lambda *n: seen.append(n))

    assert written == [tmp_path / "out/set/train/a.jpg", tmp_path / "out/set/b.json"]
    assert (tmp_path / "out/set/train/a.jpg").read_bytes() == b"1"
    assert seen == [(1, 2), (2, 2)]


def test_a_tar_is_unpacked(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", [(tarfile.TarInfo("x/a.json"), b"{}")])

    assert unpack(archive, tmp_path / "out") == [tmp_path / "out/x/a.json"]


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil", "\\evil"]
)
def test_members_that_escape_are_refused_before_anything_is_written(tmp_path, name):
    archive = make_zip(tmp_path / "a.zip", {"good": b"1", name: b"2"})

    with pytest.raises(DownloadError, match=r"outside of .*nothing was unpacked"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil").exists()


def test_links_in_archives_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    make_tar(tmp_path / "a.tar.gz", [(link, b"")])

    for archive in ("a.zip", "a.tar.gz"):
        with pytest.raises(DownloadError, match="'link' is no plain file"):
            unpack(tmp_path / archive, tmp_path / "out")


def test_a_link_that_lies_in_the_folder_is_not_followed_outside(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"set/a": b"1"})
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/set").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DownloadError, match="leads outside"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("content", [b"<html>not a zip</html>", b""])
def test_what_is_no_archive_is_named(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)

    with pytest.raises(DamagedArchiveError, match=r"a\.zip is damaged or no archive"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_damaged_member_is_found(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a": b"content " * 99})
    data = bytearray(archive.read_bytes())
    data[60] ^= 255
    archive.write_bytes(data)

    with pytest.raises(DamagedArchiveError, match="Bad CRC"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_without_room_is_found_before_anything_is_written(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"a": b"1" * 5000})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 100))

    with pytest.raises(DownloadError, match=r"needs 0 MiB unpacked, .* has 0"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
