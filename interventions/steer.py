"""Moves activations along a direction, or takes what lies along it away: from what a probe reads to what the model uses.

A direction that a probe found says what can be read; only an edit says whether the model reads it. `Steer` adds multiples
of the direction (Turner et al. 2023, arXiv 2308.10248; heads at z as in Li et al. 2023, arXiv 2306.03341), `Project` sets
the projection on it to one value for all tokens (directional ablation, Arditi et al. 2024, arXiv 2406.11717). Both act at
every query asked for, in prefill, decode or both, and leave attention rows alone. Their control is `random_like(seed)`:
other directions of the same length.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.errors import UsageError
from headscope.heads import Head
from headscope.hooks import HEAD_SITES, INPUT_SITES, Context, Phase, Region, Site, Where

Place = Head | int
Vectors = Mapping[Place, Float[Tensor, " d"]]
Given = Mapping[Head | str | tuple[int, int], Tensor] | Mapping[int, Tensor]
"""Head -> [d_head], acting at `z`, or layer -> [d_model], acting at `site`."""

_Edit = TypeVar("_Edit", bound="_Along")


@dataclass(frozen=True, eq=False, repr=False)
class _Along(ForBridges):
    """Directions of heads or layers, and the queries at which they count."""

    directions: Vectors = field(repr=False)
    site: Site
    phase: Phase | None
    positions: tuple[int, ...] | None
    region: Region | None
    stack: str | None

    def __repr__(self) -> str:
        known = {one.name: getattr(self, one.name) for one in fields(self) if one.repr}
        said = [f"{name}={value!r}" for name, value in known.items() if value is not None]
        return f"{type(self).__name__}({{{', '.join(map(_name, self.places))}}}, {', '.join(said)})"

    @property
    def places(self) -> tuple[Place, ...]:
        """The heads or layers that are edited."""
        return tuple(self.directions)

    @property
    def where(self) -> Where:
        """The heads or layers, the phase, the positions and the region."""
        heads = tuple(place for place in self.directions if isinstance(place, Head))
        layers = tuple(place for place in self.directions if not isinstance(place, Head))
        return Where(heads or None, layers or None, self.phase, self.positions, self.stack, self.region)

    def random_like(self: _Edit, seed: int) -> _Edit:
        """The same edit along random directions of the same length, evenly drawn: its control."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {
            place: vector.norm() * torch.nn.functional.normalize(torch.randn(len(vector), generator=generator), dim=0)
            for place, vector in self.directions.items()
        }
        return replace(self, directions=drawn)

    def _validate(self) -> None:
        _ = self.where  # refuses a phase or region that is not known
        for place, vector in self.directions.items():
            if vector.ndim != 1 or not vector.is_floating_point() or not vector.isfinite().all():
                raise UsageError(
                    f"the direction of {_name(place)} is {vector.dtype} {list(vector.shape)}; give a finite float "
                    "vector"
                )

    def _vectors(self, act: Tensor, ctx: Context, given: Vectors) -> Tensor:
        """Of the heads of the activation [head d_head], or of its layer [d_model]."""
        places: list[Place] = [Head(ctx.layer, head) for head in ctx.heads] if self.site == "z" else [ctx.layer]
        chosen = [given[place] for place in places]
        for vector in chosen:
            if len(vector) != act.shape[-1]:
                raise UsageError(
                    f"a direction of layer {ctx.layer} has {len(vector)} entries, and the activations at {self.site!r} "
                    f"{act.shape[-1]}; give one that was found at this site of this model"
                )
        stacked = torch.stack(chosen).to(act)
        return stacked if self.site == "z" else stacked[0]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Steer(_Along):
    """Adds `strength` times a direction to the activations of each head (at z) or layer (at `site`).

    `directions` maps heads (`"L5H3"`) to vectors of d_head entries, or layers to vectors of d_model. Those of
    `probes.LinearProbe.direction` and its kin are as long as the spread of the activations along them, so a strength of
    1 is one standard deviation. Raises UsageError for vectors that are none, and for heads and layers at once.
    """

    strength: float

    def __init__(
        self,
        directions: Given,
        strength: float | int = 1.0,
        *,
        site: Site | None = None,
        phase: Phase | None = None,
        positions: Iterable[int] | None = None,
        region: Region | None = None,
        stack: str | None = None,
    ) -> None:
        _set_common(self, directions, site, phase, positions, region, stack)
        object.__setattr__(self, "strength", float(strength))
        self._validate()

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """The activations, moved."""
        act = _wide(act)
        return act + self.strength * self._vectors(act, ctx, self.directions)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Project(_Along):
    """Sets what the activations of each head (at z) or layer (at `site`) have along a direction to one value.

    To that of `centres`, which are activations such as a mean over reference text (head or layer -> vector), or to 0
    without them: "off" then means no projection, which for activations far from the origin is a value of its own. The
    length of a direction does not count. Errors as for `Steer`, and for centres that are missing.
    """

    centres: Vectors | None = field(repr=False)

    def __init__(
        self,
        directions: Given,
        *,
        centres: Given | None = None,
        site: Site | None = None,
        phase: Phase | None = None,
        positions: Iterable[int] | None = None,
        region: Region | None = None,
        stack: str | None = None,
    ) -> None:
        _set_common(self, directions, site, phase, positions, region, stack)
        object.__setattr__(self, "centres", None if centres is None else _keyed(centres))
        self._validate()
        missing = [place for place in self.directions if self.centres is not None and place not in self.centres]
        if missing:
            raise UsageError(f"centres have no vector for {_name(missing[0])}; give one for every direction")

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """The activations without what they had along the direction, the centre's in its place."""
        act = _wide(act)
        unit = torch.nn.functional.normalize(self._vectors(act, ctx, self.directions), dim=-1)
        apart = act if self.centres is None else act - self._vectors(act, ctx, self.centres)
        return act - (apart * unit).sum(-1, keepdim=True) * unit


def _set_common(
    edit: _Along,
    directions: Given,
    site: Site | None,
    phase: Phase | None,
    positions: Iterable[int] | None,
    region: Region | None,
    stack: str | None,
) -> None:
    if not directions:
        raise UsageError("no direction is given; give a tensor for each head or layer, such as {'L5H3': direction}")
    vectors = _keyed(directions)
    kinds = {isinstance(place, Head) for place in vectors}
    if len(kinds) > 1:
        raise UsageError("some directions are of heads and some of layers; give two interventions, one for each")
    site = site or ("z" if kinds == {True} else "resid_post")
    if (site == "z") != (kinds != {False}) or site in (HEAD_SITES - {"z"}) | INPUT_SITES or site not in get_args(Site):
        raise UsageError(
            f"site {site!r} does not go with directions of {'heads' if kinds == {True} else 'layers'}; heads are edited "
            "at 'z', layers at 'resid_pre', 'resid_mid', 'resid_post', 'attn_out' or 'mlp_out'"
        )
    places = None if positions is None else tuple(positions)
    values = (vectors, site, phase, places, region, stack)
    for name, value in zip(_Along.__dataclass_fields__, values, strict=True):
        object.__setattr__(edit, name, value)


def _wide(act: Tensor) -> Tensor:
    """At least float32, in which sums are taken; what comes back is made as narrow as it was by the hooks."""
    return act.to(torch.promote_types(act.dtype, torch.float32))


def _keyed(given: Given) -> dict[Place, Tensor]:
    return {place if isinstance(place, int) else Head.parse(place): vector for place, vector in given.items()}


def _name(place: Place) -> str:
    return str(place) if isinstance(place, Head) else f"layer {place}"
