"""The same numbers through three backends: what is measured, on which families, and the table in the documentation.

`python -m tests.headscope.agreement` measures it again and writes the table into `docs/backends.md`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from head_analysis.vision import divergence
from headscope import Head, HookedModel, Record, UsageError, Where
from headscope.backends import BackendName, wrapped
from headscope.errors import UnsupportedModelError
from headscope.recording import MassReader
from headscope.zoo import zoo_folder
from interventions import ACT, VAR, VHR, Ablate
from tests.interventions.cases import PER_TOKEN, forward, generated, image_of, logits, recorded
from tests.tiny import TINY, Inputs

BACKENDS: tuple[BackendName, ...] = ("transformers", "transformer_lens", "nnsight")
FAMILIES = ("llama", "qwen2", "mistral", "gpt2", "gemma2", "gpt_oss", "llava", "qwen2_vl", "bert")
BAR = 1e-5
HEADS = (Head(0, 1), Head(1, 2))
PAGE = Path(__file__).parents[2] / "docs" / "backends.md"
BEGIN, END = "<!-- agreement: begin -->", "<!-- agreement: end -->"


@dataclass(frozen=True)
class Cell:
    """One measure of one family through one backend."""

    family: str
    measure: str
    backend: str
    difference: float | None
    """Largest difference from the first backend, relative to the largest entry there; None if refused."""
    effect: float | None = None
    """How far the edit moved the logits, on the same scale; None for readings."""
    refused: str = ""

    def __str__(self) -> str:
        if self.refused:
            return "refused"
        return "0" if self.difference == 0 else f"{self.difference:.0e}"


def opened(family: str, backend: BackendName) -> HookedModel:
    """The tiny model of a family through a backend; UnsupportedModelError where that has no way to it."""
    row = TINY[family]
    hf = row.build()
    tokenizer = AutoTokenizer.from_pretrained(zoo_folder("zoo:needle"))  # bridges ask for one; no word of it is used
    return HookedModel(wrapped(hf, tokenizer, family, backend), tokenizer, example=row.inputs(), name=family)


def without_image(inputs: Inputs) -> Inputs:
    """The words of a prompt alone."""
    words = ~image_of(inputs)
    return {name: value[:, words] for name, value in inputs.items() if name in PER_TOKEN}


def retrieval_rows(model: HookedModel, inputs: Inputs) -> Tensor:
    """Attention of the queries that choose an answer's tokens; of the last one where nothing is generated."""
    if not TINY[model.name].generates:
        return torch.stack([*recorded(model, inputs, "pattern", where=Where(positions=(-1,))).values()])
    record = Record("pattern", Where(phase="decode"))
    generated(model, inputs, 3, record)
    return torch.cat([rows.flatten() for layer in sorted(record.seen) for rows in record.seen[layer]])


def sink_mass(model: HookedModel, inputs: Inputs) -> Tensor:
    """Attention of every query on the first token."""
    reader = MassReader(Where(), [[[0]]])
    with model.hooks(reader):
        forward(model, inputs)
    return reader.of_sample(0)


def vhd(model: HookedModel, inputs: Inputs) -> Tensor:
    """Divergence of the last query's head outputs with and without the image."""
    last = Where(positions=(-1,))
    both = (recorded(model, given, "z", where=last) for given in (inputs, without_image(inputs)))
    seen, blind = (torch.stack([found[layer] for layer in sorted(found)]) for found in both)
    return divergence(seen, blind)


READINGS: dict[str, Callable[[HookedModel, Inputs], Tensor]] = {
    "retrieval rows": retrieval_rows,
    "sink mass": sink_mass,
    "VHD": vhd,
}
SINKS = {"dims": (0, 1, 2, 3), "tau": 1.5, "layers": (0, 1), "min_image": 0.02, "rho_nonsink": 0.2}
EDITS = {
    "z ablation": Ablate(HEADS),
    "ACT": ACT(layers=(0, 1), alpha=1.5, min_queries=2),
    "VAR": VAR(**SINKS),
    "VHR": VHR(),
}
MEASURES = (*READINGS, *EDITS)
OF_IMAGES = ("VHD", "VAR", "VHR")


def applies(family: str, measure: str) -> bool:
    """Whether a family has such a number at all: images for some, causal attention for ACT."""
    if measure in OF_IMAGES:
        return TINY[family].kind == "vlm"
    return measure != "ACT" or TINY[family].kind != "encoder"


def measured(family: str) -> list[Cell]:
    """All cells of a family, the first backend's among them with difference 0."""
    inputs, cells = TINY[family].inputs(), []
    values: dict[str, Tensor] = {}
    for backend in BACKENDS:
        measures = [measure for measure in MEASURES if applies(family, measure)]
        try:
            model = opened(family, backend)
        except UnsupportedModelError as error:
            cells += [Cell(family, measure, backend, None, refused=str(error)) for measure in measures]
            continue
        for measure in measures:
            cells.append(_cell(model, inputs, measure, backend, values))
    return cells


def _cell(model: HookedModel, inputs: Inputs, measure: str, backend: str, values: dict[str, Tensor]) -> Cell:
    effect = None
    try:
        if measure in READINGS:
            value = READINGS[measure](model, inputs)
        else:
            value = logits(model, inputs, EDITS[measure])
            effect = _difference(value, forward(model, inputs))
    except (UnsupportedModelError, UsageError) as error:
        return Cell(model.name, measure, backend, None, refused=str(error))
    return Cell(model.name, measure, backend, _difference(value, values.setdefault(measure, value)), effect)


def _difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def page_table(cells: list[Cell]) -> str:
    """The differences as the documentation shows them: a row a family, two numbers a measure."""
    lines = [f"| family | {' | '.join(MEASURES)} |", f"|---|{'---|' * len(MEASURES)}"]
    for family in FAMILIES:
        row = []
        for measure in MEASURES:
            others = [c for c in cells if (c.family, c.measure) == (family, measure) and c.backend != BACKENDS[0]]
            row.append(" / ".join(map(str, others)) or "–")
        lines.append(f"| {family} | {' | '.join(row)} |")
    return "\n".join(lines)


def _write_page() -> None:
    cells = [cell for family in FAMILIES for cell in measured(family)]
    text = PAGE.read_text("utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{page_table(cells)}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    _write_page()
