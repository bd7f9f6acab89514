"""What the download tools share: names in, files out, a ledger of checksums beside them."""

import argparse
import difflib
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.utils.checkpoint_files import write_atomically
from maskrcnn_benchmark.utils.download import (
    MIRROR_VARIABLES,
    DownloadError,
    fetch,
    mirrored,
    sha256_of,
)
from maskrcnn_benchmark.utils.download_catalog import Catalog, RemoteFile
from maskrcnn_benchmark.utils.progress import ProgressLine
from maskrcnn_benchmark.utils.unpack import DamagedArchiveError, unpack

LEDGER = ".downloads.json"


class Ledger:
    """Size and checksum of what was downloaded into a folder, and which archives were unpacked.

    A checksum that nobody published is recorded at the first download; later ones must agree.
    """

    def __init__(self, root: Path):
        self.path = root / LEDGER
        self._entries: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                self._entries = json.loads(self.path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DownloadError(
                    f"{self.path} is damaged ({error}); delete it to start a new one"
                ) from error

    def get(self, path: str) -> dict[str, Any]:
        """What is known of a file; empty if nothing."""
        return self._entries.get(path, {})

    def put(self, path: str, **facts: Any) -> None:
        """Remember facts about a file."""
        self._entries[path] = {**self.get(path), **facts}
        self._save()

    def forget(self, path: str) -> None:
        """Drop what is known of a file."""
        self._entries.pop(path, None)
        self._save()

    def _save(self) -> None:
        text = json.dumps(self._entries, indent=1, sort_keys=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda file: file.write(text.encode()))


def obtain(
    file: RemoteFile, root: Path, *, keep_archive: bool = False, verify: bool = False
) -> str:
    """Have a file of the catalogue in its place; returns what was done, in words.

    Args:
        root: folder that paths are relative to.
        keep_archive: do not delete an archive that was unpacked.
        verify: compare the checksum of a file that is there already.
    Raises:
        DownloadError: it cannot be had, or what is there is not what was downloaded.
    """
    ledger = Ledger(root)
    known = ledger.get(file.path)
    path = root / file.path
    if file.unpack_to is not None and known.get("unpacked") and not path.is_file():
        return f"{file.path}: already unpacked in {root / file.unpack_to}"
    expected = file.sha256 or known.get("sha256")
    if path.is_file():
        done = _check_present(path, expected if verify else None, known.get("size"))
    else:
        progress = ProgressLine(f"  {path.name}", None, "MB")
        fetched = fetch(
            file.url, path, sha256=expected, on_bytes=lambda n, total: _show(progress, n, total)
        )
        progress.close()
        ledger.put(file.path, url=mirrored(file.url), sha256=fetched.sha256, size=fetched.size)
        state = "checked" if fetched.checked else "recorded"
        done = f"{path}: {fetched.size} bytes, SHA-256 {fetched.sha256} ({state})"
    if file.unpack_to is None:
        return done
    try:
        written = unpack(path, root / file.unpack_to)
    except DamagedArchiveError as error:
        # Its checksum must not be held against the next download.
        path.unlink()
        ledger.forget(file.path)
        raise DamagedArchiveError(f"{error}; it was removed, try again") from error
    ledger.put(file.path, unpacked=True)
    if not keep_archive:
        path.unlink()
    return f"{done}; {len(written)} files unpacked in {root / file.unpack_to}"


def resolve_names(
    names: Iterable[str], catalog: Catalog, groups: Mapping[str, Sequence[str]]
) -> list[str]:
    """Names of the catalogue that names and groups stand for, each once, in order.

    Raises:
        DownloadError: a name is unknown; the nearest are listed.
    """
    found: dict[str, None] = {}
    for name in names:
        if name not in catalog and name not in groups:
            close = difflib.get_close_matches(name, [*catalog, *groups], n=3)
            hint = f"; nearest: {', '.join(close)}" if close else ""
            raise DownloadError(f"unknown name {name!r}{hint}. --list shows all.")
        found |= dict.fromkeys(groups.get(name, (name,)))
    return list(found)


def run_download_tool(
    description: str,
    catalog: Catalog,
    groups: Mapping[str, Sequence[str]],
    root: str,
    arguments: list[str] | None = None,
    by_hand: Mapping[str, str] | None = None,
) -> int:
    """The command line of a download tool; returns the exit status: 1 if anything failed.

    Args:
        root: default folder.
        by_hand: names that must be fetched by hand, with what to do.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="what to download; --list shows the names")
    parser.add_argument("--list", action="store_true", help="show names and addresses")
    parser.add_argument("--root", type=Path, default=Path(root), help="folder to download to")
    parser.add_argument("--mirror", help=f"mirror of the hub; else ${MIRROR_VARIABLES[0]}")
    parser.add_argument("--verify", action="store_true", help="check files that are there already")
    parser.add_argument("--keep-archives", action="store_true", help="keep what was unpacked")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.mirror:
        os.environ[MIRROR_VARIABLES[0]] = args.mirror
    by_hand = by_hand or {}
    if args.list or not args.names:
        _list(catalog, groups, by_hand)
        return 0 if args.list else 2
    manual = [name for name in args.names if name in by_hand]
    for name in manual:
        print(f"{name} cannot be downloaded: {by_hand[name]}", file=sys.stderr)
    try:
        names = resolve_names([n for n in args.names if n not in manual], catalog, groups)
    except DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    files = [file for name in names for file in catalog[name]]
    failed = download_all(files, args.root, keep=args.keep_archives, verify=args.verify)
    return 1 if failed or manual else 0


def download_all(
    files: Sequence[RemoteFile], root: Path, *, keep: bool = False, verify: bool = False
) -> int:
    """Have all files, going on after failures, which are counted and told; returns their number."""
    failed = 0
    for number, file in enumerate(files, start=1):
        print(f"[{number}/{len(files)}] {mirrored(file.url)}", flush=True)
        try:
            print(f"  {obtain(file, root, keep_archive=keep, verify=verify)}", flush=True)
        except DownloadError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(files)} files failed", file=sys.stderr)
    return failed


def _check_present(path: Path, expected: str | None, size: int | None) -> str:
    if size is not None and path.stat().st_size != size:
        raise DownloadError(
            f"{path} has {path.stat().st_size} bytes, but {size} were downloaded; remove it to "
            "download it again"
        )
    if expected is None:
        return f"{path}: already there"
    digest = sha256_of(path)
    if digest != expected:
        raise DownloadError(f"{path} has SHA-256 {digest}, but {expected} is expected; remove it")
    return f"{path}: already there, SHA-256 checked"


def _show(progress: ProgressLine, done: int, total: int | None) -> None:
    progress.total = None if total is None else total >> 20
    progress.update(done >> 20)


def _list(
    catalog: Catalog, groups: Mapping[str, Sequence[str]], by_hand: Mapping[str, str]
) -> None:
    for name, files in catalog.items():
        for file in files:
            print(f"{name:45s} {mirrored(file.url)} -> {file.unpack_to or file.path}")
    for name, members in groups.items():
        print(f"{name:45s} = {' '.join(members)}")
    for name, what in by_hand.items():
        print(f"{name:45s} by hand: {what}")
