"""Scores of attention heads: a model and a task in, `HeadScores` out."""

from head_analysis.retrieval import Retrieval, copy_hits, copy_score, measure_retrieval, retrieval_scores
from head_analysis.score_files import read_score_file

__all__ = ["Retrieval", "copy_hits", "copy_score", "measure_retrieval", "read_score_file", "retrieval_scores"]
