"""Files that survive a crash: written beside their place, flushed to the disk, then renamed."""

import os
import shutil
from pathlib import Path

TEMPORARY = ".tmp-"
"""Prefix of unfinished or discarded files and folders; anything so named may be deleted."""
_ASIDE = ".aside-"
_NEXT = ".next"


def flush(path: Path) -> None:
    """Ask the disk to hold a file's bytes, or a folder's entries, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, in a way that a crash does not undo."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file's contents: after a crash it holds the old text or the new, never a part."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def replace_files(source: Path, folder: Path) -> None:
    """Move all files of ``source``, a folder inside ``folder``, into ``folder`` at once.

    Files of the same name are replaced. After a crash, ``current_file`` finds either all of
    the old files or all of the new ones.
    """
    finish_replacing(folder)
    for path in sorted(source.iterdir()):
        flush(path)
    flush(source)
    os.rename(source, folder / _NEXT)
    flush(folder)
    finish_replacing(folder)


def finish_replacing(folder: Path) -> None:
    """Do what a crash kept ``replace_files`` from doing."""
    source = folder / _NEXT
    if not source.is_dir():
        return
    for path in sorted(source.iterdir()):
        os.replace(path, folder / path.name)
    flush(folder)
    source.rmdir()


def current_file(folder: Path, name: str) -> Path:
    """Where the file is that a folder shows under ``name``; see ``replace_files``."""
    moved = folder / _NEXT / name
    return moved if moved.is_file() else folder / name


def publish_folder(temporary: Path, final: Path) -> None:
    """Give a folder whose files are written its final name, and flush everything on the way.

    A folder that already has the name is moved aside first and deleted last; after a crash
    in between, ``restore_folders`` brings it back.
    """
    flush_folder(temporary)
    aside = final.with_name(_ASIDE + final.name)
    if final.exists():
        os.rename(final, aside)
    os.rename(temporary, final)
    flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Flush a folder's files and its entries."""
    for path in sorted(folder.iterdir()):
        flush(path)
    flush(folder)


def restore_folders(parent: Path) -> None:
    """Give folders that ``publish_folder`` moved aside, and could not replace, their names back."""
    for aside in parent.glob(_ASIDE + "*"):
        final = aside.with_name(aside.name.removeprefix(_ASIDE))
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, final)


def discard_folder(folder: Path) -> None:
    """Delete a folder; it loses its name first, so that no half of it is ever found."""
    discarded = folder.with_name(TEMPORARY + "old-" + folder.name)
    shutil.rmtree(discarded, ignore_errors=True)
    os.rename(folder, discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def clear_temporary(folder: Path) -> None:
    """Delete what a crash left unfinished in ``folder``."""
    for path in folder.glob(TEMPORARY + "*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
