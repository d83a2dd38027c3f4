"""The errors headscope raises for what a user can put right; each message says what to do next."""


class HeadscopeError(Exception):
    """Something in the request cannot be done; the message names the value, what was expected and the next step."""


class UsageError(HeadscopeError, ValueError):
    """The request itself is wrong: a head that does not exist, a needle that does not fit, a folder that exists."""


class UnsupportedModelError(HeadscopeError):
    """The model cannot be hooked; the message says which layer, why, and what can be done."""
