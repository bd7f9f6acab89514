"""Archives unpacked where they may be, and nowhere else."""

import contextlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

from maskrcnn_benchmark.utils.download import DownloadError


class DamagedArchiveError(DownloadError):
    """An archive that is broken, or none at all."""


class _Member(NamedTuple):
    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(
    archive: str | Path,
    folder: str | Path,
    *,
    on_file: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Unpack a `.zip` or `.tar(.gz)` file; returns the files written.

    Nothing is written before all names have been checked.

    Args:
        on_file: called with the number of files done and in all.
    Raises:
        DamagedArchiveError: it is damaged or no archive.
        DownloadError: a member would land outside of the folder, is a link or a device, or the disk
            lacks room.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with _members(archive) as members:
            targets = [_target(archive, folder, member.name) for member in members]
            _check_room(archive, folder, sum(member.size for member in members))
            for number, (member, target) in enumerate(zip(members, targets), start=1):
                _write(member, target)
                on_file(number, len(members))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise DamagedArchiveError(f"{archive} is damaged or no archive ({error})") from error
    except OSError as error:
        raise DownloadError(f"could not unpack {archive}: {error}") from error
    return targets


@contextlib.contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """The files of an archive. Links and devices are refused."""
    if archive.name.endswith((".tar", ".tar.gz", ".tgz")):
        with tarfile.open(archive) as opened:
            yield [_tar_member(archive, opened, m) for m in opened.getmembers() if not m.isdir()]
        return
    with zipfile.ZipFile(archive) as opened:
        yield [_zip_member(archive, opened, i) for i in opened.infolist() if not i.is_dir()]


def _zip_member(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise DownloadError(f"{archive}: {info.filename!r} is no plain file; nothing was unpacked")
    return _Member(info.filename, info.file_size, lambda: opened.open(info))


def _tar_member(archive: Path, opened: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    if not info.isfile():
        raise DownloadError(f"{archive}: {info.name!r} is no plain file; nothing was unpacked")
    return _Member(info.name, info.size, lambda: opened.extractfile(info))


def _target(archive: Path, folder: Path, name: str) -> Path:
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = path.is_absolute() or ".." in path.parts or ".." in windows.parts
    if outside or windows.drive or windows.root or "\0" in name:
        raise DownloadError(
            f"{archive}: {name!r} would be written outside of {folder}; nothing was unpacked"
        )
    target = folder / path
    # A link that lies there already must not lead outside either.
    if not target.resolve().is_relative_to(folder.resolve()):
        raise DownloadError(f"{archive}: {name!r} leads outside of {folder}; nothing was unpacked")
    return target


def _check_room(archive: Path, folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{archive} needs {needed / 2**20:.0f} MiB unpacked, {folder} has {free / 2**20:.0f}"
        )


def _write(member: _Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        with member.open() as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
