"""What a model is asked: samples with marked places, and how an answer is scored; one file each."""

from tasks.facts import Fact, secret_facts
from tasks.needle import Needle
from headscope.scoring import contains, exact_match, rouge1_recall

__all__ = ["Fact", "Needle", "contains", "exact_match", "rouge1_recall", "secret_facts"]
