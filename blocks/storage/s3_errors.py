"""What boto3 and a store of S3 say when something fails, in our words.

An error names what was wanted and the right that is missing; it never holds the store's own text, an address or a key.
"""

import contextlib
import re
from collections.abc import Generator, Sequence
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as NoConnectionError,
)

from blocks.errors import BlockError, Garbled, Missing, Refused, Unreachable

_DAMAGED = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})
_WRONG_KEY = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure"})
_ASK_AGAIN = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling"})
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull"})
_FORBIDDEN, _NOT_FOUND, _CONFLICT, _TAKEN, _TOO_MANY, _SERVER_ERROR, _NO_SPACE = 403, 404, 409, 412, 429, 500, 507


@contextlib.contextmanager
def told(doing: str, right: str) -> Generator[None]:
    """Say an error of boto3 in our words; right is what the credentials need for it."""
    try:
        yield
    except ClientError as error:
        raise _translated(error, doing, right) from None
    except (NoCredentialsError, PartialCredentialsError):
        raise Refused(
            f"could not {doing}: there are no credentials; give the store a key, or this machine a role"
        ) from None
    except FlexibleChecksumError:
        raise Garbled(f"could not {doing}: what arrived has not the store's own checksum") from None
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise Refused(f"could not {doing}: the store's certificate is not trusted; name its CA") from None
        raise Unreachable(f"could not {doing}: TLS broke off") from None
    except (NoConnectionError, HTTPClientError, IncompleteReadError) as error:
        raise Unreachable(f"could not {doing}: the store does not answer ({type(error).__name__})") from None
    except (BotoCoreError, ValueError) as error:  # wrong settings: boto3's text may hold an address
        raise Refused(f"could not {doing}: boto3 takes these settings for wrong ({type(error).__name__})") from None


def code_of(error: Any) -> str:
    """The store's word for an error, cut to what a word can be."""
    return re.sub(r"[^A-Za-z0-9._]", "", str(error.get("Code", "")))[:60] or "no code"


def undeleted(codes: Sequence[str], asked: int) -> None:
    """Raise what an answer to a deletion says of keys that it did not delete."""
    failed = [code for code in codes if code != "NoSuchKey"]
    if failed:
        status = _SERVER_ERROR if failed[0] in _ASK_AGAIN else _FORBIDDEN * (failed[0] == "AccessDenied")
        raise _meaning(failed[0], status, f"could not delete {len(failed)} of {asked} objects", "s3:DeleteObject")


def _translated(error: ClientError, doing: str, right: str) -> BlockError:
    code = code_of(error.response.get("Error", {}))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return _meaning(code, status, f"could not {doing}", right)


def _meaning(code: str, status: int, what: str, right: str) -> BlockError:
    if code in _DAMAGED:
        return Garbled(f"{what}: the bytes were damaged on the way ({code})")
    if code in _FULL or status == _NO_SPACE:
        return Refused(f"{what}: the store is full ({code})")
    if code in _WRONG_KEY:
        return Refused(f"{what}: the store does not know this key and secret ({code})")
    if code == "RequestTimeTooSkewed":
        return Refused(f"{what}: the clocks of this machine and the store differ too much; set ours")
    if code in _ASK_AGAIN or status >= _SERVER_ERROR or status in {_TOO_MANY, _CONFLICT}:
        return Unreachable(f"{what}: the store cannot just now ({code}, HTTP {status})")
    return _refusal(code, status, what, right)


def _refusal(code: str, status: int, what: str, right: str) -> BlockError:
    if status == _NOT_FOUND:
        return Missing(f"{what}: the store has no such thing ({code})")
    if status == _TAKEN:
        return Refused(f"{what}: it exists already, is written once and never changed")
    if status == _FORBIDDEN or code == "AccessDenied":
        return Refused(f"{what}: these credentials may not; grant them {right} here ({code})")
    return Refused(f"{what}: the store refuses it ({code}, HTTP {status})")
