"""Scores of attention heads: a model and a task in, `HeadScores` out."""

from head_analysis.classes import (
    IOI_CIRCUIT,
    duplicate_token_scores,
    head_classes,
    induction_scores,
    mark_attention,
    name_mover_scores,
    previous_token_scores,
    s_inhibition_scores,
)
from head_analysis.concentration import gini, head_gini, top_share
from head_analysis.copying import copying_scores
from head_analysis.image_attention import ImageAttention, image_centric, measure_image_attention
from head_analysis.image_rows import image_rows
from head_analysis.localisation import measure_localisation
from head_analysis.located import Localisation
from head_analysis.object_vhd import token_table
from head_analysis.object_words import ObjectWord, object_words, step_kinds
from head_analysis.overlap import circuit_overlap, jaccard
from head_analysis.retained import logit_change, retained_attention
from head_analysis.retrieval import Retrieval, copy_hits, copy_score, measure_retrieval, retrieval_scores
from head_analysis.score_files import read_score_file
from head_analysis.separation import Separation, measure_separation
from head_analysis.sink_reading import sink_report
from head_analysis.sink_rules import SinkRule
from head_analysis.sink_summary import SinkReport
from head_analysis.sinks import SinkDimensions, sink_dimensions, sink_tokens
from head_analysis.text_sink_tables import TextSinks
from head_analysis.text_sinks import text_sinks
from head_analysis.vhd import VHD, measure_vhd, token_vhd, vhd_of_answers
from head_analysis.vision import divergence

__all__ = [
    "IOI_CIRCUIT",
    "VHD",
    "ImageAttention",
    "Localisation",
    "ObjectWord",
    "Retrieval",
    "Separation",
    "SinkDimensions",
    "SinkReport",
    "SinkRule",
    "TextSinks",
    "circuit_overlap",
    "copy_hits",
    "copy_score",
    "copying_scores",
    "divergence",
    "duplicate_token_scores",
    "gini",
    "head_classes",
    "head_gini",
    "image_centric",
    "image_rows",
    "induction_scores",
    "jaccard",
    "logit_change",
    "mark_attention",
    "measure_image_attention",
    "measure_localisation",
    "measure_retrieval",
    "measure_separation",
    "measure_vhd",
    "name_mover_scores",
    "object_words",
    "previous_token_scores",
    "read_score_file",
    "retained_attention",
    "retrieval_scores",
    "s_inhibition_scores",
    "sink_dimensions",
    "sink_report",
    "sink_tokens",
    "step_kinds",
    "text_sinks",
    "token_table",
    "token_vhd",
    "top_share",
    "vhd_of_answers",
]
