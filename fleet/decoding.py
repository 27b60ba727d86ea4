"""What a Redis client answers: bytes, or text where the client was told to decode."""

from __future__ import annotations


def text_of(value: bytes | str) -> str:
    """The word that was written, which is UTF-8. Raises UnicodeDecodeError, a ValueError, when it is none."""
    return value.decode() if isinstance(value, bytes) else value
