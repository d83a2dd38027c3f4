"""Images of a sample: opened upright, and which of the model's tokens stands for which of their pixels."""

from headscope.images.layout import ImageLayout
from headscope.images.opening import open_image
from headscope.images.placing import image_layout, image_token_id

__all__ = ["ImageLayout", "image_layout", "image_token_id", "open_image"]
