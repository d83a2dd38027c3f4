"""Prompts for any model: a question about images, written as the model's processor wants it."""

from typing import Any

from transformers import PaliGemmaProcessor

from headscope.encoding import placeholder_of, tokenizer_of
from headscope.errors import UsageError


def asked(processor: Any, text: str, images: int = 1) -> tuple[str, bool]:
    """A prompt that asks `text` about so many images, and `Sample.chat` for it.

    The chat template writes it where there is one, images first. `chat` is then True unless the template leaves the
    first token to the tokenizer, as LLaVA 1.5's does; transformers decides by the same rule. Without a template it is
    the images' placeholders, a new line (for PaliGemma none, as in its training) and the text; for a text-only
    processor the text itself. UsageError for images that the processor cannot take, and for a text or a template with
    placeholders of its own.
    """
    placeholder = placeholder_of(processor)
    if images and placeholder is None:
        raise UsageError(
            f"the question {text!r} is about {images} images, but {type(processor).__name__} takes text only; load a "
            "vision-language model with its AutoProcessor"
        )
    prompt, chat = _written(processor, text, (placeholder or "") * images, images)
    if placeholder is not None and (found := prompt.count(placeholder)) != images:
        raise UsageError(
            f"the prompt for {images} images holds {found} placeholders ({placeholder}): {prompt!r}; leave placeholders "
            "out of the text, or write the prompt yourself if they come from the chat template"
        )
    return prompt, chat


def _written(processor: Any, text: str, before: str, images: int) -> tuple[str, bool]:
    tokenizer = tokenizer_of(processor)
    if tokenizer is not processor and getattr(processor, "chat_template", None):
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        prompt = _rendered(processor, content)
        return prompt, _begins_by_itself(prompt, tokenizer)
    if before and not isinstance(processor, PaliGemmaProcessor):
        before += "\n"
    if getattr(tokenizer, "chat_template", None):
        return _rendered(tokenizer, before + text), True
    return before + text, False


def _rendered(writer: Any, content: str | list[dict[str, str]]) -> str:
    message = {"role": "user", "content": content}
    return writer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)


def _begins_by_itself(prompt: str, tokenizer: Any) -> bool:
    """Whether the prompt holds the special tokens that the tokenizer would put around a text, or needs none."""
    bare = tokenizer("", add_special_tokens=False)["input_ids"]
    first = tokenizer.bos_token
    return tokenizer("")["input_ids"] == bare or (first is not None and prompt.startswith(first))
