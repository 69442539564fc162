"""Shares of classes in a table of labels: columns such as ``p_cat``, and the label that they make the truth."""

from collections import Counter
from collections.abc import Sequence

from jpegcurr.errors import SourceError
from jpegcurr.recipe.shares import check_shares, largest_shares

SHARES = "p_"  # with a class behind it, the name of the column of its shares
Shares = dict[str, float]  # of classes, without zeros
ShareColumns = tuple[tuple[str, int], ...]  # classes, and positions of their columns


def find_columns(header: Sequence[str]) -> ShareColumns:
    """Return the columns of shares, of which there are none or at least two."""
    cells = [(cell.strip(), at) for at, cell in enumerate(header)]
    shares = tuple(
        (cell[len(SHARES) :].strip(), at) for cell, at in cells if cell.startswith(SHARES) and cell[len(SHARES) :].strip()
    )
    return shares if len(shares) > 1 else ()


def refuse_repeated(columns: ShareColumns, line: str) -> None:
    """Raise SourceError if a class has two columns."""
    counted = Counter(name for name, _ in columns)
    if twice := next((name for name, count in counted.items() if count > 1), None):
        raise SourceError(f"{line}: the column {SHARES}{twice} occurs twice. Name every class once.")


def parse_shares(line: str, cells: Sequence[str], columns: ShareColumns) -> Shares:
    """Return the shares of a row that are not zero; an empty cell is zero. Raises SourceError if they do not sum to 1."""
    shares = {}
    for name, column in columns:
        text = cells[column].strip()
        try:
            shares[name] = float(text) if text else 0.0
        except ValueError:
            raise SourceError(
                f"{line}: {SHARES}{name} is {text!r}. Columns {SHARES}... are shares of classes, from 0 to 1."
            ) from None
    try:
        return {name: share for name, share in check_shares(shares).items() if share > 0}
    except ValueError as error:
        raise SourceError(f"{line}: {error}. Correct the columns {SHARES}....") from None


def choose_label(line: str, label: str, shares: Shares) -> str:
    """Return the class with the largest share; of equal ones that of the row's ``label``, which may be empty."""
    largest = largest_shares(shares)
    if label and label not in largest:
        raise SourceError(
            f"{line}: the label is {label!r}, and the largest share that of {largest[0]!r}. The largest share is the truth: "
            "correct one of the two, or omit the column of labels."
        )
    if not label and len(largest) > 1:
        raise SourceError(
            f"{line}: {largest[0]!r} and {largest[1]!r} have the same share. The largest one is the truth: let one be larger, "
            "or add a column of labels."
        )
    return label or largest[0]
