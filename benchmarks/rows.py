"""What a benchmark says: rows of ratios to one plain way of doing the work, and the table made of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["less", "more"]


@dataclass(frozen=True)
class Row:
    """One piece of work, done by headscope and by others on the same machine in the same minutes."""

    work: str
    tokens: str
    """Length of the prompt, or prompts x tokens."""
    ours: float
    """Multiple of the time (or memory) of the base, or where more is better the speed-up over it."""
    plain: float | None = None
    """The same work with transformers alone."""
    transformer_lens: float | None = None
    nnsight: float | None = None
    bar: float | None = None
    better: Better = "less"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if self.bar is None:
            return None
        return self.ours <= self.bar if self.better == "less" else self.ours >= self.bar

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return {**asdict(self), "met": self.met}


HEADINGS = ("work", "tokens", "ours", "plain transformers", "TransformerLens", "nnsight", "bar", "met")


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, aligned, with their notes below."""
    notes: list[str] = []
    cells = [list(HEADINGS)]
    for row in rows:
        mark = ""
        if row.note:
            notes = notes if row.note in notes else [*notes, row.note]
            mark = f" [{notes.index(row.note) + 1}]"
        cells.append(
            [
                row.work + mark,
                row.tokens,
                *(_number(value) for value in (row.ours, row.plain, row.transformer_lens, row.nnsight)),
                "" if row.bar is None else f"{'<=' if row.better == 'less' else '>='} {row.bar:g}",
                {True: "yes", False: "NO", None: ""}[row.met],
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, *(["", *(f"[{i}] {note}" for i, note in enumerate(notes, 1))] if notes else [])])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
