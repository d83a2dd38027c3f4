"""A caption token by token, coloured by how much each needs the image, beside the image."""

import pandas as pd
import streamlit as st
from PIL import Image

from dashboards.captions import Caption, said_of
from dashboards.components import address, figure
from dashboards.plain import plain
from headscope.figures import token_map

_HELP = "VHD: how far a head's output moves when the image is taken away. Token-VHD: the strongest of each layer."


def coloured_by(caption: Caption, *, name: str) -> str:
    """What the strip is coloured by, which is `name` in the address."""
    return address.choose("Coloured by", caption.choices, name=name, silent=True, help=_HELP)


def show(caption: Caption, by: str, image: Image.Image | None, *, key: str) -> pd.DataFrame:
    """The strip and the image, if there is one, and why there are no single heads; the table of what is shown."""
    left, right = st.columns([3, 1])
    columns = 4 if figure.narrow() else 7
    drawn = token_map(
        caption.tokens, caption.amounts(by), kinds=caption.kinds, title=f"{by} over the caption", columns=columns
    )
    with left:
        figure.show(drawn, alt=f"{said_of(caption, by)}.", key=f"caption: {key}")
    with right:
        if image is None:
            st.info("The run keeps no copy of this image.", icon=":material/image_not_supported:")
        else:
            st.image(image, caption="The image", width="stretch", alt="The image that the caption is about")
    if caption.lacks:
        st.caption(f"Single heads cannot be shown: {plain(caption.lacks)}.")
    return caption.table(by)
