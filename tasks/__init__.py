"""What a model is asked: samples with marked places, and how an answer is scored; one file each."""

from headscope.scoring import contains, exact_match, rouge1_recall
from tasks.annotated import AnnotatedImage, Thing
from tasks.captions import CaptionChoices
from tasks.chair import CHAIR
from tasks.choice_sets import SecretChoices
from tasks.choices import Choices, Classification, Question, read_choices, read_classification
from tasks.coco import read_coco
from tasks.colored_objects import ColoredObjects
from tasks.facts import Fact, secret_facts
from tasks.frames import FrameOrder
from tasks.ioi import IOI
from tasks.kinds import MostNamed
from tasks.labelled import Labelled, LabelledFile, ProbingSet
from tasks.labelled_saving import save_labelled
from tasks.mqar import MQAR
from tasks.needle import Needle
from tasks.needle_pairs import NeedlePairs
from tasks.pairs import read_pairs
from tasks.pope import POPE
from tasks.scene_probes import SceneProbe
from tasks.scenes import scene_captions, scene_colours, scene_pope
from tasks.subset import Subset
from tasks.temporal import TemporalOrder
from tasks.three_events import ThreeEvents

__all__ = [
    "CHAIR",
    "IOI",
    "MQAR",
    "POPE",
    "AnnotatedImage",
    "CaptionChoices",
    "Choices",
    "Classification",
    "ColoredObjects",
    "Fact",
    "FrameOrder",
    "Labelled",
    "LabelledFile",
    "MostNamed",
    "Needle",
    "NeedlePairs",
    "ProbingSet",
    "Question",
    "SceneProbe",
    "SecretChoices",
    "Subset",
    "TemporalOrder",
    "Thing",
    "ThreeEvents",
    "contains",
    "exact_match",
    "read_choices",
    "read_classification",
    "read_coco",
    "read_pairs",
    "rouge1_recall",
    "save_labelled",
    "scene_captions",
    "scene_colours",
    "scene_pope",
    "secret_facts",
]
