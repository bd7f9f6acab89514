"""Downloads from a server on this machine: whole, broken off, wrong, and forbidden."""

import errno
import hashlib
import os
import socket
from pathlib import Path

import pytest

from maskrcnn_benchmark.utils import download
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError
from maskrcnn_benchmark.utils.download import DownloadError, fetch, mirrored
from maskrcnn_benchmark.utils.model_zoo import cache_url
from tests.web_server import WebSite, serve

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(monkeypatch):
    for variable in ("GLIP_MIRROR", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with serve(WebSite(files={"/a.bin": CONTENT})) as served:
        yield served


def get(site, path, name="/a.bin", **options):
    return fetch(f"{site.address}{name}", path, pause=0.0, **options)


class TestWhole:
    def test_a_file_arrives_with_its_checksum(self, site, tmp_path):
        seen = []

        fetched = get(site, tmp_path / "deep/a.bin", on_bytes=lambda *n: seen.append(n))

        assert fetched.path.read_bytes() == CONTENT
        assert (fetched.sha256, fetched.size, fetched.checked) == (DIGEST, len(CONTENT), False)
        assert seen[-1] == (len(CONTENT), len(CONTENT))
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.bin"]

    def test_a_known_checksum_is_compared(self, site, tmp_path):
        assert get(site, tmp_path / "a", sha256=DIGEST).checked

        with pytest.raises(DownloadError, match=f"SHA-256 {DIGEST}, but {'0' * 64} is expected"):
            get(site, tmp_path / "b", sha256="0" * 64)
        assert [p.name for p in tmp_path.iterdir()] == ["a"]

    def test_the_checksum_that_the_hub_names_is_compared(self, site, tmp_path):
        headers = {"X-Linked-Etag": f'"{DIGEST}"'}
        site.redirects["/hub"] = (f"{site.address}/a.bin", headers)
        assert get(site, tmp_path / "a", "/hub").checked

        site.redirects["/hub"] = (f"{site.address}/a.bin", {"X-Linked-Etag": f'"{"1" * 64}"'})
        with pytest.raises(DownloadError, match="is expected"):
            get(site, tmp_path / "b", "/hub")

    def test_an_empty_file_is_a_file(self, site, tmp_path):
        site.files["/empty"] = b""

        assert get(site, tmp_path / "e", "/empty").size == 0


class TestBrokenOff:
    def test_a_broken_connection_is_continued(self, site, tmp_path):
        site.cut["/a.bin"] = [3000, 2000]

        fetched = get(site, tmp_path / "a.bin")

        assert fetched.path.read_bytes() == CONTENT
        assert [asked for _, asked in site.requests] == [None, "bytes=3000-", "bytes=5000-"]

    def test_what_an_earlier_command_left_is_continued(self, site, tmp_path):
        site.cut["/a.bin"] = [4000]
        with pytest.raises(DownloadError, match=r"4000 of 10240 bytes.*the same command"):
            get(site, tmp_path / "a.bin", attempts=1)
        assert not (tmp_path / "a.bin").exists()

        assert get(site, tmp_path / "a.bin").sha256 == DIGEST
        assert site.requests[-1] == ("/a.bin", "bytes=4000-")

    def test_a_changed_file_is_fetched_anew(self, site, tmp_path):
        site.cut["/a.bin"] = [4000]
        with pytest.raises(DownloadError):
            get(site, tmp_path / "a.bin", attempts=1)
        site.files["/a.bin"] = b"new" * 3000

        assert get(site, tmp_path / "a.bin").path.read_bytes() == b"new" * 3000

    def test_a_part_of_another_address_is_not_continued(self, site, tmp_path):
        site.files["/b.bin"] = b"b" * 9000
        site.cut["/a.bin"] = [4000]
        with pytest.raises(DownloadError):
            get(site, tmp_path / "x", attempts=1)

        assert get(site, tmp_path / "x", "/b.bin").path.read_bytes() == b"b" * 9000

    def test_a_host_that_knows_no_parts_sends_all_again(self, site, tmp_path):
        site.ranges = False
        site.cut["/a.bin"] = [4000]

        assert get(site, tmp_path / "a.bin").sha256 == DIGEST

    def test_a_part_that_is_whole_already_is_only_checked(self, site, tmp_path):
        site.cut["/a.bin"] = [4000]
        with pytest.raises(DownloadError):
            get(site, tmp_path / "a.bin", attempts=1)
        (tmp_path / "a.bin.part").write_bytes(CONTENT)

        assert get(site, tmp_path / "a.bin").sha256 == DIGEST

    def test_a_busy_host_is_asked_again(self, site, tmp_path):
        site.refusals["/a.bin"] = [503, 429]

        assert get(site, tmp_path / "a.bin").sha256 == DIGEST

    def test_a_host_that_stays_busy_is_an_error(self, site, tmp_path):
        site.refusals["/a.bin"] = [503] * 3

        with pytest.raises(DownloadError, match="the host answers 503"):
            get(site, tmp_path / "a.bin")


class TestRefused:
    @pytest.mark.parametrize(
        ("status", "message"),
        [(404, "404, there is no such file"), (401, "asks for permission"), (403, "refuses")],
    )
    def test_refusals_are_explained(self, site, tmp_path, status, message):
        site.refusals["/a.bin"] = [status]

        with pytest.raises(DownloadError, match=message):
            get(site, tmp_path / "a.bin")
        assert list(tmp_path.iterdir()) == []

    def test_a_web_page_is_not_taken_for_the_file(self, site, tmp_path):
        site.files["/GLIP/tree/main/a.zip"] = b"<html>"
        site.types["/GLIP/tree/main/a.zip"] = "text/html; charset=utf-8"

        with pytest.raises(DownloadError, match=r"web page, not the file.*resolve/main"):
            get(site, tmp_path / "a.zip", "/GLIP/tree/main/a.zip")
        assert list(tmp_path.iterdir()) == []

    def test_without_a_network_the_place_for_the_file_is_named(self, tmp_path):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{unused.getsockname()[1]}/a.bin"

        with pytest.raises(DownloadError, match=r"cannot be reached.*put the file at .*a\.bin"):
            fetch(address, tmp_path / "a.bin")

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "a.bin"])
    def test_only_web_addresses_are_fetched(self, tmp_path, url):
        with pytest.raises(DownloadError, match="is no http"):
            fetch(url, tmp_path / "a")

    def test_a_redirection_to_another_scheme_is_refused(self, site, tmp_path):
        site.redirects["/a.bin"] = ("ftp://127.0.0.1/a.bin", {})

        with pytest.raises(DownloadError, match="redirects to ftp"):
            get(site, tmp_path / "a.bin")

    def test_a_full_disk_is_named_and_what_arrived_is_kept(self, site, tmp_path, monkeypatch):
        opened = Path.open

        class Full:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *args):
                self.file.close()

            def write(self, data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def full(path, mode="r", *args, **kwargs):
            file = opened(path, mode, *args, **kwargs)
            return Full(file) if path.name.endswith(".part") and "b" in mode else file

        monkeypatch.setattr(download.Path, "open", full)

        with pytest.raises(DownloadError, match=r"could not write .*No space left.*MiB free"):
            get(site, tmp_path / "a.bin")


class TestMirror:
    @pytest.mark.parametrize("variable", ["GLIP_MIRROR", "HF_ENDPOINT"])
    def test_a_mirror_takes_the_place_of_the_hub(self, site, tmp_path, monkeypatch, variable):
        monkeypatch.setenv(variable, f"{site.address}/")
        site.files["/GLIPModel/GLIP/resolve/main/a.bin"] = CONTENT

        fetch("https://huggingface.co/GLIPModel/GLIP/resolve/main/a.bin", tmp_path / "a.bin")

        assert (tmp_path / "a.bin").read_bytes() == CONTENT
        assert mirrored("https://elsewhere.org/a") == "https://elsewhere.org/a"


class TestWeightsByAddress:
    def test_weights_are_fetched_once(self, site, tmp_path):
        name = f"net-{DIGEST[:8]}.pth"
        site.files[f"/{name}"] = CONTENT

        first = cache_url(f"{site.address}/{name}", tmp_path)
        second = cache_url(f"{site.address}/{name}", tmp_path)

        assert first == second == tmp_path / name
        assert len(site.requests) == 1

    def test_a_name_that_promises_another_hash_is_refused(self, site, tmp_path):
        site.files["/net-00000000.pth"] = CONTENT

        with pytest.raises(CheckpointError, match="its name promises 00000000"):
            cache_url(f"{site.address}/net-00000000.pth", tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_file_is_an_error_of_checkpoints(self, site, tmp_path):
        with pytest.raises(CheckpointError, match="there is no such file"):
            cache_url(f"{site.address}/gone.pth", tmp_path)
