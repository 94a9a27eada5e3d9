"""The small files of a store, as bytes: identities, commit records, promises.

Each is canonical JSON (sorted keys, no spaces, ASCII) on one line, with its own SHA-256 as the last
member. A text that differs in any byte from the canonical one of its values is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats import strict_json

ROOTS_MAX = 64
DOCUMENT_BYTES_MAX = 4096
_VERSION = 1
_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"}\n')
_SEAL_BYTES = len(',"sha256":""}\n') + 64
_UUID = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_GENERATION_MAX = 2**63

_Document = TypeVar("_Document", bound="_Sealed")


class _Sealed:
    """What the documents share. `kind` is their first word on what they are."""

    kind: ClassVar[str]

    def encode(self) -> bytes:
        """Return the file."""
        members = {**self._members(), "format": self.kind, "version": _VERSION}
        text = canonical(members)
        digest = hashlib.sha256(text).hexdigest()
        return text[:-1] + f',"sha256":"{digest}"}}\n'.encode()

    def _members(self) -> dict[str, Any]:
        members: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return members

    @classmethod
    def decode(cls: type[_Document], data: bytes, path: str) -> _Document:
        """Read one.

        Raises
        ------
        FormatError
            If it is not as `encode` wrote it, or of a version that is not known.
        """
        members = _unsealed(data, path)
        kind, version = members.pop("format", None), members.pop("version", None)
        if kind != cls.kind:
            raise FormatError(path, f"says it is {shown(kind)}", expected=repr(cls.kind))
        if version != _VERSION:
            raise FormatError(
                path,
                f"is of version {shown(version)}",
                expected=f"{_VERSION}, or a newer fastio, which may have written it",
            )
        return cls._checked(members, path)

    @classmethod
    def _checked(cls: type[_Document], members: dict[str, Any], path: str) -> _Document:
        raise NotImplementedError


def canonical(value: Any) -> bytes:
    """Return the one JSON text of a value.

    Raises
    ------
    TypeError, ValueError
        What JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _unsealed(data: bytes, path: str) -> dict[str, Any]:
    """The members of a sealed text."""
    if len(data) > DOCUMENT_BYTES_MAX:
        raise FormatError(path, f"has {len(data)} bytes", expected=f"at most {DOCUMENT_BYTES_MAX}")
    seal = _SEAL.fullmatch(data[-_SEAL_BYTES:])
    text = data[:-_SEAL_BYTES] + b"}"
    if seal is None or hashlib.sha256(text).hexdigest().encode() != seal[1]:
        raise FormatError(
            path,
            "is damaged: its checksum is not that of its text",
            expected="a line of JSON that ends with its SHA-256",
        )
    members = strict_json.decode(text, path)
    if not isinstance(members, dict) or canonical(members) != text:
        raise FormatError(path, "is not written as it should be", expected="canonical JSON")
    return members


@dataclass(frozen=True)
class RootIdentity(_Sealed):
    """The identity of a root; written once, and anew when a copy of it is adopted.

    Attributes
    ----------
    store, root : str
        UUIDs, 32 hex digits.
    weight : float
        How much it holds, and carries, in proportion to the others.
    copied_from : tuple of str
        UUIDs of the stores that this one was a copy of, the first one first; the file has no such
        member where there are none.
    """

    store: str
    root: str
    weight: float
    copied_from: tuple[str, ...] = ()

    kind: ClassVar[str] = "fastio.root"

    def _members(self) -> dict[str, Any]:
        members = super()._members()
        if not self.copied_from:
            del members["copied_from"]
        return members

    @classmethod
    def _checked(cls, members: dict[str, Any], path: str) -> RootIdentity:
        checks = {"store": _is_uuid, "root": _is_uuid, "weight": is_weight}
        if "copied_from" in members:
            checks["copied_from"] = _are_stores
        _check_members(members, checks, path)
        return cls(**{**members, "copied_from": tuple(members.get("copied_from", ()))})


def majority_of(roots: Sequence[str]) -> int:
    """Return how many of these roots decide: any two choices of so many share one.

    Raises
    ------
    Nothing.
    """
    return len(roots) // 2 + 1


