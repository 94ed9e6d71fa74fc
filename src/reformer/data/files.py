"""Files as one stream of bytes: plain, .gz, .xz, .zst; files, folders and globs.

Every failure is an ``InputError`` with a sentence that names the file and what would work.
"""

import glob
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_SNIFFED = 8192
_COMPRESSED = {".gz", ".xz", ".zst"}


class InputError(ValueError):
    """Input that cannot be read or used; the message names it and what would work."""


def shipped_novel() -> Path:
    """The text of Moby-Dick that comes with the package."""
    return Path(__file__).parent / "moby_dick.txt"


def find_files(inputs: Sequence[str | Path]) -> list[Path]:
    """Paths, folders and globs as a list of regular files, in a fixed order.

    A folder stands for the text files below it (hidden ones and binary ones are left out);
    a glob for the files that it matches; a file for itself, whatever it holds.
    """
    return [file for item in inputs for file in _files_of(str(item))]


def find_files_like(
    inputs: Sequence[str | Path], is_wanted: Callable[[Path], bool], wanted: str
) -> list[Path]:
    """The same, but a folder stands for the files below it with ``is_wanted(path in it)``.

    wanted: what they hold, for the error when a folder has none.
    """
    return [file for item in inputs for file in _files_like(item, is_wanted, wanted)]


def _files_like(item: str | Path, is_wanted: Callable[[Path], bool], wanted: str) -> list[Path]:
    folder = Path(item)
    if not folder.is_dir():
        return find_files([item])
    files = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if not hidden and path.is_file() and is_wanted(inside):
            files.append(path)
    if not files:
        raise InputError(f"the folder {folder} holds no {wanted}")
    return files


def ending_of(file: Path) -> str:
    """The last ending of a file's name, but that of its compression."""
    return Path(file.stem).suffix if file.suffix in _COMPRESSED else file.suffix


def _files_of(item: str) -> list[Path]:
    path = Path(item)
    if path.is_dir():
        return _files_below(path)
    if path.is_file():
        return [path]
    if path.exists():
        raise InputError(f"{item} is not a regular file: name a file, a folder or a glob")
    if glob.has_magic(item):
        files = sorted(Path(match) for match in glob.glob(item, recursive=True))
        files = [file for file in files if file.is_file()]
        if not files:
            raise InputError(f"no file matches {item}")
        return files
    raise InputError(f"there is no file or folder {item}")


def _files_below(folder: Path) -> list[Path]:
    files = []
    for parent, folders, names in os.walk(folder, onerror=_raise_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        files += [path for path in paths if path.is_file() and _looks_like_text(path)]
    if not files:
        raise InputError(
            f"the folder {folder} holds no text: name binary files one by one or with a glob"
        )
    return files


def _raise_unreadable(error: OSError) -> None:
    raise InputError(f"cannot read {error.filename}: {error.strerror}") from error


def _looks_like_text(path: Path) -> bool:
    start = next(read_file(path, chunk_size=_SNIFFED), b"")
    return len(start) > 0 and b"\0" not in start


def read_files(files: Iterable[Path], chunk_size: int = 1 << 20) -> Iterator[bytes]:
    """The files' bytes, end to end, in chunks of at most ``chunk_size``; never a whole file."""
    for file in files:
        yield from read_file(file, chunk_size)


def read_file(path: Path, chunk_size: int = 1 << 20) -> Iterator[bytes]:
    """One file's bytes, decompressed if its name ends in .gz, .xz or .zst."""
    try:
        with _open(path) as stream:
            while chunk := stream.read(chunk_size):
                yield chunk
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {path}: {reason}") from error
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path} is damaged or not {path.suffix} data: {error}") from error


def _open(path: Path) -> IO[bytes] | Any:
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".zst":
        return _open_zstandard(path)
    return open(path, "rb")


def _open_zstandard(path: Path) -> "_ZstandardFile":
    try:
        import zstandard  # noqa: F401
    except ImportError as error:
        raise InputError(f"{path} needs the zstandard package: pip install zstandard") from error
    return _ZstandardFile(path)


class _ZstandardFile:
    """A .zst file opened for reading; what is wrong with it is an EOFError, as with gzip.

    The package's own reader takes a truncated file for a finished one, so frames are decoded
    one by one, and from small pieces: a few bytes can stand for very many.
    """

    _PIECE = 1024

    def __init__(self, path: Path) -> None:
        self._raw = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        self._chunks = self._decompressed()
        self._left = b""

    def __enter__(self) -> "_ZstandardFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def read(self, size: int) -> bytes:
        parts, wanted = [self._left], size - len(self._left)
        while wanted > 0 and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            wanted -= len(chunk)
        data = b"".join(parts)
        self._left = data[size:]
        return data[:size]

    def _decompressed(self) -> Iterator[bytes]:
        import zstandard

        frame = zstandard.ZstdDecompressor().decompressobj()
        inside = True
        while piece := self._raw.read(self._PIECE):
            while piece:
                try:
                    chunk = frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise EOFError(str(error)) from error
                if chunk:
                    yield chunk
                inside, piece = not frame.eof, frame.unused_data
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
        if inside:
            raise EOFError("it ends too early")


def count_bytes(files: Iterable[Path]) -> int:
    """How many bytes ``read_files`` yields; an InputError when there are none."""
    files = list(files)
    total = sum(len(chunk) for chunk in read_files(files))
    if total == 0:
        names = ", ".join(str(file) for file in files[:3])
        raise InputError(f"{names} holds no bytes: name a file with text in it")
    return total
