"""What a user does with a model that runs somewhere else, beside the same with one that is loaded here.

Run as `python -m tests.headscope.remote_client HOST FOLDER`; it writes one JSON object, place -> scenario -> number. A
number is the largest difference from the model that is loaded here, `inf` where shapes or texts differ. It runs outside
pytest because checked annotations would make the code that travels another one.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from head_analysis import retrieval_scores
from head_analysis.top_keys import TopKeys
from headscope import HookedModel, Where
from headscope.answers import asked_of
from headscope.errors import HeadscopeError, UsageError
from headscope.hooks import Context, Record, Site
from interventions import ACT, VAR, VHR, Ablate, Scale
from tasks.needle import Needle
from tasks.scenes import scene_captions
from tests.headscope.processors import word_tokenizer
from tests.tiny import build

NEEDLE = Needle(lengths=(64,), depths=2, seed=0)
WORDS = ["w11 w22 w60", "w40 w41 w80 w12 w33 w70"]


FIRST, SECOND, ANYWHERE = Where(layers=(0,)), Where(layers=(1,)), Where()


@dataclass(frozen=True)
class Halve:
    """A user's own edit, which notes its calls."""

    site: Site = "z"
    where: Where = FIRST
    calls: list[tuple[int, int]] = field(default_factory=list, compare=False)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        self.calls.append((ctx.layer, act.shape[1]))
        return act / 2


@dataclass(frozen=True)
class Summed:
    """Adds up in place what it sees, in a tensor that it holds from the beginning."""

    total: dict[str, Tensor]
    site: Site = "resid_post"
    where: Where = SECOND

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        self.total["sum"] += act.sum()
        return act


@dataclass(frozen=True)
class Fails:
    """Refuses every activation; or breaks, where `error` is no error of headscope's."""

    error: str = "usage"
    site: Site = "pattern"
    where: Where = SECOND

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        if self.error == "usage":
            raise UsageError(f"layer {ctx.layer} is not to be read")
        return act @ torch.zeros(1, 2, 3)


@dataclass(frozen=True)
class Keeps:
    """Keeps what cannot be sent back."""

    site: Site = "z"
    where: Where = ANYWHERE
    kept: list[Any] = field(default_factory=list, compare=False)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        self.kept.append(Path("here"))
        return act


@dataclass(frozen=True)
class Holds:
    """Holds the hooked model itself."""

    model: Any
    site: Site = "z"
    where: Where = ANYWHERE

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        return act * len(self.model.sites)


def plain(model: HookedModel) -> Any:
    return model.forward(prompts(model)).logits


def edited(model: HookedModel) -> Any:
    with model.hooks(Ablate("L1H0", "uniform"), Scale("L0H1", 0.5), Halve(where=Where(layers=(1,), positions=(-1,)))):
        return model.forward(prompts(model)).logits


def recorded(model: HookedModel) -> Any:
    """Every site of every layer, and one record that has seen a pass before."""
    sites = ("resid_pre", "resid_mid", "resid_post", "q", "k", "v", "mask", "pattern", "z", "attn_out", "mlp_out")
    records = [Record(site) for site in sites]  # type: ignore[arg-type]
    halve, summed = Halve(), Summed({"sum": torch.zeros(())})
    for _ in range(2):
        with model.hooks(halve, *records, summed, records[0]):
            model.forward(prompts(model))
    assert halve.calls
    return [record.seen for record in records], halve.calls, summed.total


def read(model: HookedModel) -> Any:
    found = model.attention_statistics(prompts(model), groups={"first": [0, 1]}, distances=True, tokens=True)
    mass = model.attention_mass(prompts(model), {"last": [-1]}, where=Where(layers=(1,)))
    return [vars(one) for one in found.samples], mass, model.attention_rows(prompts(model))


def answered(model: HookedModel) -> Any:
    keys, halve = TopKeys(2), Halve(where=Where(phase="decode", layers=(0, 1)))
    with model.hooks(halve, keys):
        answers = model.generate(prompts(model), max_new_tokens=6)
    return [one.tokens for one in answers], keys.seen, halve.calls


def stopped(model: HookedModel) -> Any:
    """An answer that ends before its limit, by what it says."""
    record = Record("z", Where(phase="decode", layers=(0,)))
    with model.hooks(record):
        first = model.generate(prompts(model)[0], max_new_tokens=8)
        word = first.text.split()[1]
        again = model.generate(prompts(model)[0], max_new_tokens=8, stop=[word])
    assert again.finish == "stop"
    assert len(again.tokens) < len(first.tokens)
    return first.tokens, again.tokens, record.seen


def retrieved(model: HookedModel) -> Any:
    scores = retrieval_scores(model, NEEDLE).samples
    assert scores.max() > 0.5
    return scores


def captioned(*operators: Any) -> Callable[[HookedModel], Any]:
    def run(model: HookedModel) -> Any:
        record = Record("z", Where(layers=(1,), positions=(-1,)))
        with model.hooks(*operators, record):
            answers = model.generate(prompts(model), max_new_tokens=5)
            logits = model.forward(prompts(model)[:1], last=1).logits
        return [one.tokens for one in answers], logits, record.seen

    return run


