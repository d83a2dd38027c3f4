"""Text from files and addresses as text: what Markdown would take for a link, an image or a formula is escaped."""

import re

_MARKED = re.compile(r"([!-/:-@\[-`{-~])")
_BROKEN = re.compile(r"\s+")


def plain(text: object) -> str:
    """The text in one line, so that Markdown shows every letter of it and reads none as markup."""
    return _MARKED.sub(r"\\\1", _BROKEN.sub(" ", str(text)).strip())


def sendable(text: object) -> str:
    """The text with letters that have no place in UTF-8, such as those of a file name in another encoding, as `?`."""
    return str(text).encode("utf-8", "replace").decode()


def shortened(text: object, most: int = 80) -> str:
    """The text cut to so many characters, with an ellipsis where something was left out."""
    whole = _BROKEN.sub(" ", str(text)).strip()
    return whole if len(whole) <= most else f"{whole[: most - 1]}…"
