"""Files with scores of heads that other projects publish, read into `HeadScores`, a file for each form."""

from head_analysis.score_files.head_list import HeadList
from head_analysis.score_files.reading import FORMATS, Format, detect_format, read_head_list, read_score_file
from head_analysis.score_files.retrieval_head import write_score_file

__all__ = [
    "FORMATS",
    "Format",
    "HeadList",
    "detect_format",
    "read_head_list",
    "read_score_file",
    "write_score_file",
]
