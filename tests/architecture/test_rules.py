"""Rules that hold for every line of the source: no pickles, no global random generator."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "reformer"
SOURCES = sorted(PACKAGE.rglob("*.py"))

PICKLES = {"pickle", "dill", "joblib", "shelve", "marshal"}
GLOBAL_RANDOM = {
    "torch.manual_seed", "torch.random.manual_seed", "torch.seed", "torch.set_rng_state",
    "torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.random.fork_rng",
    "functional.dropout", "F.dropout", "nn.Dropout", "torch.nn.functional.dropout",
}  # fmt: skip
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
DRAWS |= {f"{name}_" for name in ("normal", "uniform", "bernoulli", "exponential", "random")}


# The benchmark's rivals draw from the global generator, in a process that does nothing else.
ALLOWED = {"cli/bench.py": ["torch.manual_seed"]}


def _name(node: ast.expr) -> str:
    """The dotted name of an expression such as ``torch.nn.init``, or ""."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def _only_weights(call: ast.Call) -> bool:
    return any(
        word.arg == "weights_only"
        and isinstance(word.value, ast.Constant)
        and word.value.value is True
        for word in call.keywords
    )


def _violations(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    yield from (f"import {name}" for name in _imported(tree) if name in PICKLES | {"random"})
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = _name(node.func)
        if name in GLOBAL_RANDOM or name == "torch.hub.load":
            yield name
        if name == "torch.load" and not _only_weights(node):
            yield "torch.load of more than weights"
        if name.split(".")[-1] in DRAWS and not any(
            word.arg == "generator" for word in node.keywords
        ):
            yield f"{name} without generator="


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_unpickles_or_touches_the_global_generator(path: Path) -> None:
    allowed = ALLOWED.get(path.relative_to(PACKAGE).as_posix(), [])
    assert list(_violations(path.read_text())) == allowed


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from random import choice",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.manual_seed(0)",
        "nn.Dropout(0.1)",
        "torch.randn(3)",
        "nn.init.normal_(weight)",
    ],
)
def test_the_rules_notice(line: str) -> None:
    assert len(list(_violations(line))) == 1


def test_only_one_door_reads_torch_files() -> None:
    readers = [path.name for path in SOURCES if "torch.load(" in path.read_text()]
    assert set(readers) <= {"checkpoint_files.py"}


def test_the_rules_allow_a_private_generator() -> None:
    assert list(_violations("torch.rand(3, generator=generator(seed))")) == []
