"""One clear table, and below it what was promised and whether it held."""

from collections.abc import Iterable, Sequence

from attrs import frozen


@frozen
class Promise:
    """One figure of the table against what it must be."""

    what: str
    found: str
    wanted: str
    held: bool


def show(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table with its columns aligned, the first to the left."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    print(f"\n{title}\n")
    for row in cells:
        padded = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *padded]))
    print(flush=True)


def judge(promises: Sequence[Promise]) -> int:
    """Print each promise with its verdict; the exit code that says whether all of them held."""
    for promise in promises:
        verdict = "met   " if promise.held else "MISSED"
        print(f"{verdict}  {promise.what}: {promise.found} (wanted {promise.wanted})")
    return 0 if all(promise.held for promise in promises) else 1


def at_most(what: str, found: float, limit: float, form: str = "{:.2f}") -> Promise:
    """A promise that a figure stays within a limit."""
    return Promise(what, form.format(found), f"at most {form.format(limit)}", found <= limit)


def none_of(what: str, count: int) -> Promise:
    """A promise that something never happens."""
    return Promise(what, str(count), "0", count == 0)


def exactly(what: str, found: object, wanted: object) -> Promise:
    """A promise that a figure is what it must be."""
    return Promise(what, str(found), str(wanted), found == wanted)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
