"""Files from the web: continued where they broke off, checked, and under their name only when whole."""

import contextlib
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from maskrcnn_benchmark.errors import UserError

logger = logging.getLogger(__name__)

MIRROR_VARIABLES = ("GLIP_MIRROR", "HF_ENDPOINT")
HUB = "https://huggingface.co"
PART_SUFFIX = ".part"
_BLOCK = 1 << 20
_TIMEOUT = 60
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORTH_ANOTHER_TRY = (429, 500, 502, 503, 504)


class DownloadError(UserError, RuntimeError):
    """A file cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Fetched:
    """A file that is there.

    Attributes:
        path: where.
        sha256: of its content.
        size: bytes.
        checked: the checksum was compared with one known before or named by the host.
    """

    path: Path
    sha256: str
    size: int
    checked: bool


def mirrored(url: str) -> str:
    """The address with the Hugging Face hub replaced by the mirror of the environment.

    GLIP_MIRROR (or HF_ENDPOINT) names it, as in `https://hf-mirror.com`.
    """
    for variable in MIRROR_VARIABLES:
        mirror = os.environ.get(variable, "").rstrip("/")
        if mirror and url.startswith(f"{HUB}/"):
            return mirror + url.removeprefix(HUB)
    return url


def fetch(
    url: str,
    path: str | os.PathLike,
    *,
    sha256: str | None = None,
    attempts: int = 3,
    pause: float = 2.0,
    on_bytes: Callable[[int, int | None], None] = lambda done, total: None,
) -> Fetched:
    """Download a file.

    What arrived of an earlier, broken download (`<path>.part`) is continued if the host still has
    the same file. The checksum is compared with `sha256`, else with the one that the hub names.

    Args:
        url: `http(s)` address; the hub's may be redirected to a mirror, see `mirrored`.
        path: where to; folders are made.
        attempts: tries, for connections that break and hosts that are busy.
        pause: seconds before the second try; doubled with each.
        on_bytes: called with the bytes that are there and the total, where it is known.
    Raises:
        DownloadError: no network, no such file, a web page instead of a file, a wrong checksum, or
            a full disk.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is no http(s) address")
    transfer = _Transfer(mirrored(url), Path(path), on_bytes)
    for attempt in range(1, attempts + 1):
        try:
            transfer.run()
            break
        except _BrokenOffError as error:
            if attempt == attempts:
                raise DownloadError(
                    f"{transfer.url}: {error}. What arrived stays in {transfer.part}; the same "
                    "command continues it."
                ) from error
            logger.warning("%s: %s; trying again", transfer.url, error)
            time.sleep(pause * 2 ** (attempt - 1))
    return transfer.finish(sha256)


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file, hexadecimal."""
    hasher = hashlib.sha256()
    with Path(path).open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            hasher.update(block)
    return hasher.hexdigest()


class _BrokenOffError(Exception):
    """A transfer that may succeed when it is tried again."""


class _Transfer:
    """One file on its way; `run` may be called again after it broke off."""

    def __init__(self, url: str, path: Path, on_bytes: Callable[[int, int | None], None]):
        self.url, self.path, self.on_bytes = url, path, on_bytes
        self.part = path.with_name(path.name + PART_SUFFIX)
        self._note = path.with_name(path.name + PART_SUFFIX + ".json")
        self._promised: str | None = None
        self._total: int | None = None

    def run(self) -> None:
        """Fetch what is missing."""
        with self._disk_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            have = self.part.stat().st_size if self.part.is_file() else 0
        tag = self._read_note() if have else None
        if tag is None:
            have = 0
        headers = {"User-Agent": "glip-download"}
        if have:
            # The host sends the rest only if the file is still the same, else all of it.
            headers |= {"Range": f"bytes={have}-", "If-Range": tag}
        redirects = _Redirects()
        try:
            opener = urllib.request.build_opener(redirects)
            request = urllib.request.Request(self.url, headers=headers)
            with opener.open(request, timeout=_TIMEOUT) as response:
                self._receive(response, redirects.seen, have)
        except urllib.error.HTTPError as error:
            self._explain(error, have)
        except urllib.error.URLError as error:
            raise DownloadError(
                f"{urlsplit(self.url).netloc} cannot be reached ({error.reason}). Without a "
                f"network, put the file at {self.path}; a mirror of the hub is named by the "
                f"environment variable {MIRROR_VARIABLES[0]}."
            ) from error
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise _BrokenOffError(f"the connection broke off ({error!r})") from error

    def finish(self, expected: str | None) -> Fetched:
        """Check the content and give the file its name."""
        digest, size = sha256_of(self.part), self.part.stat().st_size
        wanted = expected or self._promised
        if wanted is not None and digest != wanted:
            self.part.unlink()
            self._note.unlink(missing_ok=True)
            raise DownloadError(
                f"{self.url} arrived with SHA-256 {digest}, but {wanted} is expected; it was "
                "removed. Try again, or another mirror."
            )
        with self._disk_errors():
            self.part.replace(self.path)
        self._note.unlink(missing_ok=True)
        return Fetched(self.path, digest, size, wanted is not None)

    def _receive(self, response: Any, redirected: list[Message], have: int) -> None:
        headers = response.headers
        continued = response.status == 206
        begin = have if continued else 0
        if "text/html" in headers.get("Content-Type", "") and self.path.suffix != ".html":
            raise DownloadError(
                f"{self.url} gives a web page, not the file. Addresses of the hub need the form "
                ".../resolve/main/..."
            )
        self._read_promises([*redirected, headers])
        length = headers.get("Content-Length")
        self._total = None if length is None else begin + int(length)
        with self._disk_errors():
            file = self.part.open("ab" if continued else "wb")
        with file:
            if not continued:
                self._write_note(headers)
            done = begin
            while block := response.read(_BLOCK):
                with self._disk_errors():
                    file.write(block)
                    file.flush()  # so that closing has nothing left to fail with
                done += len(block)
                self.on_bytes(done, self._total)
        if self._total is not None and done < self._total:
            raise _BrokenOffError(f"it broke off after {done} of {self._total} bytes")

    def _read_promises(self, headers: list[Message]) -> None:
        # The hub names the checksum of large files in the answer that redirects to their store.
        for one in headers:
            tag = one.get("X-Linked-Etag", "").strip('W/"')
            if _SHA256.fullmatch(tag):
                self._promised = tag

    def _explain(self, error: urllib.error.HTTPError, have: int) -> None:
        if error.code == 416 and have:
            # Nothing is missing, or the file has shrunk: the checksum decides, or a new start.
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(have):
                return
            self.part.unlink()
            raise _BrokenOffError("the file has changed") from error
        if error.code in _WORTH_ANOTHER_TRY:
            raise _BrokenOffError(f"the host answers {error.code} {error.reason}") from error
        reasons = {
            401: "the host asks for permission",
            403: "the host refuses access",
            404: "there is no such file (it may have moved)",
        }
        reason = reasons.get(error.code, "the host refuses")
        raise DownloadError(
            f"{self.url}: {error.code}, {reason}. Got elsewhere, put the file at {self.path}."
        ) from error

    def _write_note(self, headers: Message) -> None:
        tag = headers.get("ETag")
        # A weak tag does not promise the same bytes.
        if tag is None or tag.startswith("W/"):
            tag = headers.get("Last-Modified")
        self._note.unlink(missing_ok=True)
        if tag is not None:
            with self._disk_errors():
                self._note.write_text(json.dumps({"url": self.url, "tag": tag}))

    def _read_note(self) -> str | None:
        try:
            note = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return None
        return note.get("tag") if note.get("url") == self.url else None

    @contextlib.contextmanager
    def _disk_errors(self):
        try:
            yield
        except OSError as error:
            free = ""
            with contextlib.suppress(OSError):
                free = f" ({shutil.disk_usage(self.path.parent).free / 2**20:.0f} MiB free)"
            raise DownloadError(f"could not write {self.path}: {error}{free}") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections and keeps the headers of the answers that name them."""

    def __init__(self) -> None:
        self.seen: list[Message] = []

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        self.seen.append(headers)
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise DownloadError(f"{req.full_url} redirects to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
