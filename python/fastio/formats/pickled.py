"""A restricted unpickler: plain values and containers, and what a caller allows by name.

https://docs.python.org/3/library/pickletools.html has the opcodes. Nothing of a pickle is called or
imported: a global that is not in the caller's table is refused by its name. Instances get no state.
Indexes of the memo take no memory, and each number has a bounded length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastio.display.values import shown
from fastio.errors import FormatError

Globals = Mapping[tuple[str, str], Any]
"""What stands for a global, by module and name: a `Callee`, or any value."""

_INT_BYTES_MAX = 16
_KEYS = (str, int, float, bytes, type(None))
_MARK = object()  # of the stack; a caller refuses a value that holds it


class Callee:
    """A global that a pickle may call.

    Parameters
    ----------
    call : callable
        Takes the arguments of the pickle, whatever they are. What it raises is a refusal.
    """

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


class Unpickler:
    """A pickle in memory, which is read once.

    Parameters
    ----------
    data : bytes
    path : str
        For messages.
    at : int
        Where in the file the data begin, for messages.
    allowed : mapping
    persistent : callable
        Given the id of something that lies outside the pickle, returns what stands for it.
    """

    def __init__(
        self,
        data: bytes,
        path: str,
        at: int,
        allowed: Globals,
        persistent: Callable[[Any], Any],
    ) -> None:
        self._data = data
        self._path = path
        self._begin = at
        self._allowed = allowed
        self.persistent = persistent
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Return the value of the pickle that begins at `at`, which is moved behind it.

        Raises
        ------
        FormatError
            If the pickle is cut off or damaged, or asks for what is not allowed: the global's name.
        """
        self.stack, self.memo = [], {}
        data, opcodes = self._data, _OPCODES
        opcode_at = self.at
        try:
            while True:
                opcode_at = self.at
                opcode = data[opcode_at]
                self.at = opcode_at + 1
                if opcode == _STOP:
                    (value,) = self.stack
                    return value
                opcodes[opcode](self)
        except FormatError:
            raise
        except KeyError as error:
            problem = f"has a pickle with the opcode {data[opcode_at]:#04x} or a value it lacks"
            raise self._error(problem, opcode_at) from error
        except RecursionError as error:
            raise self._error("has a pickle that nests too deeply", opcode_at) from error
        except (IndexError, ValueError, TypeError, AttributeError, struct.error) as error:
            problem = f"has a pickle that is damaged or cut off: {shown(str(error))}"
            raise self._error(problem, opcode_at) from error

    def _error(self, problem: str, at: int) -> FormatError:
        expected = "a pickle of tensors and plain containers"
        return FormatError(self._path, problem, offset=self._begin + at, expected=expected)

    # ---- for the opcodes

    def take(self, count: int) -> bytes:
        """Return the next bytes of the pickle."""
        begin, end = self.at, self.at + count
        if end > len(self._data):
            raise IndexError("it ends within a value")
        self.at = end
        return self._data[begin:end]

    def number(self, count: int) -> int:
        """Return the next number, of so many bytes."""
        return int.from_bytes(self.take(count), "little")

    def line(self) -> str:
        """Return the next line, without its end."""
        end = self._data.index(b"\n", self.at)
        line = self._data[self.at : end]
        self.at = end + 1
        return line.decode()

    def marked(self) -> list[Any]:
        """Return what lies above the last mark, which goes with it."""
        stack = self.stack
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        found = stack[at + 1 :]
        del stack[at:]
        return found

    def found(self, module: str, name: str) -> Any:
        """Return what stands for a global; refuse one that is not allowed."""
        found = self._allowed.get((module, name), _MARK)
        if found is not _MARK:
            return found
        raise FormatError(
            self._path,
            f"has a pickle that asks for {shown(f'{module}.{name}')}, which was not run",
            offset=self._begin + self.at,
            expected="tensors and plain containers alone",
        )


# ---- opcodes


def _skip(u: Unpickler, count: int) -> None:
    u.take(count)


def _push_int(u: Unpickler, count: int) -> None:
    data = u.take(count)
    u.stack.append(int.from_bytes(data, "little", signed=count == 4))


def _push_long(u: Unpickler, count: int) -> None:
    nbytes = u.number(count)
    if nbytes > _INT_BYTES_MAX:
        raise ValueError(f"a number of {nbytes} bytes")
    u.stack.append(int.from_bytes(u.take(nbytes), "little", signed=True))


def _push_float(u: Unpickler) -> None:
    u.stack.append(struct.unpack(">d", u.take(8))[0])


def _push_text(u: Unpickler, count: int) -> None:
    u.stack.append(u.take(u.number(count)).decode(errors="surrogatepass"))


def _push_latin(u: Unpickler, count: int) -> None:
    u.stack.append(u.take(u.number(count)).decode("latin1"))


def _push_bytes(u: Unpickler, count: int) -> None:
    u.stack.append(u.take(u.number(count)))


def _tuple_of(u: Unpickler, count: int) -> None:
    items = u.stack[-count:]
    if len(items) < count:
        raise IndexError("too little on the stack")
    u.stack[-count:] = [tuple(items)]


def _make(u: Unpickler, kind: Callable[[list[Any]], Any]) -> None:
    u.stack.append(kind(u.marked()))


