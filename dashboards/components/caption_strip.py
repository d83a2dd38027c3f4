"""A caption token by token, coloured by how much each needs the image, beside the image."""

import pandas as pd
import streamlit as st
from PIL import Image

from dashboards.captions import Caption, said_of
from dashboards.components import figure
from headscope.figures import token_map


def show(caption: Caption, by: str, image: Image.Image | None, *, key: str) -> pd.DataFrame:
    """The strip and the image, if there is one; the table of what is shown."""
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
    return caption.table(by)
