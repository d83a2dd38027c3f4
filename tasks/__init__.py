"""What a model is asked: samples with marked places, and how an answer is scored; one file each."""

from headscope.scoring import contains, exact_match, rouge1_recall
from tasks.facts import Fact, secret_facts
from tasks.needle import Needle
from tasks.subset import Subset

__all__ = ["Fact", "Needle", "Subset", "contains", "exact_match", "rouge1_recall", "secret_facts"]
