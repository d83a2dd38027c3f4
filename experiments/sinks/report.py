"""What is found of a text model's sinks, as the sections of a report."""

from collections.abc import Mapping

import pandas as pd

from experiments.reporting import Section
from experiments.sinks.removal import How, Metric, Removal
from head_analysis import TextSinks
from head_analysis.text_sink_tables import LATER, START
from headscope.figures import causal_bars, head_map, norm_lines
from headscope.model import HookedModel

_SHOWN = 15
_CUT = {
    "masked": "as if it were not there (rows sum to one over the keys that are left)",
    "zeroed": "by setting its weight to zero after the softmax (rows sum to less than one)",
}


_METRICS: Mapping[Metric, str] = {
    "loss": "change in next-token loss (nats)",
    "kl": "divergence from the plain model (nats)",
}


def sink_sections(model: HookedModel, found: TextSinks) -> list[Section]:
    """Where sinks are, which tokens, what they look like inside, and how steady all this is."""
    tokens = found.by_token()
    sections: list[Section] = [
        ("Where the sinks are", _summary(model, found)),
        ("Attention on the first token", head_map(found.first)),
        ("Attention on later sinks", head_map(found.later)),
        ("Heads with the most attention on sinks", found.by_head().head(_SHOWN)),
        ("Layer by layer: share of heads with sinks", found.by_layer()),
        (
            "What the sinks are",
            "“n” is how often a token stands in the texts, “as_sink” how many of these are a sink of some head, "
            "“heads” the share of all pairs of an occurrence and a head in which it is one, “received” the mean "
            "attention it then gets from the queries that see it, “place” where it is one most often. Tokens that "
            "are sinks in few of their occurrences, or in few heads, are what some heads look at, rather than sinks "
            "of the model.",
        ),
        ("Tokens", tokens.head(_SHOWN)),
        ("Places", found.by_place().head(_SHOWN)),
        ("What sinks look like inside", _inside(found)),
    ]
    norms = found.by_norm()
    titles = {"residual": "Residual norm before each layer", "value": "Norm of values in the heads whose sink it is"}
    for column, title in titles.items():
        if (norms[column] > 0).any():
            sections.append((title, norm_lines(norms, column, title=title.lower())))
    return [*sections, ("How steady", _STEADY), *_steadiness(found)]


def removal_sections(found: TextSinks, removal: Removal, how: How) -> list[Section]:
    """What cutting the sinks does, beside its controls."""
    if removal.table["kind"].eq("none").all():
        return [("Without the sinks", "No token is a sink of any head on these texts, so there is nothing to cut.")]
    n = removal.table["sample"].nunique()
    text = (
        f"The sinks of the first {n} texts were cut, one text at a time: hidden {_CUT[how]} from every query behind "
        "them, in one pass over the text, while each still saw itself. “Own heads” are those whose sink a token is "
        "on that text; “all heads” cuts it in every head. Controls in the same heads: as many other tokens, and so "
        "many others that they got as much attention; “mass” says how much attention the cut tokens had in the "
        "plain model, “tokens” how many there were, means over the heads that lost one. Bars are the change in "
        "next-token loss against the plain model, paired; whiskers are 95 % intervals over texts, for controls over "
        "draws and texts.\n\nWhere the control with as much attention does as much as the sinks, it is the "
        "attention that counts and not the tokens. A control whose mass stays below the sinks' could not be matched."
    )
    columns = ["condition", "mean", "difference", "difference_low", "difference_high", "p", "mass", "tokens", "heads"]
    sections: list[Section] = [("Without the sinks", text)]
    for metric, title in _METRICS.items():
        rows = removal.families(metric)
        sections.append((title[0].upper() + title[1:], causal_bars(_changes(rows), title=title)))
        sections.append((f"All numbers: {metric}", rows[[*columns, "n"]]))
    contrasts = removal.contrasts()
    if len(contrasts):
        sections.append(("How much more the sinks matter than their controls: loss (nats), paired", contrasts))
    return sections


def _changes(rows: pd.DataFrame) -> pd.DataFrame:
    """Each condition's difference from the plain model, with its interval."""
    apart = rows[rows["kind"] != "none"].drop(columns=["mean", "low", "high"])
    names = {"difference": "mean", "difference_low": "low", "difference_high": "high"}
    return apart.rename(columns=names)


def _summary(model: HookedModel, found: TextSinks) -> str:
    lengths = [len(text) for text in found.texts]
    layers = found.by_layer()
    spread = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    return (
        f"{len(lengths)} texts of {spread} tokens, read by {model.name} in one pass each. A token is a sink of a "
        f"head on a text if it gets {found.rule}. All queries count.\n\nThe first token ({_firsts(found)}) is a sink "
        f"in {layers['first token'].mean():.1%} of all pairs of a text and a head and gets "
        f"{found.first.values[found.first.exists].mean():.1%} of the attention; {layers['later sinks'].mean():.1%} "
        f"of the pairs have later sinks, which get {found.later.values[found.later.exists].mean():.1%}. A head with "
        "many later sinks looks for a kind of token, and may have a use for what it finds there; the removal below, "
        "where it was asked for, tells."
    )


def _firsts(found: TextSinks) -> str:
    names = pd.Series([text[0] for text in found.texts]).value_counts()
    return f"always {names.index[0]!r}" if len(names) == 1 else f"{len(names)} different ones"


def _inside(found: TextSinks) -> str:
    dimensions = found.dimensions
    told = (
        f"Dimensions of the residual stream that are massive at the first token, which is where sinks are known by: "
        f"{dimensions}. A state of normal numbers would hold one as large with probability {dimensions.chance:.2g}"
    )
    return (
        f"{told}{'' if dimensions.chance < 0.01 else ', so it proves nothing here'}. Below, norms of the {START}'s "
        f"and the {LATER}' states, as multiples of the median token's; a residual norm far above 1 and values far "
        "below it are what is reported of sinks in larger models. The line of the values is missing where no head "
        "has such a sink."
    )


_STEADY = (
    "Heads are ranked by one half of the texts and by the other, drawn anew 200 times: overlap is the share of the "
    "best k that both have, tau Kendall's, over all heads. Below that, whether later sinks of two texts are the "
    "same tokens or stand at the same places, beside as many tokens of each text drawn at random."
)


def _steadiness(found: TextSinks) -> list[Section]:
    same = ("Later sinks of two texts", found.sameness())
    return [same] if len(found.texts) < 2 else [("Rankings of heads", found.stability()), same]
