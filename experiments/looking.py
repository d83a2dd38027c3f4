"""What the image does in a model, head by head: captions, VHD, attention to the image, localisation, sinks."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from head_analysis.concentration import head_gini, top_share
from head_analysis.image_attention import ImageAttention, measure_image_attention
from head_analysis.image_rows import image_rows
from head_analysis.localisation import Localisation, measure_localisation
from head_analysis.object_vhd import kinds_of, token_table
from head_analysis.object_words import ObjectWord, object_words, word_steps
from head_analysis.separation import Separation, measure_separation
from head_analysis.sink_marks import SinkMarks
from head_analysis.sink_reading import sink_report
from head_analysis.sink_summary import SinkReport
from head_analysis.vhd import VHD, measure_vhd
from headscope.figures import head_map, overlay_grid, token_map
from headscope.model import HookedModel
from headscope.samples import Sample
from headscope.scores import HeadScores
from tasks.chair import CHAIR

_SHOWN = 5
_KINDS = {
    "object words above other words": (("correct", "hallucinated"), "other"),
    "correct above hallucinated object words": (("correct",), "hallucinated"),
}


@dataclass(frozen=True)
class Looking:
    """What was measured on captions of some images."""

    samples: tuple[Sample, ...]
    words: tuple[tuple[ObjectWord, ...], ...]
    """Object words of each caption."""
    vhd: VHD
    attention: ImageAttention
    localisation: Localisation | None
    """None where no caption names an object whose box is known."""
    sinks: SinkReport

    @property
    def tokens(self) -> pd.DataFrame:
        """A row for each token of every caption: its kind and Token-VHD."""
        return token_table(self.vhd, self.words)

    @property
    def captions(self) -> pd.DataFrame:
        """A row for each caption: its image, its text, and the objects in it that are not in the image."""
        return pd.DataFrame(
            {
                "image_id": sample.meta["image_id"],
                "caption": answer.text,
                "invented": ", ".join(sorted({word.category for word in words if word.hallucinated})),
            }
            for sample, answer, words in zip(self.samples, self.vhd.answers, self.words, strict=True)
        )

    @property
    def scores(self) -> dict[str, HeadScores]:
        """Every score of heads, by the name it is kept under."""
        found = {
            "vhd": self.vhd.scores(),
            "text_to_image": self.attention.text_to_image,
            "image_to_image": self.attention.image_to_image,
            "image_centric": self.attention.image_centric,
            "sink_mass": self.sinks.mass,
        }
        return found if self.localisation is None else {**found, "localisation": self.localisation.scores()}

    def separations(self) -> dict[str, Separation]:
        """How well Token-VHD tells kinds of words apart, where captions hold both kinds."""
        table, found = self.tokens, {}
        for name, (positive, negative) in _KINDS.items():
            if table["kind"].isin(positive).any() and (table["kind"] == negative).any():
                found[name] = measure_separation(table, positive, negative)
        return found


def look(
    model: HookedModel,
    task: CHAIR,
    *,
    max_new_tokens: int | None = None,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> Looking:
    """Captions the task's images and measures every head; costs the captions and some four passes of them."""
    samples = task.samples(model.processor)
    room = max_new_tokens or task.answer_tokens
    vhd = measure_vhd(model, samples, max_new_tokens=room, batch_tokens=batch_tokens, progress=progress)
    texts = [answer.text for answer in vhd.answers]
    words = [object_words(task.mentions(text), s.meta["truth"]) for s, text in zip(samples, texts, strict=True)]
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "progress": progress}
    spoken = [i for i, answer in enumerate(vhd.answers) if answer.tokens]
    attention = measure_image_attention(
        model, [samples[i] for i in spoken], answers=[vhd.answers[i] for i in spoken], **options
    )
    located = any(word.category in s.meta["boxes"] for s, mine in zip(samples, words, strict=True) for word in mine)
    localisation = measure_localisation(model, samples, vhd.answers, words, **options) if located else None
    return Looking(tuple(samples), tuple(words), vhd, attention, localisation, sink_report(model, samples, **options))


