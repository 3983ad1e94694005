"""Redaction: known secrets in every carrier, unknown ones by their look, and patterns that stay linear."""

import base64
import html
import json
import shlex
import textwrap
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.redact import Registry, TooShortError, hide, learn
from flows.redact_patterns import MASK, PATTERNS, telling

SECRETS = [
    "plainsecret42",
    "Hx9/q+Zt'7\"비밀 $w\\0rd",
    "p@ss:w/rd?&=#%",
    "한글비밀번호",
    "a b c d",
    "-_-_-_-_",
    "00112233aabb",
]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(b64(f"user:{text}:{text}"), 20))


CARRIERS: dict[str, Callable[[str], str]] = {
    "raw": lambda text: text,
    "json": lambda text: json.dumps({"x": text}),
    "json in json": lambda text: json.dumps(json.dumps({"x": text})),
    "json with its own letters": lambda text: json.dumps({"x": text}, ensure_ascii=False),
    "percent": lambda text: quote(text, safe=""),
    "path": quote,
    "form": quote_plus,
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "every byte in percent": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "json in a query": lambda text: quote(json.dumps({"x": text})),
    "base64": b64,
    "base64 after one byte": lambda text: b64("a" + text + "zz"),
    "base64 after two bytes, unpadded": lambda text: b64("ab" + text).rstrip("="),
    "urlsafe base64": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "wrapped base64": wrapped,
    "wrapped base64 in json": lambda text: json.dumps(wrapped(text)),
    "base64 in base64": lambda text: b64(b64(text)),
    "base64 in percent": lambda text: quote(b64(text), safe=""),
    "base64 with escaped slashes": lambda text: b64("???" + text).replace("/", "\\/"),
    "basic authentication": lambda text: f"Basic {b64('app:' + text)}",
    "json in base64": lambda text: b64(json.dumps({"p": text})),
    "hex": lambda text: text.encode().hex(),
    "upper-case hex": lambda text: text.encode().hex().upper(),
    "hex in base64": lambda text: b64(text.encode().hex()),
    "sql": lambda text: "'" + text.replace("'", "''") + "'",
    "csv": lambda text: '"' + text.replace('"', '""') + '"',
    "repr": repr,
    "shell": shlex.quote,
    "html": html.escape,
}


def registry(*secrets: str) -> Registry:
    made = Registry()
    for secret in secrets:
        made.learn(secret)
    return made


ALL = registry(*SECRETS)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_known_secret_is_hidden_in_every_carrier(secret: str, carrier: str) -> None:
    for around in ("{}", "see {} there", "x:{},y", "/v1/{}"):
        hidden = ALL.hide(around.format(CARRIERS[carrier](secret)))
        assert MASK in hidden
        assert secret not in hidden
        assert ALL.hide(hidden) == hidden


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=6, max_size=24).filter(lambda text: len(text.strip()) >= 6), st.sampled_from(sorted(CARRIERS)))
def test_any_secret_is_hidden_in_any_carrier(secret: str, carrier: str) -> None:
    hidden = registry(secret).hide(f"see {CARRIERS[carrier](secret)} there")
    assert MASK in hidden
    assert secret not in hidden


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=80))
def test_hiding_twice_changes_nothing(text: str) -> None:
    assert hide(hide(text)) == hide(text)


def test_a_long_secret_is_hidden_line_by_line_and_stripped() -> None:
    known = registry("\n-----BEGIN-----\nMC4CAQAwBQYDK2VwBCIEIP\n-----END-----\n")
    assert known.hide("it began with MC4CAQAwBQYDK2VwBCIEIP and") == f"it began with {MASK} and"


def test_the_password_of_a_url_is_hidden_alone_and_decoded() -> None:
    known = registry("postgresql://app:S3cr%40tpass@db.example:5432/app")
    assert known.hide("S3cr%40tpass S3cr@tpass db.example") == f"{MASK} {MASK} db.example"


@pytest.mark.parametrize("secret", ["", "short", "  abc  ", "\n\n\n\n\n\n\n"])
def test_a_short_secret_is_refused_and_not_named(secret: str) -> None:
    with pytest.raises(TooShortError, match="fewer than 6 characters can't be hidden: choose a longer one"):
        learn(secret)


