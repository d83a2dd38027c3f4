"""Head scores on the Hugging Face hub, or in a folder laid out like such a repository: safetensors, a table, a card."""

from headscope.hub.sharing import from_hub, names_on_hub, push_to_hub

__all__ = ["from_hub", "names_on_hub", "push_to_hub"]
