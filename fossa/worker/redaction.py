"""Secrets leave a worker neither in what its models write nor in what they return."""

from collections.abc import Iterable

import msgspec

MASK = "•••"
#: A shorter secret would mask half of everything.
MIN_LENGTH = 4


class Redaction:
    """Replaces the node's secrets, wherever they turn up."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._texts = [s for s in secrets if len(s) >= MIN_LENGTH]
        self._json = [(msgspec.json.encode(s)[1:-1], MASK.encode()) for s in self._texts]

    def __call__(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text

    def json(self, document: bytes) -> bytes:
        """The same in encoded JSON, where a secret can only be part of a string."""
        for secret, mask in self._json:
            document = document.replace(secret, mask)
        return document
