"""Head importance of Fu et al. 2024, "HeadKV" (https://arxiv.org/abs/2410.19258), `Important_Head/head_score/*.json`.

The form is that of Retrieval_Head, `{"layer-head": [score of every sample]}`, but the scores are others: ten times the
attention that the answer's steps pay to the needle, over the length of the needle and of the answer
(`retrieval_head_detection_r2.py`, "retrieval-reasoning heads"). They are no counts, and not below 0. HeadKV's own loader
takes heads in the order of the file and not by their names; copies of its files in other projects are in another order
(with one score a head), which that loader would give to the wrong heads. Here the names decide. The same project's
`*_retrieval_heads.json` are Retrieval_Head scores.
"""

from head_analysis.score_files.content import Content
from head_analysis.score_files.grid import samples_of
from head_analysis.score_files.retrieval_head import FORM, heads_in
from headscope.errors import UsageError
from headscope.heads import Head
from headscope.scores import HeadScores


def read_headkv(content: Content) -> HeadScores:
    """The retrieval-reasoning scores in a file; `meta["file_order"]` says whether its heads come in order."""
    heads = heads_in(content)
    samples = samples_of(heads, content.path, FORM)
    if samples.min() < 0:
        _, layer, head = (samples < 0).nonzero()[0].tolist()
        raise UsageError(
            f"{content.path}: {Head(layer, head)} has a score below 0, and HeadKV's are sums of attention; name another "
            "format"
        )
    order = (
        "by layer and head" if list(heads) == sorted(heads) else "other; a loader that goes by order misplaces heads"
    )
    meta = {"task": "needle, reasoning", "n": len(samples), "file_order": order}
    return HeadScores(samples, "retrieval-reasoning score", meta)
