"""lm_eval is an extra: what needs it says so before it begins."""

from importlib.util import find_spec

from headscope.errors import UsageError


def require_harness() -> None:
    """UsageError with the command that installs lm_eval, where it is not installed."""
    if find_spec("lm_eval") is None:
        raise UsageError("lm_eval, the LM Evaluation Harness, is not installed; run: pip install 'headscope[lm-eval]'")
