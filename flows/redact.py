"""Hides secrets in any text and any JSON value. The registry is the guarantee, the patterns are a net.

The registry holds every secret that this process loaded, and finds each in the forms that texts carry it in: escaped
for a URL, JSON, SQL, HTML or a shell, twice over; and inside runs of base64, hex and percent signs: those are decoded.
The patterns know what secrets of others look like (userinfo in URLs, PEM, tokens of vendors, `password=...`); each is
linear in the text's length. Hiding twice changes nothing. What a secret is replaced by says nothing about it.
"""

import binascii
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import quote, quote_plus, unquote, unquote_to_bytes

from flows.redact_patterns import MASK, PATTERNS, counts, telling

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

SHORTEST: Final = 6  # characters: what is shorter is found in innocent text everywhere
LONG_LINE: Final = 16  # a line of a multi-line secret, such as a PEM key, is one by itself from here on
DEPTH: Final = 3  # encodings inside encodings

_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]|\\/){8,}+(?:(?:\\r)?(?:\\n|\r?\n)(?:[A-Za-z0-9+/_-]|\\/){4,}+)*+={0,2}")
_PERCENT = re.compile(r"[\w.~+%-]{6,}+")
_RUNS = (_BASE64, _PERCENT)  # every run of hex is one of base64's too
_HEX = re.compile(r"[0-9A-Fa-f]{12,}+")
_SEPARATORS = re.compile(r"\\[rn]|[\\\r\n=]")
_URL_SAFE = str.maketrans("-_", "+/")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/:@]{0,256}:([^\s]{1,1024})@")


class TooShortError(ValueError):
    """A secret of fewer than 6 characters can't be hidden: choose a longer one."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


@dataclass(frozen=True)
class _Known:
    """What a registry knows; replaced as one, so that of two threads that learn at once neither leaves a half."""

    learned: frozenset[str] = frozenset()
    secrets: tuple[bytes, ...] = ()  # as they stand inside decoded bytes
    forms: tuple[str, ...] = ()  # as they stand in text, longest first


class Registry:
    """The secrets that are known. It is only ever added to."""

    def __init__(self) -> None:
        self._known = _Known()

    def learn(self, secret: str) -> None:
        """Hide this from now on, also its stripped form, its long lines, and the password of a URL.

        TooShortError for fewer than 6 characters without spaces round them; ValueError for a piece of the mask itself.
        """
        known = self._known
        if secret in known.learned:
            return
        if len(secret.strip()) < SHORTEST:
            raise TooShortError
        if secret.strip() in MASK:
            raise ValueError("a secret that is a piece of the mask can't be hidden: choose another")
        found = {piece for piece in _pieces(secret) if len(piece) >= SHORTEST and piece not in MASK}
        forms = {form for piece in found for form in _forms(piece)}
        self._known = _Known(
            known.learned | {secret},
            tuple({*known.secrets, *(form.encode(errors="replace") for form in forms)}),
            tuple(sorted({*known.forms, *forms}, key=lambda form: (-len(form), form))),
        )

    def hide(self, text: str) -> str:
        """The text without any known secret, nor what looks like one."""
        for form in self._known.forms:
            if form in text:
                text = text.replace(form, MASK)
        if self._in_bytes(b"\n".join(_unwrapped(text, DEPTH))):
            for run in _RUNS:
                text = run.sub(self._hide_run, text)
        for pattern, put in PATTERNS:
            text = pattern.sub(put, text)
        return text

    def hide_all(self, value: Json) -> Json:
        """The JSON value without secrets, in keys too; under a telling key its scalar, or each one of its list."""
        match value:
            case str():
                return self.hide(value)
            case Mapping():
                return {self.hide(key): self._under(_key_of(key, value), inner) for key, inner in value.items()}
            case Sequence():
                return [self.hide_all(inner) for inner in value]
            case _:
                return value

    def _under(self, key: str, value: Json) -> Json:
        if not telling(key) or isinstance(value, Mapping):
            return self.hide_all(value)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [self._under(key, inner) for inner in value]
        return MASK if _may_be_secret(key, value) else value

    def _hide_run(self, run: re.Match[str]) -> str:
        return MASK if self._in_bytes(b"\n".join(_decoded(run[0], DEPTH))) else run[0]

    def _in_bytes(self, decoded: bytes) -> bool:
        return any(secret in decoded for secret in self._known.secrets)


_known = Registry()


def learn(secret: str) -> None:
    """Hide this secret from now on in all that this process shows; TooShortError for fewer than 6 characters."""
    _known.learn(secret)


def hide(text: str) -> str:
    """The text without any known secret, nor what looks like one."""
    return _known.hide(text)


def hide_all(value: Json) -> Json:
    """The JSON value without any known secret, nor what stands under a telling key or looks like one."""
    return _known.hide_all(value)


def _pieces(secret: str) -> Iterator[str]:
    yield secret
    yield secret.strip()
    lines = [line.strip() for line in secret.splitlines()]
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= LONG_LINE)
    if found := _PASSWORD.match(secret.strip()):
        yield found[1]
        yield unquote(found[1])


def _forms(piece: str) -> set[str]:
    """The piece as texts carry it: each way of escaping, and each of those escaped once more."""
    once = {escape(piece) for escape in _ESCAPES}
    return {piece} | once | {escape(form) for form in once for escape in _ESCAPES}


def _lower_percent(text: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), quote(text, safe=""))


_ESCAPES: tuple[Callable[[str], str], ...] = (
    lambda text: quote(text, safe="", errors="replace"),
    lambda text: quote(text, errors="replace"),
    _lower_percent,
    lambda text: quote_plus(text, errors="replace"),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1].replace("/", "\\/"),
    lambda text: repr(text)[1:-1],
    lambda text: text.replace("'", "''"),
    lambda text: text.replace('"', '""'),
    lambda text: text.replace("'", "'\"'\"'"),  # shlex.quote
    lambda text: text.replace("'", "'\\''"),
    html.escape,
)


def _unwrapped(text: str, depth: int) -> Iterator[bytes]:
    """Everything that the text's runs may stand for, and what stands inside that."""
    for pattern in _RUNS:
        for run in set(pattern.findall(text)):
            yield from _decoded(run, depth)


