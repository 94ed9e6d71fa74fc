"""Reading pickles that hold plain data: numbers, texts, containers and numpy arrays.

A pickle is a program for a stack machine whose GLOBAL and REDUCE opcodes can call anything.
This reader interprets the opcodes itself. It imports nothing and calls nothing that the file
names: the few names that numpy arrays need stand for functions of its own, and any other name
raises ``PickleError``.
"""

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reformer.interop.errors import ConversionError


class PickleError(ConversionError):
    """A pickle that is damaged, or that asks for more than plain data."""


class _Name(NamedTuple):
    """A global that the file names; never looked up."""

    module: str
    name: str


class _Array:
    """An array under construction: numpy makes an empty one, then sets its state."""

    value: npt.NDArray[Any]


_KINDS = "fiub"  # float, int, unsigned, bool


def read_pickle(data: bytes) -> Any:
    """The object that the pickle holds, of dicts, lists, tuples, scalars and arrays."""
    try:
        return _finished(_Machine().run(data))
    except PickleError:
        raise
    except Exception as error:
        raise PickleError(f"the pickle is damaged: {type(error).__name__}: {error}") from error


def _finished(value: Any, done: dict[int, Any] | None = None) -> Any:
    """The value with arrays in the place of their constructions; lists and dicts stay themselves.

    done: what has been finished before, by identity: shared parts cost their size once.
    """
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Name):
        raise PickleError(f"the pickle holds {value.module}.{value.name}, which is not plain data")
    result = value
    if isinstance(value, _Array):
        result = value.value
    elif isinstance(value, tuple):
        result = tuple(_finished(item, done) for item in value)
    elif isinstance(value, list):
        done[id(value)] = value
        value[:] = [_finished(item, done) for item in value]
    elif isinstance(value, dict):
        done[id(value)] = value
        for key in value:
            value[key] = _finished(value[key], done)
    if isinstance(value, (_Array, tuple, list, dict)):
        done[id(value)] = result
    return result


class _Machine:
    """The stack, the memo, and one method for each kind of opcode."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, position in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self.stack.append(argument)
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise PickleError(
                    f"the pickle uses {name} at byte {position}, which plain data does not need"
                )
        raise PickleError("the pickle ends too early")

    def items(self) -> list[Any]:
        """What was pushed since the last mark, taken off."""
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def take(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise PickleError("the pickle takes more from its stack than there is")
        found = tuple(self.stack[-count:])
        del self.stack[-count:]
        return found

    def drop(self, count: int) -> None:
        self.take(count)

    def drop_items(self) -> None:
        self.items()

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise PickleError("the pickle appends to what is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise PickleError("the pickle sets items of what is no dictionary")
        self.stack[-1].update(self.dictionary(items))

    def dictionary(self, items: list[Any]) -> dict[Any, Any]:
        """From keys and values by turns."""
        if len(items) % 2:
            raise PickleError("the pickle has a key without a value")
        return dict(zip(items[::2], items[1::2], strict=True))

    def name(self, module: Any, name: Any) -> None:
        if (module, name) not in _FUNCTIONS:
            raise PickleError(
                f"the pickle asks for {module}.{name}: only numbers, texts, containers and numpy "
                "arrays are read, and nothing is run"
            )
        self.stack.append(_Name(module, name))

    def reduce(self) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise PickleError("the pickle calls what is no function")
        self.stack.append(_FUNCTIONS[function](*arguments))

    def build(self) -> None:
        (state,) = self.take(1)
        self.stack[-1] = _with_state(self.stack[-1], state)

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])


def _make_array(kind: Any, shape: Any, type_code: Any) -> _Array:
    if not isinstance(kind, _Name) or kind.name != "ndarray":
        raise PickleError("the pickle makes an array of an unknown class")
    return _Array()


def _make_dtype(code: Any, *_: Any) -> np.dtype[Any]:
    if not isinstance(code, (str, bytes)):
        raise PickleError(f"the pickle has the number type {code!r}")
    return _checked(np.dtype(code.decode() if isinstance(code, bytes) else code))


def _checked(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in _KINDS or dtype.subdtype is not None:
        raise PickleError(f"the pickle has an array of {dtype}: only plain numbers are read")
    return dtype


def _make_scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    return np.frombuffer(data, dtype=_checked(dtype), count=1)[0]


def _make_bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise PickleError(f"the pickle encodes bytes as {encoding}")
    return text.encode("latin1")


def _from_buffer(data: Any, dtype: np.dtype[Any], shape: Any, order: str = "C") -> _Array:
    array = _Array()
    array.value = _shaped(data, dtype, shape, order == "F")
    return array


def _shaped(data: Any, dtype: Any, shape: Any, fortran: bool) -> npt.NDArray[Any]:
    if not isinstance(dtype, np.dtype) or not isinstance(data, (bytes, bytearray, str)):
        raise PickleError("the pickle has an array without plain numbers")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    flat = np.frombuffer(raw, dtype=_checked(dtype))
    return flat.reshape(tuple(shape), order="F" if fortran else "C")


def _with_state(target: Any, state: Any) -> Any:
    """What BUILD makes of an array or of a number type."""
    if isinstance(target, _Array):
        _, shape, dtype, fortran, data = state
        target.value = _shaped(data, dtype, shape, bool(fortran))
        return target
    if isinstance(target, np.dtype):
        byte_order = state[1]
        return target.newbyteorder(byte_order) if byte_order in ("<", ">") else target
    raise PickleError("the pickle sets the state of what is no array")


def _name_alone(*_: Any) -> Any:
    raise PickleError("the pickle makes an array in a way that is not known")


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _name_alone,
    ("numpy", "dtype"): _make_dtype,
    ("_codecs", "encode"): _make_bytes,
    ("__builtin__", "bytes"): lambda: b"",  # how old protocols write no bytes
    ("collections", "OrderedDict"): lambda items=(): dict(items),
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _make_array),
            ("multiarray", "scalar", _make_scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.drop(1),
    "POP_MARK": lambda m, _: m.drop_items(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "LIST": lambda m, _: m.stack.append(m.items()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.items())),
    "TUPLE1": lambda m, _: m.stack.append(m.take(1)),
    "TUPLE2": lambda m, _: m.stack.append(m.take(2)),
    "TUPLE3": lambda m, _: m.stack.append(m.take(3)),
    "DICT": lambda m, _: m.stack.append(m.dictionary(m.items())),
    "APPEND": lambda m, _: m.append(list(m.take(1))),
    "APPENDS": lambda m, _: m.append(m.items()),
    "SETITEM": lambda m, _: m.set_items(list(m.take(2))),
    "SETITEMS": lambda m, _: m.set_items(m.items()),
    "GLOBAL": lambda m, argument: m.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.take(2)),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
    "MEMOIZE": lambda m, _: m.memoize(len(m.memo)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, index: m.memoize(index)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.recall(index)),
}
