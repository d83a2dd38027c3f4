"""The Python and the command line that give what a view shows; text to copy, which the dashboard never runs."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards.made_by import eval_words, filter_words, sinks_words, sweep_words, vision_words
from dashboards.prompts import part_of
from headscope.heads import Head
from tasks import Needle, Subset


@dataclass(frozen=True)
class Recipe:
    """Python that gives what is shown; the command line that does so, or made its data; empty where there is none."""

    python: str
    command: str = ""


def runs_recipe(runs: Path, first: str, second: str | None) -> Recipe:
    """The list of runs, and two of them compared."""
    lines = ["from headscope.runs import Run", "", f"first = Run.open({_quoted(runs / first)})", "print(first.facts)"]
    if second:
        lines += [
            f"second = Run.open({_quoted(runs / second)})",
            "for name in set(first.score_names()) & set(second.score_names()):",
            "    a, b = first.scores(name), second.scores(name)",
            "    print(name, a.correlation(b), a.overlap(b, 5))",
        ]
    return Recipe("\n".join(lines), shlex.join(["headscope", "runs", str(runs)]))


def scores_recipe(folder: Path, score: str, facts: Mapping[str, Any]) -> Recipe:
    """The map of one kind of score."""
    python = (
        "from headscope.runs import Run\n\n"
        f"scores = Run.open({_quoted(folder)}).scores({score!r})\n"
        "print(scores.to_dataframe())\n"
        'scores.plot().write_html("map.html")'
    )
    return Recipe(python, command_of(facts))


def head_recipe(folder: Path, head: Head, facts: Mapping[str, Any]) -> Recipe:
    """All scores of one head in a run."""
    python = (
        "from headscope.heads import Head\nfrom headscope.runs import Run\n\n"
        f"run, head = Run.open({_quoted(folder)}), Head({head.layer}, {head.head})\n"
        "for name in run.score_names():\n"
        "    table = run.scores(name).to_dataframe()\n"
        "    print(name, table[table['name'] == str(head)])"
    )
    return Recipe(python, command_of(facts))


def retrieval_recipe(folder: Path, head: Head, facts: Mapping[str, Any]) -> Recipe:
    """Where the model answers and where one head copies."""
    python = (
        "from headscope.figures import length_depth_map\nfrom headscope.runs import Run\n\n"
        f"run = Run.open({_quoted(folder)})\n"
        f"answers, scores = run.table({_answers(facts)!r}), run.scores('retrieval')\n"
        'length_depth_map(answers).write_html("answers.html")\n'
        "kept = answers[answers['kept']] if 'kept' in answers else answers\n"
        f"copied = kept.assign({head}=scores.samples[:, {head.layer}, {head.head}].numpy())\n"
        f'length_depth_map(copied, "{head}").write_html("{head}.html")'
    )
    return Recipe(python, command_of(facts))


def attention_recipe(model: str, prompt: str, head: Head, query: int, *, images: bool) -> Recipe:
    """The row of one head at one token of a prompt."""
    picture = "from PIL import Image\n\n" if images else "\n"
    sample = f"Sample({prompt!r}" + (', images=(Image.open("image.png"),), chat=True)' if images else ")")
    python = (
        "from headscope import HookedModel\nfrom headscope.hooks import Where\nfrom headscope.samples import Sample\n"
        f"{picture}"
        f"model = HookedModel.load({model!r})\n"
        f"sample = {sample}\n"
        f"where = Where(layers=({head.layer},))\n"
        f"(rows,) = model.attention_rows([sample], positions=({query},), where=where)\n"
        f"print(rows[0, {head.head}, 0])"
    )
    return Recipe(python)


def command_of(facts: Mapping[str, Any]) -> str:
    """The command line that makes a run like this one; empty where its config does not tell all that it takes."""
    config, command = facts.get("config"), facts.get("command")
    if not isinstance(config, Mapping) or not isinstance(command, str):
        return ""
    made = {
        "heads retrieval": _retrieval,
        "ablate": _ablate,
        "ablate sweep": sweep_words,
        "heads sinks": sinks_words,
        "heads filter": filter_words,
        "heads vision": vision_words,
        "eval pope": eval_words,
        "eval chair": eval_words,
        "demo": lambda *_: ["headscope", "demo"],
        "demo --vision": lambda *_: ["headscope", "demo", "--vision"],
    }.get(command)
    words = made(facts, config) if made else []
    return shlex.join([*words, "--out", "runs/again"]) if words else ""


def _retrieval(facts: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    task, part = part_of(facts)
    start = ["headscope", "heads", "retrieval", *_options(config, "model")]
    return [] if task is None else [*start, *_needle(task, part), *_options(config, "variant", "top_k", "dtype")]


def _ablate(facts: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    (task, part), heads = part_of(facts), config.get("heads")
    if task is None or not isinstance(heads, list):
        return []
    chosen = ["--heads", ",".join(map(str, heads))]
    return [
        *("headscope", "ablate", "heads"),
        *_options(config, "model"),
        *chosen,
        *_needle(task, part),
        *_options(config, "mode", "phase", "draws", "dtype"),
    ]


def _answers(facts: Mapping[str, Any]) -> str:
    return "retrieval_answers" if facts.get("command") == "demo" else "answers"


def _needle(task: Needle, part: Subset | None) -> list[str]:
    """Options of a needle task and its part; depths that were named one by one cannot be given on the command line."""
    count = task.depths if isinstance(task.depths, int) else len(task.depths)
    lengths = ",".join(map(str, task.lengths))
    numbers = {"depths": count, "repeats": task.repeats, "needles": task.n_needles, "seed": task.seed}
    words = ["--lengths", lengths, *(word for name, value in numbers.items() for word in (f"--{name}", str(value)))]
    if part is not None and part.limit is not None:
        words += ["--limit", str(part.limit)]
    if part is not None and part.shard[1] > 1:
        words += ["--shard", f"{part.shard[0] + 1}/{part.shard[1]}"]
    return words


def _options(config: Mapping[str, Any], *names: str) -> Sequence[str]:
    given = [(name, config.get(name)) for name in names]
    return [
        word for name, value in given if value not in (None, "") for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def _quoted(path: Path) -> str:
    return repr(path.as_posix())
