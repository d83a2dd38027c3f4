"""What a model is asked: samples with marked places, and how an answer is scored; one file each."""

from headscope.scoring import contains, exact_match, rouge1_recall
from tasks.annotated import AnnotatedImage, Thing
from tasks.chair import CHAIR
from tasks.choice_sets import SecretChoices
from tasks.choices import Choices, Classification, Question, read_choices, read_classification
from tasks.coco import read_coco
from tasks.colored_objects import ColoredObjects
from tasks.facts import Fact, secret_facts
from tasks.ioi import IOI
from tasks.needle import Needle
from tasks.pope import POPE
from tasks.scenes import scene_captions, scene_colours, scene_pope
from tasks.subset import Subset

__all__ = [
    "CHAIR",
    "IOI",
    "POPE",
    "AnnotatedImage",
    "Choices",
    "Classification",
    "ColoredObjects",
    "Fact",
    "Needle",
    "Question",
    "SecretChoices",
    "Subset",
    "Thing",
    "contains",
    "exact_match",
    "read_choices",
    "read_classification",
    "read_coco",
    "rouge1_recall",
    "scene_captions",
    "scene_colours",
    "scene_pope",
    "secret_facts",
]
