"""Every run on a model begins with proof of its hooks, kept with the results."""

import hashlib

from experiments.console import say
from headscope.check import SelfCheck
from headscope.model import HookedModel
from headscope.runs import Run


def prove(run: Run, model: HookedModel, *, quiet: bool = False) -> SelfCheck:
    """The model's self-check, noted in run.json beside what identifies the model; a failed fact is said aloud."""
    check = model.check()
    template = getattr(model.tokenizer, "chat_template", None)
    about = {
        "name": model.name,
        "revision": model.revision,
        "type": type(model.hf).__name__,
        "dtype": str(model.hf.dtype),
        "chat_template_sha256": hashlib.sha256(str(template).encode()).hexdigest() if template else None,
    }
    run.update(model=about, self_check=check.to_records())
    failed = [row.fact for row in check.rows if row.passed is False]
    if failed and not quiet:
        say(f"warning: the self-check failed ({'; '.join(failed)}); see `headscope doctor` before believing a number")
    return check
