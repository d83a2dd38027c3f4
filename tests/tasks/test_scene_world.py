"""Synthetic scenes: the habit holds or is broken, boxes hold the object's pixels, equal seeds give equal pixels."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from headscope.errors import UsageError
from tasks.annotated import AnnotatedImage, Thing
from tasks.scene_glyphs import GLYPHS
from tasks.scene_world import COLOURS, KINDS, PALETTE, PARTNERS, SIZE, Scene, SceneThing, scene, scenes

USUAL, VIOLATING = (scenes(300, seed=3, violating=broken) for broken in (False, True))
EVERY = [*USUAL, *VIOLATING]


def test_kinds_come_in_pairs_of_partners():
    assert len(KINDS) == 16
    assert PARTNERS["cup"] == "spoon"
    assert PARTNERS["fork"] == "knife"
    assert all(PARTNERS[PARTNERS[kind]] == kind != PARTNERS[kind] for kind in KINDS)


def test_glyphs_fill_their_boxes_and_differ():
    for kind, glyph in GLYPHS.items():
        assert glyph.shape == (8, 8), kind
        assert all(side.any() for side in (glyph[0], glyph[-1], glyph[:, 0], glyph[:, -1])), kind
        others = [other for name, other in GLYPHS.items() if name != kind]
        assert min((glyph != other).sum() for other in others) >= 16, kind


# -- the habit -------------------------------------------------------------------------------------------------------


def alone(one: Scene) -> list[str]:
    """Kinds whose partner is not there."""
    return [kind for kind in one.kinds if PARTNERS[kind] not in one.kinds]


def test_partners_come_together_where_the_prior_holds():
    assert {(len(one.things), len(alone(one))) for one in USUAL} == {(2, 0), (3, 1), (4, 0)}


def test_no_partner_is_there_where_it_is_violated():
    assert all(alone(one) == list(one.kinds) for one in VIOLATING)
    assert {len(one.things) for one in VIOLATING} == {2, 3, 4}


@pytest.mark.parametrize("group", [USUAL, VIOLATING], ids=["usual", "violating"])
def test_kinds_and_colours_are_otherwise_drawn_evenly(group):
    kinds = Counter(kind for one in group for kind in one.kinds)
    colours = Counter(thing.colour for one in group for thing in one.things)
    n = sum(kinds.values())
    assert kinds.keys() == set(KINDS)
    assert all(abs(count - n / 16) < 4 * (n / 16) ** 0.5 for count in kinds.values())
    assert all(abs(colours[colour] - n / 6) < 4 * (n / 6) ** 0.5 for colour in COLOURS)
    assert all(len(one.kinds) == len(one.things) for one in group), "no kind twice"


# -- pixels ----------------------------------------------------------------------------------------------------------


def clear(one: Scene, *things: SceneThing) -> Scene:
    """The same background with these things."""
    return replace(one, things=things)


def changed(one: Scene) -> np.ndarray:
    """Which pixels differ from those of the empty scene [y x]."""
    return (one.pixels() != clear(one).pixels()).any(-1)


def test_only_the_pixels_of_a_box_change_and_they_touch_its_sides():
    for one in EVERY[::20]:
        for thing in one.things:
            left, top, right, bottom = thing.box
            seen = changed(clear(one, replace(thing, contrast=1.0, covered=0.0)))
            rows, columns = np.nonzero(seen.any(1))[0], np.nonzero(seen.any(0))[0]
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)


def test_boxes_lie_in_the_image_and_do_not_meet():
    for one in EVERY:
        count = np.zeros((SIZE, SIZE), int)
        for left, top, right, bottom in (thing.box for thing in one.things):
            assert 0 <= left < right <= SIZE
            assert 0 <= top < bottom <= SIZE
            count[top:bottom, left:right] += 1
        assert count.max() == 1


CUP = SceneThing("cup", "red", (10, 20, 26, 36), 1.0)


def test_a_glyph_is_drawn_in_its_colour():
    pixels = Scene("x", (CUP,)).pixels()[20:36, 10:26].astype(float) / 255
    there = np.kron(GLYPHS["cup"], np.ones((2, 2))).astype(bool)
    assert pixels[there].mean(0) == pytest.approx(PALETTE["red"], abs=0.03)
    assert abs(pixels[~there].mean(0) - PALETTE["red"]).max() > 0.1


def test_a_covered_object_shows_its_right_side_only():
    seen = changed(Scene("x", (replace(CUP, covered=0.5),)))
    assert not seen[:, :18].any()
    assert (seen[20:36, 18:26] == np.kron(GLYPHS["cup"], np.ones((2, 2)))[:, 8:]).all()


def test_an_object_without_contrast_leaves_no_trace():
    assert not changed(Scene("x", (replace(CUP, contrast=0.0),))).any()
    faint, strong = (Scene("x", (replace(CUP, contrast=c),)).pixels().astype(int) for c in (0.04, 0.8))
    empty = Scene("x", ()).pixels()
    assert 0 < abs(faint - empty).max() < 20 < abs(strong - empty).max()


def test_one_object_is_always_seen_and_fog_swallows_others():
    for one in EVERY:
        assert max(thing.contrast for thing in one.things) >= 0.6
    hidden = {
        foggy: np.mean([t.contrast < 0.06 for one in EVERY if one.foggy is foggy for t in one.things])
        for foggy in (False, True)
    }
    assert hidden[False] < 0.1
    assert 0.25 < hidden[True] < 0.5
    assert 0.2 < np.mean([one.foggy for one in EVERY]) < 0.4


# -- what is said of a scene -----------------------------------------------------------------------------------------


def test_a_caption_names_exactly_what_is_there():
    things = tuple(SceneThing(kind, "red", (0, 0, 12, 12), 1.0) for kind in ("spoon", "nest", "cup"))
    assert Scene("x", things).caption() == "the image shows a cup and a spoon and a nest."
    for one in EVERY:
        named = [word.strip(".") for word in one.caption().split() if word.strip(".") in KINDS]
        assert named == sorted((thing.kind for thing in one.things), key=KINDS.index)


def test_an_annotated_scene_holds_what_tasks_need():
    one = VIOLATING[0]
    annotated = one.annotated()
    assert isinstance(annotated, AnnotatedImage)
    assert (annotated.image.size, annotated.image.mode) == ((SIZE, SIZE), "RGB")
    assert annotated.image == one.image() == Image.fromarray(one.pixels())
    assert annotated.things == tuple(Thing(thing.kind, tuple(map(float, thing.box))) for thing in one.things)
    assert set(annotated.categories) == set(one.kinds)
    assert annotated.captions == (one.caption(),)
    assert annotated.meta["colours"] == {thing.kind: thing.colour for thing in one.things}
    assert annotated.meta["partners"] == {kind: PARTNERS[kind] for kind in one.kinds}


def test_categories_are_named_once_in_the_order_of_things():
    boxed = [Thing(name, (0.0, 0.0, 1.0, 1.0)) for name in ("cup", "dog", "cup")]
    assert AnnotatedImage("x", None, tuple(boxed)).categories == ("cup", "dog")


# -- drawing ---------------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_pixels():
    first, again, other = (scenes(5, seed=seed, violating=True) for seed in (7, 7, 8))
    assert first == again == scenes(9, seed=7, violating=True)[:5]
    assert all((a.pixels() == b.pixels()).all() for a, b in zip(first, again, strict=True))
    assert not any((a.pixels() == b.pixels()).all() for a, b in zip(first, other, strict=True))


def test_a_scene_is_drawn_by_its_key():
    one, again, other = (scene(key, violating=False) for key in ("a", "a", "b"))
    assert one == again != other
    assert len({one.id for one in EVERY}) == len(EVERY)


@pytest.mark.parametrize("n", [0, -3])
def test_a_number_of_scenes_below_one_is_refused(n):
    with pytest.raises(UsageError, match=f"{n} scenes were asked for; give at least 1"):
        scenes(n, seed=0, violating=True)
