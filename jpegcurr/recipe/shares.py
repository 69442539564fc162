"""Shares that make one distribution: of a row of a recipe's ``targets.map``, and of an image in a table of labels."""

from collections.abc import Mapping
from math import fsum

ROUNDING = 1e-3  # how far from 1 the sum of shares may be that were rounded to a few digits


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """Return shares as a distribution: those that are rounded are divided by their sum.

    Raises:
        ValueError: a share is negative or no number, or their sum is not 1.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"the share of {name!r} is {share:g}, and must be from 0 to 1")
    total = fsum(shares.values())
    if abs(total - 1) > ROUNDING:
        raise ValueError(f"the shares sum to {total:.6g}, and must sum to 1")
    return {name: share / total for name, share in shares.items()} if abs(total - 1) > 1e-9 else dict(shares)


def largest_shares(shares: Mapping[str, float]) -> list[str]:
    """Return the name with the largest share; more than one where it is a tie."""
    most = max(shares.values())
    return [name for name, share in shares.items() if most - share <= 1e-9]
