"""The one histogram of answer times that every source of metrics keeps: 61 buckets, so that counts can be added up.

Sixty edges, geometric from 5 ms to 60 s (each 17 % above the one before). Bucket i holds what took longer than edge
i - 1 and at most edge i; bucket 60 holds what took longer than a minute.
"""

from bisect import bisect_left

EDGES: tuple[float, ...] = tuple(round(0.005 * 12_000 ** (place / 59), 6) for place in range(60))  # seconds


def bucket_of(seconds: float) -> int:
    """The bucket, 0 to 60, of an answer that took so long."""
    return bisect_left(EDGES, seconds)
