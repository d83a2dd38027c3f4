"""Which form a file has, told by what is in it, and the reader of each form."""

from pathlib import Path
from typing import Literal, get_args

from head_analysis.score_files.content import Content, read_content
from head_analysis.score_files.duo_attention import read_duo_attention
from head_analysis.score_files.head_list import HeadList
from head_analysis.score_files.headkv import read_headkv
from head_analysis.score_files.qr_head import is_config, read_qrhead_list, read_qrhead_scores
from head_analysis.score_files.retrieval_head import are_counts, read_retrieval_head
from headscope.errors import UsageError
from headscope.score_table import read_head_table, scores_of_table
from headscope.scores import HeadScores

Format = Literal["table", "retrieval-head", "headkv", "duo-attention", "qrhead-scores", "qrhead-list"]
"""`table` is the project's own head-score table; `qrhead-list` names heads and scores none."""

FORMATS: tuple[Format, ...] = get_args(Format)

_PARQUET = b"PAR1"
_DUO = "full_attention_heads.tsv"


def detect_format(path: str | Path) -> Format:
    """The form of a file, by what is in it and not by its name.

    UsageError for a file of no form that is known, and for one that only its origin tells: files of HeadKV and of
    Retrieval_Head look alike, but for scores that are counts over a length.
    """
    return _detected(_opened(path))


def read_score_file(
    path: str | Path, *, model: str | None = None, format: Format | None = None, query_heads: int | None = None
) -> HeadScores:
    """The scores in a file that another project published, or in a head-score table.

    `format` is found out unless given. `model` is what the file or its settings say, or the file's name without its
    endings; in a head-score table it chooses among the models there. `query_heads` spreads scores of key-value heads
    (DuoAttention) over that many query heads a layer. UsageError says what is wrong with a file that is missing, cut
    short, or in another form.
    """
    content = _opened(path)
    form = _known(format) if format is not None else _detected(content)
    if query_heads is not None and form != "duo-attention":
        raise UsageError(
            f"query heads are given, but {content.path} ({form}) has scores of query heads; leave them out"
        )
    if form == "table":
        return scores_of_table(read_head_table(content.path), model=model, source=content.path.name)
    if form == "duo-attention":
        scores = read_duo_attention(content, query_heads=query_heads)
    elif form == "qrhead-list":
        raise UsageError(f"{content.path} names heads but scores none; read it as a list of heads (read_head_list)")
    else:
        readers = {
            "retrieval-head": read_retrieval_head,
            "headkv": read_headkv,
            "qrhead-scores": read_qrhead_scores,
        }
        scores = readers[form](content)
    named = {"model": model or scores.meta.get("model") or content.name}
    origin = {"source": content.path.name, "format": form}
    return HeadScores(scores.samples, scores.metric, {**scores.meta, **named, **origin})


def read_head_list(path: str | Path, *, model: str | None = None) -> HeadList:
    """The heads that a file without scores names; UsageError for one that has scores, or another form."""
    content = _opened(path)
    form = _detected(content)
    if form != "qrhead-list":
        raise UsageError(f"{content.path} ({form}) has scores; read them (read_score_file) and choose heads by them")
    found = read_qrhead_list(content)
    named = {"model": model or found.meta.get("model") or content.name}
    return HeadList(found.heads, {**found.meta, **named, "source": content.path.name, "format": form})


def _opened(path: str | Path) -> Content:
    """The file, or the one that a folder of DuoAttention holds."""
    return read_content(path, inside=_DUO)


def _known(form: str) -> Format:
    for known in FORMATS:
        if form == known:
            return known
    raise UsageError(f"format {form!r} is not known; use one of {', '.join(FORMATS)}")


def _detected(content: Content) -> Format:
    if content.data.startswith(_PARQUET):
        return "table"
    start = content.text.lstrip()[:1]
    if start == "{":
        return _told_apart(content)
    if start == "[":
        return "qrhead-scores"
    if is_config(content):
        return "qrhead-list"
    if _is_number(content.text.split(maxsplit=1)[0]):
        return "duo-attention"
    raise UsageError(
        f"{content.path} is in no form that is read ({', '.join(FORMATS)}): it is neither parquet nor JSON nor YAML with "
        "attn_head_set nor numbers between tabs; fetch it again, or name its format"
    )


def _told_apart(content: Content) -> Format:
    if are_counts(read_retrieval_head(content)):
        return "retrieval-head"
    raise UsageError(
        f"{content.path} has the form of Retrieval_Head and of HeadKV, and its scores are no counts over a length, which "
        "those of Retrieval_Head are; say what it is (headscope heads import --format): headkv for attention to the "
        "needle, retrieval-head for any other scores"
    )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
