"""Steering moves what it says by as much as it says, projecting takes away, and what probes find is put to the test."""

import numpy as np
import pytest
import torch

from headscope import Head, HookedModel, UsageError
from interventions import Project, Steer
from probes import LinearProbe, MassMeanProbe, features, probe_heads
from tasks.ioi import IOI
from tests.headscope.test_hooks import gap
from tests.interventions.cases import at_once, first, logits, model, recorded, words
from tests.planted.naming import MOVER, NAMES, NEGATIVE, naming_model

HALF = len(NAMES) // 2
IDLE = Head(2, 3)  # it looks at all tokens alike and writes nothing


def vector(size: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_z_of_a_head_moves_by_its_direction_and_others_stay():
    inputs, directions = first("llama"), {"L0H1": vector(8), (0, 3): vector(8, seed=1)}
    plain, ours = (recorded(model("llama"), inputs, "z", *hooks)[0] for hooks in ((), (Steer(directions, 2),)))
    assert gap(ours[:, :, 1], plain[:, :, 1] + 2 * vector(8)) < 1e-6
    assert gap(ours[:, :, 3], plain[:, :, 3] + 2 * vector(8, seed=1)) < 1e-6
    assert torch.equal(ours[:, :, [0, 2]], plain[:, :, [0, 2]])


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
def test_layers_move_at_their_site(site):
    inputs, steer = first("llama"), Steer({1: vector(32)}, 0.5, site=site)
    plain, ours = (recorded(model("llama"), inputs, site, *hooks) for hooks in ((), (steer,)))
    assert torch.equal(ours[0], plain[0])
    assert gap(ours[1], plain[1] + 0.5 * vector(32)) < 1e-5


def test_strength_zero_and_back_again_change_nothing():
    inputs, steer = first("llama"), Steer({1: vector(32)}, 3, site="resid_mid")
    plain = logits(model("llama"), inputs)
    assert torch.equal(logits(model("llama"), inputs, Steer({1: vector(32)}, 0)), plain)
    back = Steer({1: vector(32)}, -3, site="resid_mid")
    assert gap(logits(model("llama"), inputs, steer, back), plain) < 1e-4
    assert gap(logits(model("llama"), inputs, steer), plain) > 0.1


def test_projecting_leaves_nothing_along_the_direction_and_all_else():
    inputs, unit = first("llama"), torch.nn.functional.normalize(vector(32), dim=0)
    project = Project({0: 7 * vector(32)})  # its length does not count
    plain, ours = (recorded(model("llama"), inputs, "resid_post", *hooks)[0] for hooks in ((), (project,)))
    assert (ours @ unit).abs().max() < 1e-5
    assert gap(ours, plain - (plain @ unit)[..., None] * unit) < 1e-5
    twice = recorded(model("llama"), inputs, "resid_post", project, project)[0]
    assert gap(twice, ours) < 1e-5


def test_projecting_to_a_centre_leaves_what_the_centre_has():
    inputs, unit = first("llama"), torch.nn.functional.normalize(vector(8), dim=0)
    project = Project({"L1H2": vector(8)}, centres={"L1H2": vector(8, seed=3)})
    plain, ours = (recorded(model("llama"), inputs, "z", *hooks)[1][:, :, 2] for hooks in ((), (project,)))
    assert gap(ours @ unit, (vector(8, seed=3) @ unit).expand(ours.shape[:2])) < 1e-5
    assert gap(ours - (ours @ unit)[..., None] * unit, plain - (plain @ unit)[..., None] * unit) < 1e-5


def test_phases_and_positions_are_told_apart():
    inputs, more, at = first("llama"), words(3, seed=1), {0: vector(32)}
    plain, decode, prefill, last = (
        at_once(model("llama"), inputs, more, *hooks)
        for hooks in ((), (Steer(at, phase="decode"),), (Steer(at, phase="prefill"),), (Steer(at, positions=[-1]),))
    )
    found = [plain, decode, prefill, last]
    assert min(gap(a, b) for i, a in enumerate(found) for b in found[:i]) > 1e-3


def test_the_control_has_other_directions_of_the_same_length():
    steer = Steer({"L0H1": vector(8), "L1H0": 5 * vector(8)}, 2, phase="decode")
    control = steer.random_like(100)
    assert isinstance(control, Steer)
    assert (control.strength, control.phase, control.places) == (2.0, "decode", steer.places)
    for head, mine in steer.directions.items():
        assert torch.isclose(control.directions[head].norm(), mine.norm())
        assert torch.cosine_similarity(control.directions[head], mine, 0) < 0.95
        assert torch.equal(control.directions[head], steer.random_like(100).directions[head])
        assert not torch.equal(control.directions[head], steer.random_like(1).directions[head])
    assert repr(steer) == "Steer({L0H1, L1H0}, site='z', phase='decode', strength=2.0)"
    centred = Project({0: vector(32)}, centres={0: vector(32, seed=1)})
    assert centred.random_like(3).centres == centred.centres


@pytest.fixture(scope="module")
def naming() -> HookedModel:
    return naming_model()


@pytest.fixture(scope="module")
def asked(naming) -> tuple[list, np.ndarray]:
    """Prompts, and whether the indirect object is among the second half of the names."""
    samples = IOI(n=96, names=NAMES).samples(naming.tokenizer)
    return samples, np.array([NAMES.index(sample.meta["IO"]) >= HALF for sample in samples]).astype(int)


def halves(naming: HookedModel, samples: list, *hooks: object) -> torch.Tensor:
    """Logits of the second half of the names above those of the first, at the last token of each sample."""
    ids = naming.tokenizer.convert_tokens_to_ids(list(NAMES))
    with naming.hooks(*hooks):
        last = torch.cat([naming.forward([sample], last=1).logits[:, -1] for sample in samples])
    return last[:, ids[HALF:]].sum(1) - last[:, ids[:HALF]].sum(1)


@pytest.mark.parametrize("probe", [LinearProbe(), MassMeanProbe()])
def test_what_a_probe_reads_from_the_mover_steers_the_answer_and_a_random_direction_does_not(naming, asked, probe):
    samples, labels = asked
    z = features(naming, samples, site="z").by_head()[MOVER]
    direction = probe.fit(z, labels).direction()
    some = samples[:8]
    plain = halves(naming, some)
    steer = Steer({MOVER: direction}, 4)
    up = (halves(naming, some, steer) - plain).mean()
    down = (halves(naming, some, Steer({MOVER: direction}, -4)) - plain).mean()
    random = torch.stack([(halves(naming, some, steer.random_like(seed)) - plain).mean() for seed in range(5)])
    assert up > 5
    assert torch.isclose(up, -down, rtol=0.05)
    assert random.abs().max() < up / 2
    assert random.abs().mean() < up / 4
    with naming.hooks(steer):  # the probe's own reading moves too
        moved = features(naming, samples, site="z").by_head()[MOVER]
    assert probe.predict(moved).mean() > 0.95
    with naming.hooks(steer.random_like(0)):
        moved = features(naming, samples, site="z").by_head()[MOVER]
    assert probe.score(moved, labels) > 0.8


def test_projecting_the_mover_takes_the_answer_and_its_reading_away(naming, asked):
    samples, labels = asked
    z = features(naming, samples, site="z").by_head()
    probe = MassMeanProbe().fit(z[MOVER], labels)
    project = Project({head: probe.direction() for head in (MOVER, NEGATIVE)})
    signs = torch.from_numpy(2 * labels[:12] - 1)
    plain, ours, control = (
        (halves(naming, samples[:12], *hooks) * signs).mean() for hooks in ((), (project,), (project.random_like(0),))
    )
    assert plain > 2
    assert ours < plain / 2
    assert control > 0.9 * plain


def test_a_head_may_know_what_nobody_reads(naming, asked):
    samples, _ = asked
    labels = [NAMES.index(sample.meta["S2"]) >= HALF for sample in samples]
    result = probe_heads(naming, samples, labels, layers=(2,), baselines=())
    assert set(result.found) == {
        Head(2, 0),
        IDLE,
    }  # they see all names alike, the subject twice; the movers see no subject
    z = features(naming, samples, site="z").by_head()[IDLE]
    idle = Steer({IDLE: LinearProbe().fit(z, labels).direction()}, 50)
    assert gap(halves(naming, samples[:4], idle), halves(naming, samples[:4])) < 1e-3


def test_what_cannot_be_steered_is_refused():
    with pytest.raises(UsageError, match="no direction is given"):
        Steer({})
    with pytest.raises(UsageError, match="some directions are of heads and some of layers"):
        Steer({"L0H1": vector(8), 1: vector(32)})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="site 'z' does not go with directions of layers"):
        Steer({1: vector(32)}, site="z")
    with pytest.raises(UsageError, match="site 'resid_post' does not go with directions of heads"):
        Steer({"L0H1": vector(8)}, site="resid_post")
    with pytest.raises(UsageError, match=r"the direction of layer 1 is torch.float32 \[32\]; give a finite"):
        Steer({1: vector(32) / 0})
    with pytest.raises(UsageError, match="centres have no vector for L1H0"):
        Project({"L0H1": vector(8), "L1H0": vector(8)}, centres={"L0H1": vector(8)})
    with pytest.raises(UsageError, match="a direction of layer 0 has 7 entries, and the activations at 'z' 8"):
        logits(model("llama"), first("llama"), Steer({"L0H1": vector(7)}))
    with pytest.raises(UsageError, match="L1H7 asked for, but llama has layers 0-1 with 4 heads"):
        logits(model("llama"), first("llama"), Steer({"L1H7": vector(8)}))