def _decoded(run: str, depth: int) -> Iterator[bytes]:
    for decoded in _decodings(run):
        yield decoded
        if depth > 1:
            yield from _unwrapped(decoded.decode("latin-1"), depth - 1)


def _decodings(run: str) -> Iterator[bytes]:
    """What one run may stand for: percent signs, else base64 from each of its four places, hex from each of two."""
    if "%" in run:
        yield unquote_to_bytes(run)
        return
    whole = _SEPARATORS.sub("", run).translate(_URL_SAFE)
    if _NOT_BASE64.search(whole):
        return
    for start in range(4):
        yield _base64(whole[start:])
    for digits in _HEX.findall(run):
        for start in range(2):
            yield bytes.fromhex(digits[start : len(digits) - (len(digits) - start) % 2])


def _base64(group: str) -> bytes:
    """What is there of it: a last group that is cut gives the bytes that it still holds."""
    whole = group[:-1] if len(group) % 4 == 1 else group
    return binascii.a2b_base64(whole + "=" * (-len(whole) % 4))


def _key_of(key: str, mapping: Mapping[str, Json]) -> str:
    """The key that tells: of `{"name": "DB_PASSWORD", "value": "..."}` the name speaks for the value."""
    name = mapping.get("name", mapping.get("key"))
    return name if key == "value" and isinstance(name, str) else key


def _may_be_secret(key: str, value: Json) -> bool:
    """Whether a scalar under a telling key is more than a truth, a nothing, or a token that only counts."""
    if value is None or isinstance(value, bool):
        return False
    return isinstance(value, str) or not counts(key)
