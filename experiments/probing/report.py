"""The report of probes: a figure for every set and site, beside its controls, and tables of all numbers."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from experiments.probing.enough_draws import note_on
from experiments.probing.places import over_seeds
from experiments.reporting import Section
from headscope.figures.layout import KINDS, QUIET, lay_out, plain
from probes import ProbeResult

_NUMBERS = ("low", "high", "control", "control_low", "control_high", "selectivity", "fdr", "random", "untrained")
_FEWER = ("majority", "mean", "bits", "compression", "control_compression", "n", "clusters")


def probe_sections(found: Mapping[str, ProbeResult], shares: Mapping[str, pd.DataFrame]) -> list[Section]:
    """What is read where; then, for sets whose options were scored, how often the model itself chooses each."""
    text = (
        "Each score is of samples that the probe was not fitted to; samples of a group (a template, a scene, a text) "
        "stay together. Intervals are 95 %, drawn over groups. The control is the same probe on labels that mean "
        "nothing, selectivity what the score is above it; a layer or head is found where no more than 5 % of those found "
        "are expected to be chance (Benjamini-Hochberg). random: the embeddings of the tokens read, projected at random; "
        "untrained: the model with fresh weights; majority: the most frequent answer."
    )
    sections: list[Section] = [("What can be read, and where", text)]
    for key, one in found.items():
        first = "name" if "name" in one.table else "layer"
        columns = [first, one.measure, *(name for name in (*_NUMBERS, *_FEWER) if name in one.table)]
        note = note_on(one)
        sections += [(f"{key}: too few draws", f"{note[0].upper()}{note[1:]}.")] if note else []
        sections += [(key, one.plot()), (f"{key}: all numbers", one.table[columns])]
    if len(found) > len({key.rsplit(" seed ", 1)[0] for key in found}):
        sections.append(("Over seeds", over_seeds(found)))
    for name, table in shares.items():
        sections += [(f"{name}: what the model itself chooses", share_bars(table, name)), (f"{name}: shares", table)]
    return sections


def share_bars(table: pd.DataFrame, name: str) -> go.Figure:
    """Share of every kind of option, with its interval; those that are right in some sample in the treatment's colour."""
    bars = go.Bar(
        y=[plain(kind) for kind in table["kind"]],
        x=table["share"].tolist(),
        orientation="h",
        marker={"color": [KINDS["treatment"] if right else QUIET for right in table["right"]]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": (table["high"] - table["share"]).tolist(),
            "arrayminus": (table["share"] - table["low"]).tolist(),
        },
        hovertemplate="%{y} <b>%{x:.3f}</b><extra></extra>",
    )
    about = f"{int(table['right'].sum())} samples; by likelihood; whiskers: 95 % (Wilson)"
    figure = lay_out([bars], f"{name}: share of every option", about, height=150 + 36 * len(table))
    figure.update_xaxes(range=[0, 1], title="share of the samples that offer it")
    return figure
