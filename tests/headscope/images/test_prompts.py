"""A question about images, as each processor wants it written."""

import pytest

from headscope import Sample, UsageError
from headscope.encoding import placeholder_of, tokens_of
from headscope.prompts import asked
from tests.headscope.images.test_encoding import WIDE, noise, processor_of
from tests.headscope.images.test_families import EVERY_FAMILY
from tests.headscope.processors import PROCESSORS
from tests.headscope.test_hooks import word_tokenizer
from tests.tiny import BOS

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@EVERY_FAMILY
@pytest.mark.parametrize("images", [1, 2])
def test_a_prompt_fits_its_processor(name: str, images: int):
    prompt, chat = asked(processor_of(name), "w10 w11", images)
    tokens = tokens_of(Sample(prompt, images=(noise(WIDE),) * images, chat=chat), processor_of(name))
    assert tokens.ids.count(BOS) == 1
    assert not chat


def test_without_a_template_placeholders_and_a_line_come_first():
    assert asked(processor_of("llava"), "w10 ?", 2) == ("<image><image>\nw10 ?", False)
    assert asked(processor_of("paligemma"), "w10 ?") == ("<image>w10 ?", False)
    assert asked(processor_of("gemma3_mm"), "w10 ?") == ("<begin>\nw10 ?", False)


def test_the_processors_template_writes_images_first():
    processor = PROCESSORS["llava"]()
    processor.chat_template = "<s> " + TEMPLATE
    assert asked(processor, "w10 ?", 2) == ("<s> user : <image> <image> w10 ? assistant :", True)
    assert asked(processor, "w10 ?", 0) == ("<s> user : w10 ? assistant :", True)


def test_a_template_that_leaves_the_first_token_to_the_tokenizer_gets_it():
    """LLaVA 1.5's template writes no `<s>`: marked as a chat, the prompt would have none."""
    processor = PROCESSORS["llava"]()
    processor.chat_template = TEMPLATE
    prompt, chat = asked(processor, "w10", 1)
    assert (prompt, chat) == ("user : <image> w10 assistant :", False)
    assert tokens_of(Sample(prompt, images=(noise(WIDE),), chat=chat), processor).ids[0] == BOS


def test_a_tokenizers_template_is_given_the_placeholders_as_text():
    processor = PROCESSORS["llava"]()
    processor.tokenizer.chat_template = "<s> {{ messages[0]['content'] }} !"
    assert asked(processor, "w10") == ("<s> <image>\nw10 !", True)


def test_text_alone_is_the_text_itself():
    tokenizer = word_tokenizer()
    assert asked(tokenizer, "w10 w11", 0) == ("w10 w11", False)
    tokenizer.chat_template = "<s> {{ messages[0]['content'] }} !"
    assert asked(tokenizer, "w10 w11", 0) == ("<s> w10 w11 !", True)
    assert asked(processor_of("llava"), "w10", 0) == ("w10", False)


def test_a_text_only_processor_cannot_be_asked_about_images():
    with pytest.raises(UsageError, match=r"'w10' is about 1 images, but .* takes text only"):
        asked(word_tokenizer(), "w10")


def test_placeholders_in_the_text_are_refused():
    with pytest.raises(UsageError, match=r"the prompt for 1 images holds 2 placeholders \(<image>\)"):
        asked(processor_of("llava"), "what is <image> ?")


def test_a_template_without_images_is_refused():
    processor = PROCESSORS["llava"]()
    processor.chat_template = "{{ messages[0]['content'][-1]['text'] }}"
    with pytest.raises(UsageError, match=r"the prompt for 1 images holds 0 placeholders"):
        asked(processor, "w10")


def test_every_family_has_a_placeholder():
    placeholders = {name: placeholder_of(processor_of(name)) for name in PROCESSORS}
    assert {placeholders.pop("gemma3_mm")} == {"<begin>"}
    assert set(placeholders.values()) == {"<image>", "<|image_pad|>"}
    assert placeholder_of(word_tokenizer()) is None
