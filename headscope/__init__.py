"""headscope: attention heads of language and vision-language models, read, scored and edited, with proof."""

from headscope.errors import HeadscopeError, UnsupportedModelError, UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Intervention, Record, Where
from headscope.model import HookedModel
from headscope.samples import Sample, Task

__version__ = "0.1.0"

__all__ = [
    "Context",
    "Head",
    "HeadscopeError",
    "HookedModel",
    "Intervention",
    "Record",
    "Sample",
    "Task",
    "UnsupportedModelError",
    "UsageError",
    "Where",
    "parse_heads",
]