def looking_sections(model: HookedModel, found: Looking) -> list[tuple[str, object]]:
    """The study as a report: what was written, which heads need the image, where they look, what the sinks are."""
    scores = found.scores
    vhd = scores["vhd"]
    example = _telling_example(found)
    kinds = kinds_of(found.vhd, found.words)
    text = (
        f"{len(found.samples)} images were described. VHD is the distance between a head's output with and without the "
        f"image ({found.vhd.meta['removal']}), at the positions that choose the words of a caption, mean over them. Its "
        f"Gini index over heads is {head_gini(vhd):.2f} (0: all heads alike), and the four heads of largest VHD hold "
        f"{top_share(vhd, min(4, len(vhd.heads))):.0%} of the sum. A large VHD does not say that a head looks at the "
        "image: it may pass on what another has seen, so read it beside the attention to the image below."
    )
    sections: list[tuple[str, object]] = [
        ("Which heads depend on the image", text),
        ("VHD of every head", head_map(vhd)),
        (
            "Token-VHD over one caption",
            token_map(
                found.vhd.tokens(example), found.vhd.token_vhd()[example], kinds=[str(kind) for kind in kinds[example]]
            ),
        ),
        ("Does Token-VHD tell words apart?", _separation_table(found)),
        ("Attention of the caption's words to the image", head_map(scores["text_to_image"])),
        ("Share of words at which a head is image-centric (VAR's conditions)", head_map(scores["image_centric"])),
    ]
    if found.localisation is not None:
        table = found.localisation.table()
        note = (
            "A head finds an object if the image token it attends to most lies in the object's box, at the query that "
            f"predicts its name. Looking anywhere would find {found.localisation.chance:.0%}; “elsewhere” is what a "
            "fixed gaze finds. p is against chance, p_adjusted corrected for the number of heads."
        )
        sections += [
            ("Which heads look at the object they name", note),
            ("Share of object words located", head_map(scores["localisation"])),
            ("The same as a table", table.head(10)),
            (f"Where the best heads look: “{_word(found, example)}”", _overlay(model, found, example)),
        ]
    return [
        *sections,
        ("Attention sinks", _sink_text(found.sinks)),
        ("Attention on sinks", head_map(scores["sink_mass"])),
        ("What is claimed of sinks, and what was found", found.sinks.checks()),
        ("Sinks by layer", found.sinks.sinks_by_layer),
    ]


def _telling_example(found: Looking) -> int:
    """A caption with a correct word that has a box, and a hallucinated one if there is such a caption."""

    def rank(i: int) -> tuple[bool, bool]:
        boxes = found.samples[i].meta["boxes"]
        words = found.words[i]
        return any(word.category in boxes for word in words), any(word.hallucinated for word in words)

    return max(range(len(found.samples)), key=rank)


def _word(found: Looking, example: int) -> str:
    word = _boxed_word(found, example)
    return found.vhd.answers[example].text[word.start : word.end]


def _boxed_word(found: Looking, example: int) -> ObjectWord:
    boxes = found.samples[example].meta["boxes"]
    return next(word for word in found.words[example] if word.category in boxes)


def _overlay(model: HookedModel, found: Looking, example: int) -> Any:
    assert found.localisation is not None
    sample, answer, word = found.samples[example], found.vhd.answers[example], _boxed_word(found, example)
    step = word_steps(found.vhd.spans[example], word)[0]
    rows = image_rows(model, sample, answer.tokens, step=step)
    best = found.localisation.scores().top(min(_SHOWN + 1, len(found.localisation.scores().heads)))
    layout = model.image_layout(sample)
    return overlay_grid(
        sample.images[0],
        layout,
        {str(head): rows[head.layer, head.head] for head in best},
        sinks=_sinks_in_image(model, sample, found),
        boxes={word.category: sample.meta["boxes"][word.category]},
        title=f"attention to the image where “{_word(found, example)}” is predicted",
    )


@torch.no_grad()
def _sinks_in_image(model: HookedModel, sample: Sample, found: Looking) -> torch.Tensor:
    """Image tokens that are sinks in some layer."""
    dimensions = found.sinks.dimensions
    marks = SinkMarks(dimensions.dims, dimensions.threshold)
    with model.hooks(marks):
        model.forward([sample], last=1)
    return marks.of_sample(0)[:, model.image_layout(sample).places].any(0)


def _separation_table(found: Looking) -> pd.DataFrame:
    return pd.DataFrame([{"Token-VHD of": name, **vars(one)} for name, one in found.separations().items()])


def _sink_text(sinks: SinkReport) -> str:
    return (
        f"Dimensions of the residual stream that mark sinks in this model: {sinks.dimensions}. A token is a sink at a "
        "layer if one of them holds the share of its state that the paper's threshold stands for. Crosses in the overlay "
        "mark image tokens that are sinks in some layer."
    )