def _append(u: Unpickler) -> None:
    value = u.stack.pop()
    _checked(u.stack[-1], list).append(value)


def _appends(u: Unpickler) -> None:
    values = u.marked()
    _checked(u.stack[-1], list).extend(values)


def _add_items(u: Unpickler) -> None:
    values = u.marked()
    _checked(u.stack[-1], set).update(map(_key, values))


def _set_item(u: Unpickler) -> None:
    value, key = u.stack.pop(), u.stack.pop()
    _checked(u.stack[-1], dict)[_key(key)] = value


def _set_items(u: Unpickler) -> None:
    values = u.marked()
    _checked(u.stack[-1], dict).update(_pairs(values))


def _pop(u: Unpickler) -> None:
    u.stack.pop()


def _pop_mark(u: Unpickler) -> None:
    u.marked()


def _dup(u: Unpickler) -> None:
    u.stack.append(u.stack[-1])


def _put(u: Unpickler, count: int) -> None:
    u.memo[u.number(count)] = u.stack[-1]


def _memoize(u: Unpickler) -> None:
    u.memo[len(u.memo)] = u.stack[-1]


def _get(u: Unpickler, count: int) -> None:
    u.stack.append(u.memo[u.number(count)])


def _global(u: Unpickler) -> None:
    u.stack.append(u.found(u.line(), u.line()))


def _stack_global(u: Unpickler) -> None:
    name, module = u.stack.pop(), u.stack.pop()
    u.stack.append(u.found(_checked(module, str), _checked(name, str)))


def _call(u: Unpickler) -> None:
    arguments, callee = u.stack.pop(), u.stack.pop()
    if not isinstance(callee, Callee):
        raise TypeError(f"a call of {type(callee).__name__}")
    u.stack.append(callee.call(*_checked(arguments, tuple)))


def _drop_state(u: Unpickler) -> None:
    """State of an instance: the `_metadata` of a dict of tensors, say. It is left out."""
    instance, _ = u.stack[-2:]
    u.stack[-2:] = [instance]


def _persistent_id(u: Unpickler) -> None:
    u.stack.append(u.persistent(u.stack.pop()))


def _checked(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} is at the wrong place")
    return value


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(_key, values[::2]), values[1::2], strict=True))


def _key(value: Any) -> Any:
    """A key or a member of a set. The hash of deeply nested tuples would overflow the stack."""
    if isinstance(value, tuple):
        return tuple(_checked(item, _KEYS) for item in value)
    return _checked(value, _KEYS)


def pairs_of(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    """Return a dict of pairs, as a pickle asks for one."""
    return {_key(key): value for key, value in pairs}


def set_of(values: Iterable[Any] = ()) -> set[Any]:
    """Return a set of values, as a pickle asks for one."""
    return set(map(_key, values))


def _with(method: Callable[..., None], *arguments: Any) -> Callable[[Unpickler], None]:
    return lambda unpickler: method(unpickler, *arguments)


_STOP = ord(".")
_OPCODES: dict[int, Callable[[Unpickler], None]] = {
    0x80: _with(_skip, 1),  # PROTO
    0x95: _with(_skip, 8),  # FRAME
    ord("("): lambda u: u.stack.append(_MARK),
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): _dup,
    ord("N"): lambda u: u.stack.append(None),
    0x88: lambda u: u.stack.append(True),
    0x89: lambda u: u.stack.append(False),
    ord("J"): _with(_push_int, 4),
    ord("K"): _with(_push_int, 1),
    ord("M"): _with(_push_int, 2),
    0x8A: _with(_push_long, 1),
    0x8B: _with(_push_long, 4),
    ord("G"): _push_float,
    ord("X"): _with(_push_text, 4),
    0x8C: _with(_push_text, 1),
    0x8D: _with(_push_text, 8),
    ord("U"): _with(_push_latin, 1),  # of Python 2
    ord("T"): _with(_push_latin, 4),
    ord("B"): _with(_push_bytes, 4),
    ord("C"): _with(_push_bytes, 1),
    0x8E: _with(_push_bytes, 8),
    0x96: _with(_push_bytes, 8),
    ord("]"): lambda u: u.stack.append([]),
    ord(")"): lambda u: u.stack.append(()),
    ord("}"): lambda u: u.stack.append({}),
    0x8F: lambda u: u.stack.append(set()),
    ord("l"): _with(_make, list),
    ord("t"): _with(_make, tuple),
    ord("d"): _with(_make, _pairs),
    0x91: _with(_make, lambda values: frozenset(map(_key, values))),
    0x85: _with(_tuple_of, 1),
    0x86: _with(_tuple_of, 2),
    0x87: _with(_tuple_of, 3),
    ord("a"): _append,
    ord("e"): _appends,
    0x90: _add_items,
    ord("s"): _set_item,
    ord("u"): _set_items,
    ord("q"): _with(_put, 1),
    ord("r"): _with(_put, 4),
    0x94: _memoize,
    ord("h"): _with(_get, 1),
    ord("j"): _with(_get, 4),
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _call,
    0x81: _call,  # NEWOBJ: of a class, which a table has as a callee, too
    ord("b"): _drop_state,
    ord("Q"): _persistent_id,
}
