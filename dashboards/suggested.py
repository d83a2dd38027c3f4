"""Commands that a page suggests; a name in them stays one word wherever they are pasted."""

import shlex


def command(*words: object) -> str:
    """`headscope` and these words, quoted for a shell."""
    return shlex.join(["headscope", *map(str, words)])


def of_model(name: str) -> tuple[str, ...]:
    """The option that names a run's model; none where the run names none."""
    return ("--model", name) if name else ()
