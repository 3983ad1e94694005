"""What secrets look like: keys that tell, and patterns, each linear in the text's length.

No pattern has an unbounded class in front of a literal that must follow: that is quadratic on hostile text. Runs are
possessive, and begin where a run can begin. A test times every one of them on texts that grow.
"""

import re
from typing import Final

MASK: Final = "[REDACTED]"

_TELLING = (
    r"password|passwd|passphrase|pwd|secret|token(?!s|iz)|credential|authorization|cookie|dsn|webhook"
    r"|api[ _-]?key|(?:private|master|encryption|routing|access|signing|identity)[ _-]?key"
    r"|(?:database|redis|connection|db)[ _-]?(?:url|string)"
)
_KEY = re.compile(_TELLING, re.IGNORECASE)
_ASSIGN = r"[\w.-]{0,40}+[\"'\\\]]{0,3}+\s{0,3}+(?:=>|[:=])\s{0,3}+"
_VALUE = r"(?:\\\"[^\"\\]*+(?:\\\")?|\"(?:[^\"\\]|\\.)*+\"?|'[^']*+'?|[^\s,;&\"'<>)}]++)"
_COUNTER = r"token[\"'\\]{0,3}\s{0,3}[:=]\s{0,3}\d{1,9}(?![^\s,;&\"'<>)}\]])"  # a lease's fencing token, no secret


def telling(key: str) -> bool:
    """Whether what stands under this key is a secret by its name: apiKey, DB_PASSWORD; not tokens_used."""
    return _KEY.search(key) is not None


def counts(key: str) -> bool:
    """Whether a number under this key is a lease's fencing token, which only counts."""
    return key.lower().endswith("token")


def _put(pattern: str, put: str = MASK, flags: int = 0) -> tuple[re.Pattern[str], str]:
    return re.compile(pattern, flags), put


PATTERNS: Final = (
    _put(r"(://)(?!\[REDACTED\]@)[^\s\"'<>/?#@:]{0,64}+:[^\s\"'<>]{1,256}@", rf"\1{MASK}@"),  # user:password@ of a URL
    _put(r"(://)(?!\[REDACTED\]@)[^\s\"'<>/?#@]{1,256}@", rf"\1{MASK}@"),  # a token as the user
    _put(
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[A-Za-z0-9+/=\s\\:,]|-(?!----END))*+"
        r"(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?"
    ),
    _put(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]++\.[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]*+)?"),  # JWT
    _put(r"AGE-SECRET-KEY-1[A-Z0-9]{20,}+", flags=re.IGNORECASE),
    _put(r"xox[abeprs]-[A-Za-z0-9-]{10,}+|xapp-[A-Za-z0-9-]{10,}+"),  # Slack
    _put(r"(hooks\.slack\.com/(?:services|workflows|triggers)/)[A-Za-z0-9/_-]++", rf"\1{MASK}"),
    _put(r"gh[pousr]_[A-Za-z0-9]{20,}+|github_pat_[A-Za-z0-9_]{20,}+|glpat-[A-Za-z0-9_-]{16,}+"),
    _put(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])"),  # AWS
    _put(r"AIza[0-9A-Za-z_-]{35}"),  # Google
    _put(r"(?<![A-Za-z0-9])(?:sk|rk|pk)[-_][A-Za-z0-9_-]{16,}+"),  # Anthropic, OpenAI, Stripe
    _put(r"(?<![A-Za-z0-9])SK[0-9a-f]{32}(?![A-Za-z0-9])"),  # Twilio
    _put(
        r"sb(?:p|_secret)_[A-Za-z0-9_-]{20,}+|whsec_[A-Za-z0-9+/=]{16,}+|pn[ub]_[A-Za-z0-9]{20,}+|npm_[A-Za-z0-9]{30,}+"
    ),
    _put(r"(\bbearer\s{1,3})[A-Za-z0-9._~+/=-]{12,}+", rf"\1{MASK}", re.IGNORECASE),
    _put(r"(\bauthorization[\"'\\]{0,3}\s{0,3}[:=]\s{0,3}[\"'\\]{0,3})[^\r\n\"',}]++", rf"\1{MASK}", re.IGNORECASE),
    _put(r"(\bcookie2?[\"'\\]{0,3}\s{0,3}[:=]\s{0,3}[\"'\\]{0,3})[^\r\n\"'}]++", rf"\1{MASK}", re.IGNORECASE),
    _put(rf"(?!{_COUNTER})((?:{_TELLING}){_ASSIGN}){_VALUE}", rf"\1{MASK}", re.IGNORECASE),
    _put(rf"(--(?:{_TELLING})\s{{1,3}}){_VALUE}", rf"\1{MASK}", re.IGNORECASE),  # on a command line
    _put(r"(\bpassword\s{1,3})'[^']*+'?", rf"\1{MASK}", re.IGNORECASE),  # SQL
)
