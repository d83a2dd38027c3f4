"""Files of Zhang et al. 2025, "Query-Focused Retrieval Heads" (https://arxiv.org/abs/2506.09944), princeton-pli/QRHead.

Two forms. `configs/*.yaml` is a mapping with `attn_head_set`, `model_base_class` and `model_name_or_path`. The set is one
string, `"13-18,13-21,8-11"` (in one file `10_3,10_24`), or `full_heads` for all heads. It holds no scores: "top16" stands
in a comment only, so it becomes a list of heads and not a score. The detection scripts write JSON,
`[["13-18", score], ...]` for every head, best first: the mean QRScore, which is attention of the query to the right
documents less that of an empty query, and may be below 0.
"""

import re
from typing import Any

import yaml

from head_analysis.score_files.content import Content, short
from head_analysis.score_files.grid import by_head, samples_of
from head_analysis.score_files.head_list import HeadList
from headscope.errors import UsageError
from headscope.scores import HeadScores

LIST_FORM = 'a QRHead config is YAML with attn_head_set, such as "13-18,13-21", and model_name_or_path'
SCORES_FORM = 'QRHead scores are JSON of the form [["layer-head", score], ...], such as [["0-1", 0.5], ["0-0", 0.1]]'

_LARGEST = 2**16
_ALL = "full_heads"


def read_qrhead_scores(content: Content) -> HeadScores:
    """The mean QRScore of every head: one sample, since the file does not keep those of the documents."""
    table = content.json
    if not isinstance(table, list) or not table:
        raise UsageError(f"{content.path} holds {short(table)}; {SCORES_FORM}")
    for entry in table:
        if not isinstance(entry, list) or len(entry) != 2:
            raise UsageError(f"{content.path} has the entry {short(entry)}; {SCORES_FORM}")
    heads = by_head(((key, [score]) for key, score in table), content.path, SCORES_FORM)
    return HeadScores(samples_of(heads, content.path, SCORES_FORM), "QRScore", {"n": 1})


def read_qrhead_list(content: Content) -> HeadList:
    """The heads that a config names."""
    config = config_in(content)
    named = config["attn_head_set"]
    if named == _ALL:
        raise UsageError(f"{content.path} names all heads ({_ALL}) and so none of them; give a config that names heads")
    if not isinstance(named, str) or not named.strip(" ,"):
        raise UsageError(f"{content.path} has {short(named)} as attn_head_set; {LIST_FORM}")
    keys = [re.sub(r"^(\d+)_(\d+)$", r"\1-\2", key.strip()) for key in named.split(",") if key.strip()]
    heads = by_head(((key, None) for key in keys), content.path, LIST_FORM)
    model = config.get("model_name_or_path")
    return HeadList(tuple(heads), {"model": model} if isinstance(model, str) and model else {})


def is_config(content: Content) -> bool:
    """Whether a text looks like a QRHead config; it is not parsed."""
    return re.search(r"^attn_head_set\s*:", content.text, re.MULTILINE) is not None


def config_in(content: Content) -> dict[str, Any]:
    """The settings in a config; UsageError for YAML that is broken, too large, or of something else."""
    if len(content.data) > _LARGEST:
        raise UsageError(f"{content.path} holds {len(content.data) >> 10} KiB; {LIST_FORM}, and is short")
    try:
        config = yaml.safe_load(content.text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        said = re.sub(r"\s+", " ", str(error))
        raise UsageError(f"{content.path} is not YAML ({said}); {LIST_FORM}") from error
    if not isinstance(config, dict) or "attn_head_set" not in config:
        raise UsageError(f"{content.path} has no attn_head_set; {LIST_FORM}")
    return config
