"""The Python and the command line that give what the page on vision shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dashboards.captions import LIVE
from dashboards.reproduce import Recipe, command_of


def vision_recipe(folder: Path | None, facts: Mapping[str, Any], scene: tuple[int, bool] | None) -> Recipe:
    """Scores and captions of a run, and the VHD of a scene (its number, and whether it violates the prior)."""
    parts = [] if folder is None else [_of_run(folder)]
    if scene is not None or folder is None:
        number, violating = scene or (0, True)
        parts.append(
            "from head_analysis.vhd import measure_vhd\nfrom headscope import HookedModel\n"
            "from tasks.scenes import scene_captions\n\n"
            f"model = HookedModel.load({LIVE!r})\n"
            f"sample = scene_captions({number + 1}, violating={violating}).samples(model.processor)[{number}]\n"
            "found = measure_vhd(model, [sample], max_new_tokens=48)\n"
            "print(found.answers[0].text)\n"
            "print(dict(zip(found.tokens(0), found.token_vhd()[0].tolist())))"
        )
    command = f"headscope heads vision --model {LIVE} --out runs/vision" if folder is None else command_of(facts)
    return Recipe("\n\n".join(parts), command)


def _of_run(folder: Path) -> str:
    return (
        "from headscope.runs import Run\n\n"
        f"run = Run.open({folder.as_posix()!r})\n"
        "for name in run.score_names():\n"
        "    print(run.scores(name).to_dataframe())\n"
        'for name in ("captions", "caption_tokens", "localisation", "families", "judged_families"):\n'
        "    if name in run.table_names():\n"
        "        print(run.table(name))"
    )