@dataclass(frozen=True)
class Record(_Sealed):
    """That a generation was committed, or is about to be.

    Attributes
    ----------
    store : str
    generation : int
        0 for the empty store, as it was created.
    ballot : int
        Of two records of one generation the one with the higher ballot was written by somebody who
        had seen that the other one was on no majority of the roots.
    manifest : str
        SHA-256 of the manifest, 64 hex digits.
    parent : str or None
        The manifest of the generation before.
    roots : tuple of str
        UUIDs, ascending: of these a majority decides.
    saved_at_s : int
        Seconds since 1970 by the clock of whoever saved; to be shown, nothing is decided by it.
    """

    store: str
    generation: int
    ballot: int
    manifest: str
    parent: str | None
    roots: tuple[str, ...]
    saved_at_s: int

    kind: ClassVar[str] = "fastio.commit"

    @classmethod
    def _checked(cls, members: dict[str, Any], path: str) -> Record:
        _check_members(
            members,
            {
                "store": _is_uuid,
                "generation": _is_generation,
                "ballot": _is_ordinal,
                "manifest": is_digest,
                "parent": lambda value: value is None or is_digest(value),
                "roots": _are_roots,
                "saved_at_s": lambda value: type(value) is int,
            },
            path,
        )
        return cls(**{**members, "roots": tuple(members["roots"])})

    @property
    def majority(self) -> int:
        """How many roots decide."""
        return majority_of(self.roots)

    def proposes_the_same(self, other: Record) -> bool:
        """Whether two records are of one commit, whatever their ballots."""
        return (self.generation, self.manifest, self.parent) == (
            other.generation,
            other.manifest,
            other.parent,
        )


@dataclass(frozen=True)
class Promise(_Sealed):
    """That whoever comes next takes a higher ballot.

    Attributes
    ----------
    store, root : str
    ballot : int
    """

    store: str
    root: str
    ballot: int

    kind: ClassVar[str] = "fastio.promise"

    @classmethod
    def _checked(cls, members: dict[str, Any], path: str) -> Promise:
        _check_members(members, {"store": _is_uuid, "root": _is_uuid, "ballot": _is_ordinal}, path)
        return cls(**members)


@dataclass(frozen=True)
class Verified(_Sealed):
    """That every file of a root was read, and was sound.

    Attributes
    ----------
    store, root : str
    verified_at_s : int
        Seconds since 1970 by the clock of whoever verified it.
    nbytes : int
        Bytes that were read on this root.
    generations : int
        How many there were.
    """

    store: str
    root: str
    verified_at_s: int
    nbytes: int
    generations: int

    kind: ClassVar[str] = "fastio.verified"

    @classmethod
    def _checked(cls, members: dict[str, Any], path: str) -> Verified:
        checks = dict.fromkeys(("verified_at_s", "nbytes", "generations"), _is_generation)
        _check_members(members, {"store": _is_uuid, "root": _is_uuid, **checks}, path)
        return cls(**members)


def is_digest(value: object) -> bool:
    """Whether it is a SHA-256 as documents have it."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def is_weight(value: object) -> bool:
    """Whether it can be the weight of a root."""
    return type(value) in (int, float) and 0 < value < float("inf")  # type: ignore[operator]


def _is_uuid(value: object) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _is_ordinal(value: object) -> bool:
    return type(value) is int and 1 <= value < _GENERATION_MAX


def _is_generation(value: object) -> bool:
    return (value == 0 and type(value) is int) or _is_ordinal(value)


def _are_roots(value: object) -> bool:
    return (
        isinstance(value, list)
        and 1 <= len(value) <= ROOTS_MAX
        and all(map(_is_uuid, value))
        and value == sorted(set(value))
    )


def _are_stores(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_uuid, value))


def _check_members(members: Mapping[str, Any], checks: Mapping[str, Any], path: str) -> None:
    if members.keys() != checks.keys():
        raise FormatError(
            path,
            f"has the members {', '.join(map(shown, sorted(members)))}",
            expected=", ".join(sorted(checks)),
        )
    for name, check in checks.items():
        if not check(members[name]):
            raise FormatError(path, f"has {shown(members[name])} as its {name}")