def test_a_piece_of_the_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="a piece of the mask"):
        learn("REDACTED")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("postgres://app:hunter2@db:5432/app failed", f"postgres://{MASK}@db:5432/app failed"),
        ("https://sntrys_abc@o1.ingest.sentry.io/1", f"https://{MASK}@o1.ingest.sentry.io/1"),
        ("redis://:p/w@cache:6379", f"redis://{MASK}@cache:6379"),
        ("password=hunter2, user=app", f"password={MASK}, user=app"),
        ('{"apiKey": "a\\"b", "n": 1}', f'{{"apiKey": {MASK}, "n": 1}}'),
        ('{\\"secret\\": \\"abc\\"}', f'{{\\"secret\\": {MASK}}}'),
        ("DB_PASSWORD: 'with space' next", f"DB_PASSWORD: {MASK} next"),
        ("--token abc123 --stage local", f"--token {MASK} --stage local"),
        ("alter role app password 'x y'", f"alter role app password {MASK}"),
        ("Authorization: Bearer abc.def", f"Authorization: {MASK}"),
        ("curl -H 'authorization: Basic YTpi' x", f"curl -H 'authorization: {MASK}' x"),
        ("Cookie: a=1; sid=2\nHost: x", f"Cookie: {MASK}\nHost: x"),
        ("sent eyJhbGciOi.eyJzdWIi.c2ln on", f"sent {MASK} on"),
        ("key AGE-SECRET-KEY-1" + "Q" * 58 + " lies", f"key {MASK} lies"),
        ("-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY----- then", f"{MASK} then"),
        ("https://hooks.slack.com/services/T0/B0/abc", f"https://hooks.slack.com/services/{MASK}"),
        ("AKIAIOSFODNN7EXAMPLE", MASK),
        ("ghp_" + "a" * 36, MASK),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, hidden: str) -> None:
    assert hide(text) == hidden
    assert hide(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "the token bucket is full, 5 tokens left, tokens_used=5",
        "operation 4711, token 812; token=812",
        "backup 20261124T020000Z-daily-k3v9q2 of app: 13 tables, 119.1 MB",
        "see https://docs.example/path?mail=x and age1" + "q" * 58,
        "a basic information page about passwords and secrets",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "비디오 3개를 백업했습니다",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert ALL.hide(text) == text


@pytest.mark.parametrize("key", ["password", "DB_PASSWORD", "apiKey", "api-key", "dsn", "MASTER_KEY", "x-secret-x",
                                 "authorization", "Set-Cookie", "DATABASE_URL", "SLACK_WEBHOOK_URL"])  # fmt: skip
def test_a_key_tells(key: str) -> None:
    assert telling(key)


@pytest.mark.parametrize("key", ["tokens_used", "key", "author", "keyboard", "public_key", "recipients", "url", "name"])
def test_a_key_tells_nothing(key: str) -> None:
    assert not telling(key)


def test_json_is_hidden_by_key_in_lists_and_by_the_name_beside_a_value() -> None:
    value = {
        "apiKey": ["a", {"x": "y", "password": 1234}],
        "secret": None,
        "token": 812,
        "ok": True,
        "vars": [{"name": "DB_PASSWORD", "value": "q"}, {"name": "LOG_LEVEL", "value": "error"}],
        "text": "it is plainsecret42",
        "plainsecret42": 1,
    }
    assert ALL.hide_all(value) == {
        "apiKey": [MASK, {"x": "y", "password": MASK}],
        "secret": None,
        "token": 812,
        "ok": True,
        "vars": [{"name": "DB_PASSWORD", "value": MASK}, {"name": "LOG_LEVEL", "value": "error"}],
        "text": f"it is {MASK}",
        MASK: MASK,
    }


HOSTILE = [
    *("eyJaaaaa-", "eyJ", "a", "://", "://a:", "x@", "-", "token", "\\", "\\/", "%41", "AAAA\n", "sk-", "Aa0-_."),
    *("password=", 'password="', "password='", "cookie:", "bearer ", "authorization:", "-----BEGIN PRIVATE KEY-----"),
]


def seconds(run: Callable[[str], object], text: str) -> float:
    took: list[float] = []
    for _ in range(2):
        began = time.process_time()
        run(text)
        took.append(time.process_time() - began)
    return min(took)


@pytest.mark.parametrize("number", range(len(PATTERNS)))
def test_a_pattern_stays_linear_on_hostile_text(number: int) -> None:
    pattern, put = PATTERNS[number]
    for piece in HOSTILE:
        small, big = piece * (3_000 // len(piece)), piece * (24_000 // len(piece))
        took = seconds(lambda text: pattern.sub(put, text), big)
        assert took < 0.05 or took < 20 * seconds(lambda text: pattern.sub(put, text), small), piece


@pytest.mark.parametrize("piece", HOSTILE)
def test_the_whole_stays_fast_on_hostile_text(piece: str) -> None:
    assert seconds(ALL.hide, piece * (12_000 // len(piece))) < 0.5
