"""Shares of classes for each image, as annotators give them: kept in the items by the names of the classes, beside the label.

A beton has one label a sample, so that FFCV reads it as any other; its label is the class with the largest share. The manifest
has a hash of all shares, by which they are part of what identifies the data.
"""

import hashlib
import json
from typing import Any


class SharesHash:
    """The SHA-256 of the shares of stored images, in file order."""

    def __init__(self) -> None:
        self._hash, self._any = hashlib.sha256(), False

    def add(self, row: dict[str, Any]) -> None:
        """Add the shares in one row of the items."""
        shares = row.get("shares")
        self._any |= shares is not None
        self._hash.update(json.dumps(shares, sort_keys=True).encode() + b"\n")

    def hexdigest(self) -> str | None:
        """Return the hash; None if no image has shares."""
        return self._hash.hexdigest() if self._any else None
