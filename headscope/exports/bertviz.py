"""Attention as BertViz takes it (Vig 2019, https://arxiv.org/abs/1906.05714; arguments as in bertviz 1.4).

`head_view` and `model_view` take `attention`, a list with a tensor [1 head query key] for each layer, `tokens`, and
`include_layers`, which both chooses from the list and numbers the layers on the page. Layers that were not asked for are
therefore in the list as empty tensors [1 head 0 0]. A page holds every weight as text, about 20 bytes each.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch

from headscope.errors import UsageError
from headscope.exports.headvis import token_texts
from headscope.files import write_new
from headscope.hooks import Where
from headscope.model import HookedModel
from headscope.samples import Sample

MOST_TOKENS = 256
"""Most tokens of a text unless more are asked for; 32 layers x 32 heads then are 67 million weights."""


def bertviz_arguments(
    model: HookedModel,
    sample: Sample | str,
    *,
    layers: Sequence[int] | None = None,
    most_tokens: int = MOST_TOKENS,
) -> dict[str, Any]:
    """Keyword arguments of `bertviz.head_view` and `bertviz.model_view`: all layers, or those named, over one sample.

    BertViz needs n x n for every head; UsageError for a sample of more than `most_tokens` tokens.
    """
    tokens = token_texts(model, sample)
    if len(tokens) > most_tokens:
        raise UsageError(
            f"the text has {len(tokens)} tokens, and BertViz holds {len(tokens)} x {len(tokens)} weights a head; shorten "
            f"it to {most_tokens} tokens, raise most_tokens, or write sparse rows (write_headvis)"
        )
    chosen = sorted(set(model.layers() if layers is None else layers))
    if not chosen:
        raise UsageError(f"BertViz was to show no layers; name some of {list(model.layers())}, or leave layers out")
    found = model.record([sample], "pattern", where=Where(layers=tuple(chosen)))[0]
    rows = dict(zip(chosen, found.float().cpu(), strict=True))
    empty = torch.zeros(1, found.shape[1], 0, 0)
    attention = [rows[layer].unsqueeze(0) if layer in rows else empty for layer in range(model.n_layers)]
    return {"attention": attention, "tokens": tokens, "include_layers": chosen}


def write_bertviz(
    model: HookedModel,
    sample: Sample | str,
    path: str | Path,
    *,
    layers: Sequence[int] | None = None,
    view: Literal["head", "model"] = "head",
    most_tokens: int = MOST_TOKENS,
) -> None:
    """A new HTML page with BertViz's head view, or its model view; needs the extra `headscope[bertviz]`.

    The page holds all data, but BertViz lets it fetch its scripts (d3, jQuery, require.js) from cdnjs.cloudflare.com when
    it is opened. UsageError without the package, and as for `bertviz_arguments`.
    """
    if view not in ("head", "model"):
        raise UsageError(f"view {view!r} is not known; use head or model")
    try:
        bertviz = import_module("bertviz")  # an extra, unknown to the type checker where it is not installed
    except ImportError as error:
        raise UsageError(
            "a page of BertViz needs bertviz; install it with: pip install 'headscope[bertviz]'"
        ) from error
    arguments = bertviz_arguments(model, sample, layers=layers, most_tokens=most_tokens)
    show = bertviz.head_view if view == "head" else bertviz.model_view
    # Made pretty here, so that the tokens that have to be made harmless are known.
    arguments["tokens"] = bertviz.util.format_special_chars(arguments["tokens"])
    page = show(**arguments, prettify_tokens=False, html_action="return").data
    text = f'<!doctype html>\n<meta charset="utf-8">\n{_harmless(page, arguments["tokens"])}\n'
    write_new(Path(path), lambda file: _write(file, text))


def _harmless(page: str, tokens: Sequence[str]) -> str:
    """The page with `<` in tokens written as JavaScript escapes: a text with `</script>` in it would end the script."""
    for token in sorted({token for token in tokens if "<" in token}, key=len, reverse=True):
        quoted = json.dumps(token)
        page = page.replace(quoted, quoted.replace("<", "\\u003c"))
    return page


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
