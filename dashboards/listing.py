"""The list of runs as a table, and the runs that match what a reader looks for."""

from collections.abc import Sequence

import pandas as pd

from dashboards.reading import RunCard


def run_table(cards: Sequence[RunCard]) -> pd.DataFrame:
    """A row for each run; `problem` is a column only where there is one."""
    table = pd.DataFrame(
        {
            "run": [card.name for card in cards],
            "command": [card.command for card in cards],
            "model": [card.model for card in cards],
            "created": pd.to_datetime(
                [card.created or None for card in cards], format="ISO8601", errors="coerce", utc=True
            ),
            "status": [card.status for card in cards],
            "seconds": [card.seconds for card in cards],
            "scores": [", ".join(card.scores) for card in cards],
            "tables": [", ".join(card.tables) for card in cards],
            "problem": [card.problem for card in cards],
        }
    )
    return table if any(card.problem for card in cards) else table.drop(columns="problem")


def matching(cards: Sequence[RunCard], words: str, command: str, status: str) -> tuple[RunCard, ...]:
    """Runs that hold all the words, and have this command and status; an empty text asks for nothing."""
    wanted = words.lower().split()
    return tuple(
        card
        for card in cards
        if all(word in f"{card.name} {card.command} {card.model} {card.status}".lower() for word in wanted)
        and command in ("", card.command)
        and status in ("", card.status)
    )
