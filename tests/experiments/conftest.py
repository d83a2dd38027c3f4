"""What tests of commands share: a folder for results, and the check of a refusal."""

from collections.abc import Callable, Sequence

import pytest

from experiments.cli import run


@pytest.fixture
def out(tmp_path) -> str:
    return str(tmp_path / "out")


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Runs a command that must fail with this code: one sentence on stderr that holds these words, no traceback."""

    def check(argv: Sequence[str], code: int, *says: str) -> str:
        assert run(list(argv)) == code
        shown = capsys.readouterr()
        message = shown.err.rsplit("error: ", 1)[1]
        assert message.endswith("\n")
        assert message.count("\n") == 1, "more than one line"
        assert "Traceback" not in shown.err + shown.out
        assert "unexpected" not in message
        for words in says:
            assert words in message
        return message

    return check