def tower(model: HookedModel) -> Any:
    """The vision tower, which runs in the first pass of an answer only."""
    record, scale = Record("z", Where(stack="vision")), Halve(where=Where(stack="vision", layers=(0,)))
    with model.hooks(scale, record):
        answer = model.generate(prompts(model)[0], max_new_tokens=3)
    assert scale.calls
    return answer.tokens, record.seen, scale.calls


def prompts(model: HookedModel) -> Any:
    if model.name == "zoo:needle":
        return asked_of(model, NEEDLE, None)[0]
    return scene_captions(2, seed=1).samples(model.processor)[:2] if model.sees_images else WORDS


SCENARIOS: dict[str, dict[str, Callable[[HookedModel], Any]]] = {
    "llama": {
        "plain": plain, "edited": edited, "recorded": recorded, "read": read, "answered": answered, "stopped": stopped,
    },
    "gpt2": {"edited": edited, "recorded": recorded, "read": read, "answered": answered},
    "zoo:needle": {"edited": edited, "retrieved": retrieved},
    "zoo:scenes": {
        "recorded": recorded,
        "tower": tower,
        "none": captioned(),
        "VAR": captioned(VAR(layers=(1, 2), tau=2.0)),
        "ACT": captioned(ACT(layers=(1, 2), alpha=2.0)),
        "VHR": captioned(VHR(alpha=3.0)),
    },
}  # fmt: skip
"""Model -> name -> what is done with it."""

ON_SERVER = {
    "llama": ("plain", "edited", "recorded", "answered", "stopped"),
    "gpt2": ("edited",),
    "zoo:needle": ("retrieved",),
    "zoo:scenes": ("VHR", "VAR", "tower", "recorded"),
}
"""What is sent to the server too."""


def distance(a: Any, b: Any) -> float:
    """Largest difference between two results of one form; infinite where the forms differ."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        same = (a == b) | (a != a) & (b != b)  # scores hold -inf, and NaN equals itself here
        return torch.where(same, 0.0, (a.double() - b.double()).abs()).max().item() if a.numel() else 0.0
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return max((distance(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return max((distance(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    return 0.0 if type(a) is type(b) and a == b else float("inf")


def refused(model: HookedModel, *hooks: Any) -> str:
    """The kind of error and its message; afterwards the model must be as before."""
    before = plain(model)
    try:
        with model.hooks(*hooks):
            plain(model)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        kind = isinstance(error, HeadscopeError)
    else:
        return "nothing was refused"
    return message if distance(plain(model), before) == 0 and kind else f"[{kind}] {message}"


def main(host: str, folder: Path) -> dict[str, Any]:
    folders = {name: folder / name for name in ("llama", "gpt2", "missing")}
    for name, path in folders.items():
        build("llama" if name == "missing" else name).save_pretrained(path)
        word_tokenizer().save_pretrained(path)
    found: dict[str, Any] = {"local": {}, host: {}, "sites": {}, "errors": {}, "effects": {}}
    for name, scenarios in SCENARIOS.items():
        source = str(folders.get(name, name))
        here = HookedModel.load(source)
        expected = {scenario: run(here) for scenario, run in scenarios.items()}
        for scenario, other in (("edited", "plain"), ("VAR", "none"), ("ACT", "none"), ("VHR", "none")):
            if scenario in expected and other in expected:
                found["effects"][scenario] = distance(expected[scenario], expected[other])
        for place in ("local", host):
            model = HookedModel.load(source, backend="nnsight", remote=place)
            alike = [replace(site, rows_error=0.0) for site in here.sites]
            found["sites"][f"{'local' if place == 'local' else 'server'} {name}"] = alike == [
                replace(site, rows_error=0.0) for site in model.sites
            ]
            for scenario, run in scenarios.items():
                if place == "local" or scenario in ON_SERVER[name]:
                    found[place][f"{name} {scenario}"] = distance(expected[scenario], run(model))
            if name == "llama":
                found["errors"] |= errors(place if place == "local" else "server", model)
    found["server"] = found.pop(host)
    found["errors"] |= failures(folder, host)
    return found


def errors(place: str, model: HookedModel) -> dict[str, str]:
    """What is said of hooks that cannot be sent or break there."""
    hooks = {"usage": Fails(), "broken": Fails("broken"), "keeps": Keeps(), "holds": Holds(model)}
    return {f"{place} {name}": refused(model, hook) for name, hook in hooks.items()}


def failures(folder: Path, host: str) -> dict[str, str]:
    """What is said where weights would be needed, nobody answers, or the server does not have the model."""
    closed = "http://127.0.0.1:9"
    asked = {
        "weights": lambda: HookedModel.load(folder / "llama", backend="nnsight", remote=host).output_weights(0),
        "closed": lambda: plain(HookedModel.load(folder / "llama", backend="nnsight", remote=closed)),
        "missing": lambda: plain(HookedModel.load(folder / "missing", backend="nnsight", remote=host)),
    }
    found = {}
    for name, ask in asked.items():
        try:
            ask()
        except HeadscopeError as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    with torch.no_grad():
        result = main(sys.argv[1], Path(sys.argv[2]))
    print("RESULT " + json.dumps(result))
