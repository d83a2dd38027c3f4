"""Annotated images made by hand, and a processor that takes them."""

from functools import cache

import numpy as np
from PIL import Image

from headscope.clusters import Metric
from tasks.annotated import AnnotatedImage, Thing
from training.scene_model import build_processor


def picture(name: str, *categories: str, captions: tuple[str, ...] = ()) -> AnnotatedImage:
    """An image of one colour, its own, whose objects have boxes in a row."""
    shade = sum(name.encode()) % 256
    things = tuple(Thing(category, (float(i), 0.0, i + 1.0, 1.0)) for i, category in enumerate(categories))
    return AnnotatedImage(name, Image.new("RGB", (16, 16), (shade, 0, 0)), things, captions)


@cache
def processor():
    """A real LLaVA processor with a chat template and a word-level tokenizer."""
    return build_processor()


def metrics_of(task, answers: list[str]) -> dict[str, float]:
    """Every metric of a task, given one answer to each of its samples."""
    rows = [task.details(s, a) for s, a in zip(task.samples(processor()), answers, strict=True)]
    return {metric.name: value(metric, rows) for metric in task.metrics}


def value(metric: Metric, rows: list[dict]) -> float:
    """A metric of rows of counts."""
    return metric.overall(np.array([[row[count] for count in metric.counts] for row in rows], float))
