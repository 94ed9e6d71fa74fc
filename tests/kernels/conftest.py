"""The kernels of every instruction set that this processor can run, one after the other."""

import os

import pytest

from reformer.kernels.cpu import library


def _runnable(build: str) -> bool:
    # "wide" is the 64-byte vector code compiled for AVX2; see docs/kernels.md.
    needs = "avx2" if build == "wide" else build
    return library._path_of(build) is not None and library._can_run(needs)


BUILDS = [build for build in (*library.INSTRUCTION_SETS, "wide") if _runnable(build)]
if library.PATH_VARIABLE in os.environ:  # the sanitizers' library
    BUILDS = ["custom"]


@pytest.fixture(params=BUILDS or ["none"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes one build the library of the process, for one test."""
    name: str = request.param
    if name == "custom":
        return name
    path = library._path_of(name)
    if path is None:
        pytest.skip(library.description().reason)
    found = library._open(path, name, "a test asks for it")
    monkeypatch.setattr(library, "_library", lambda: found)
    return name


@pytest.fixture
def kernels() -> None:
    """Skips where there are no kernels at all."""
    if library._library().handle is None:
        pytest.skip(library.description().reason)
