"""Attention for other people's viewers: a folder laid out as HeadVis lays out its own, and the arguments of BertViz."""

from headscope.exports.bertviz import bertviz_arguments, write_bertviz
from headscope.exports.headvis import HeadRows, read_headvis, write_headvis
from headscope.exports.sparse import SparseRows, sparse_rows

__all__ = [
    "HeadRows",
    "SparseRows",
    "bertviz_arguments",
    "read_headvis",
    "sparse_rows",
    "write_bertviz",
    "write_headvis",
]
