"""The tree stays readable: small files, each named after its idea, and a true map of them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "reformer"
SOURCES = sorted(
    path
    for folder in ("src", "tests", "benchmarks", "examples")
    for suffix in ("*.py", "*.cpp", "*.h")
    for path in (ROOT / folder).rglob(suffix)
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_no_file_or_folder_is_a_drawer() -> None:
    drawers = {"util", "utils", "common", "helper", "helpers", "misc"}
    parts = {part for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & drawers


def _mapped_files() -> list[str]:
    """The paths in ARCHITECTURE.md's tree: two spaces a level, one file or folder a line."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = re.search(r"```\nsrc/reformer/\n(.*?)```", text, re.DOTALL).group(1)
    folders, files = [], []
    for line in tree.splitlines():
        indent, names = re.match(r"( +)(\S+(?: {2}\S+\.\S+)?)", line).groups()
        folders = folders[: len(indent) // 2 - 1]
        if names.endswith("/"):
            folders.append(names)
        else:
            files += ["".join(folders) + name for name in names.split()]
    return files


def test_the_map_names_every_source_file_once() -> None:
    actual = {
        str(path.relative_to(PACKAGE))
        for suffix in ("*.py", "*.cpp", "*.h", "*.txt", "*.html", "*.js", "*.css")
        for path in PACKAGE.rglob(suffix)
        # Packages' own __init__ files hold a line about the package, which the map has already.
        if path.name != "__init__.py" or path.parent == PACKAGE
    }
    mapped = _mapped_files()
    assert len(mapped) == len(set(mapped))
    lacking, gone = sorted(actual - set(mapped)), sorted(set(mapped) - actual)
    assert not lacking, "not in ARCHITECTURE.md: " + ", ".join(lacking)
    assert not gone, "in ARCHITECTURE.md, but gone: " + ", ".join(gone)
