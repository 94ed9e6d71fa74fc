"""Files that survive a crash: written beside their place, flushed to the disk, then renamed."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

TEMPORARY = ".tmp-"
"""Prefix of unfinished or discarded files and folders; anything so named may be deleted."""
_ASIDE = ".aside-"


def flush(path: Path) -> None:
    """Ask the disk to hold a file's bytes, or a folder's entries, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file's contents: after a crash it holds the old text or the new, never a part."""
    temporary = path.with_name(TEMPORARY + path.name)
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    flush(path.parent)


def write_files(folder: Path, files: Mapping[str, Path]) -> None:
    """Move finished files into ``folder`` under the given names, each flushed first."""
    for source in files.values():
        flush(source)
    for name, source in files.items():
        os.replace(source, folder / name)
    flush(folder)


def publish_folder(temporary: Path, final: Path) -> None:
    """Give a folder whose files are written its final name, and flush everything on the way.

    A folder that already has the name is moved aside first and deleted last; after a crash
    in between, ``restore_folders`` brings it back.
    """
    for path in sorted(temporary.iterdir()):
        flush(path)
    flush(temporary)
    aside = final.with_name(_ASIDE + final.name)
    if final.exists():
        os.rename(final, aside)
    os.rename(temporary, final)
    flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


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
