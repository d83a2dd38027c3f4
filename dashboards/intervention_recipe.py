"""The Python and the command line that give what the page on interventions shows."""

import shlex

from dashboards.prompts import Example
from dashboards.reproduce import Recipe


def intervention_recipe(model: str, example: Example, text: str, new_tokens: int) -> Recipe:
    """Both answers to a prompt; an image is to be put beside it as image.png."""
    sample = example.sample
    picture = "from PIL import Image\n\n" if sample.images else "\n"
    images = f', images=(Image.open("image.png"),), chat={sample.chat}' if sample.images else ""
    chat = f", chat={sample.chat}" if sample.chat and not sample.images else ""
    python = (
        "from headscope import HookedModel\nfrom headscope.samples import Sample\n"
        "from interventions import parse_interventions\n"
        f"{picture}"
        f"model = HookedModel.load({model!r})\n"
        f"sample = Sample({sample.prompt!r}{images}{chat})\n"
        f"print(model.generate(sample, max_new_tokens={new_tokens}, stop={example.stop!r}).text)\n"
        f"with model.hooks(*parse_interventions({text!r})):\n"
        f"    print(model.generate(sample, max_new_tokens={new_tokens}, stop={example.stop!r}).text)"
    )
    words = ["headscope", "generate", "--model", model, "--max-new-tokens", str(new_tokens), "--with", text]
    return Recipe(python, "" if sample.images or sample.chat else shlex.join([*words, "--", sample.prompt]))
