"""Needles stand where the sample says, in prompts of the length asked for, whatever the tokenizer."""

import dataclasses
import re
from collections import Counter
from itertools import combinations, islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headscope.errors import UsageError
from headscope.samples import Task, tokenize
from headscope.scoring import words
from tasks.facts import Fact, secret_facts
from tasks.needle import Needle
from tasks.prose import sentences
from training.documents import build_tokenizer

FACTS = (
    Fact("The code of the safe is 4711 and 12.", "What is the code of the safe?", "4711 and 12"),
    Fact('Anna said: "The cat sleeps in the red box!"', "Where does the cat sleep?", "in the red box"),
    Fact(
        "Lunch is served at noon. Dinner is served at a quarter past eight.", "When is dinner?", "a quarter past eight"
    ),
)
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level():
    """A byte-level BPE of a few hundred merges, as GPT-2 and Llama 3 have it, with a first token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    facts = (fact.statement for fact in secret_facts(32, seed="bpe"))
    tokenizer.train_from_iterator([*islice(sentences("bpe"), 500), *facts], trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", clean_up_tokenization_spaces=False)


def metaspace():
    """A BPE whose tokens take the space before them along, as Llama 2 has it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<s>", "<unk>"], show_progress=False)
    text = "Question: Answer:\n" + " ".join(fact.statement + fact.question for fact in secret_facts(32, seed="bpe"))
    tokenizer.train_from_iterator([*islice(sentences("bpe"), 300), text], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


TOKENIZERS = {"word level": build_tokenizer(), "byte level": byte_level(), "metaspace": metaspace()}
BYTES = TOKENIZERS["byte level"]
WORDS = TOKENIZERS["word level"]


@pytest.fixture(params=TOKENIZERS.values(), ids=TOKENIZERS.keys())
def tokenizer(request):
    return request.param


@pytest.fixture
def chat():
    tokenizer = byte_level()
    tokenizer.chat_template = CHAT
    return tokenizer


def decoded(sample, mark, tokenizer):
    tokens = tokenize(sample, tokenizer)
    return tokenizer.decode(tokens.ids[slice(*tokens.marks[mark])])


def says(text, wanted):
    """Equal but for case, for spaces that a token may bring, and for marks that the word-level tokenizer drops."""
    said, meant = ("".join(re.split(r"[\s:?]+", one.lower())) for one in (text, wanted))
    return said == meant


def length(sample, tokenizer):
    return len(tokenizer(sample.prompt, add_special_tokens=not sample.chat)["input_ids"])


def text_of(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def longest_with(haystack):
    """Tokens of the prompt that holds all of a haystack, taken from the error that tells them."""
    with pytest.raises(UsageError, match="lengths up to") as error:
        Needle(lengths=(2000,), haystack=haystack, facts=FACTS[:1]).samples(BYTES)
    return int(str(error.value).rpartition(" ")[2])


def own_text(sample):
    """The sentences of a sample's haystack, without the facts in it."""
    text = sample.prompt[slice(*sample.characters("text"))]
    return [part.strip() + "." for part in text.split(".") if part.strip() and "secret words" not in part]


def overlap(a, b):
    """Share of the runs of three sentences in `a` that stand in `b` too; single sentences recur in any filler."""
    runs = [{tuple(s[i : i + 3]) for i in range(len(s) - 2)} for s in (a, b)]
    return len(runs[0] & runs[1]) / len(runs[0])


def plain_text(n, seed="user"):
    return " ".join(islice(sentences(seed), n))


def test_it_is_a_task():
    task: Task = Needle()
    samples = task.samples(WORDS)
    order = [(s.meta["length"], s.meta["repeat"], s.meta["depth"]) for s in samples]
    assert len(samples) == 20
    assert order == sorted(order)
    assert Needle(lengths=(96, 640, 128)).longest == 640


def test_marks_decode_to_what_they_name(tokenizer):
    for sample in Needle(lengths=(160, 300), depths=5, repeats=2).samples(tokenizer):
        assert says(decoded(sample, "needle", tokenizer), sample.target)
        assert says(decoded(sample, "statement", tokenizer), sample.meta["fact"])
        assert sample.prompt[slice(*sample.characters("needle"))] == sample.target
        assert sample.prompt[slice(*sample.characters("statement"))] == sample.meta["fact"]
        question = sample.prompt[slice(*sample.characters("question"))]
        text = sample.prompt[slice(*sample.characters("text"))]
        lead = sample.meta["fact"].split(":")[0]
        assert sample.prompt == f"{text}\nQuestion: {question}\nAnswer: {lead}:"
        assert not sample.chat


def test_a_mark_at_another_place_does_not_pass(tokenizer):
    (sample,) = Needle(lengths=(200,), depths=1).samples(tokenizer)
    start, end = sample.characters("needle")
    first = sample.target.index(" ")
    for wrong in [(start - 6, end), (start + first, end), (start, end - 3 - first), (0, end - start)]:
        moved = dataclasses.replace(sample, marks={"needle": wrong})
        assert not says(decoded(moved, "needle", tokenizer), sample.target)


@pytest.mark.parametrize("asked", [200, 512, 2048])
def test_length_is_met_from_below(tokenizer, asked):
    longest = max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in islice(sentences(0), 400))
    for sample in Needle(lengths=(asked,), depths=6).samples(tokenizer):
        assert asked - longest - 3 <= length(sample, tokenizer) <= asked
        assert sample.meta["tokens"] == length(sample, tokenizer)
        assert sample.meta["length"] == asked


@pytest.mark.parametrize("n_needles", [1, 3])
def test_cut_is_the_most_that_fits_this_sample(tokenizer, n_needles):
    task = Needle(lengths=(256, 300), depths=5, repeats=2, n_needles=n_needles)
    samples = task.samples(tokenizer)
    for sample in samples:
        here, kept = sample.meta, own_text(sample)
        text = list(islice(sentences(f"needle/0/{here['length']}/{here['depth']}/{here['repeat']}"), len(kept) + 1))
        assert kept == text[:-1]
        longer = sample.prompt.replace("\nQuestion:", f" {text[-1]}\nQuestion:")
        assert length(dataclasses.replace(sample, prompt=longer), tokenizer) > here["length"]
    assert len({len(own_text(sample)) for sample in samples[:10]}) > 1  # not one cut for all


def test_sixteen_thousand_tokens():
    for sample in Needle(lengths=(16_384,), depths=(0.0, 0.3, 1.0)).samples(BYTES):
        assert 16_384 - 60 <= length(sample, BYTES) <= 16_384
        assert says(decoded(sample, "needle", BYTES), sample.target)
        assert sample.meta["depth_found"] == pytest.approx(sample.meta["depth"], abs=0.002)


def test_depth_is_found_near_the_depth_asked(tokenizer):
    samples = Needle(lengths=(512,), depths=11, n_needles=3).samples(tokenizer)
    assert [sample.meta["depth"] for sample in samples] == pytest.approx([i / 10 for i in range(11)])
    found = [sample.meta["depth_found"] for sample in samples]
    assert found[0] == 0
    assert found[-1] == 1
    assert found == pytest.approx([sample.meta["depth"] for sample in samples], abs=0.08)


def test_more_depths_than_sentences_round_to_the_same_ones():
    samples = Needle(lengths=(128,), depths=40).samples(WORDS)
    found = [sample.meta["depth_found"] for sample in samples]
    assert found[0] == 0
    assert found[-1] == 1
    assert found.count(0) > 1
    assert found.count(1) > 1
    assert len({sample.prompt for sample in samples}) == 40
    for sample in samples:
        before, after = sample.prompt[slice(*sample.characters("text"))].split(sample.meta["fact"])
        sizes = [len(WORDS.tokenize(part)) for part in (before, after)]
        assert sample.meta["depth_found"] == pytest.approx(sizes[0] / sum(sizes))


def test_every_sample_has_its_own_facts_and_its_own_text(tmp_path):
    task = Needle(lengths=(256, 300), depths=4, repeats=3, n_needles=2)
    samples = [*task.samples(BYTES), *dataclasses.replace(task, seed=1, depths=2).samples(BYTES)]
    assert len({sample.meta["fact"] for sample in samples}) == len({sample.target for sample in samples}) == 36
    texts = [own_text(sample) for sample in samples]
    assert max(overlap(a, b) for a, b in combinations(texts, 2)) == 0
    assert overlap(texts[0][1:], texts[0]) == 1  # what one text moved along would show

    text_of(tmp_path, a=plain_text(400))
    from_file = Needle(lengths=(256,), depths=8, haystack=tmp_path).samples(BYTES)
    assert len({own_text(sample)[0] for sample in from_file}) == 8  # each from its own sentence on


def test_statements_stand_between_sentences():
    for sample in Needle(lengths=(256,), depths=10).samples(BYTES):
        known = set(islice(sentences(f"needle/0/256/{sample.meta['depth']}/0"), 50))
        text = sample.prompt.split("\nQuestion:")[0].replace(sample.meta["fact"], "")
        assert {part.strip() + "." for part in text.split(".") if part.strip()} <= known


def test_single_depth_is_the_middle_and_depths_can_be_given():
    assert [s.meta["depth"] for s in Needle(lengths=(128,), depths=1).samples(WORDS)] == [0.5]
    assert [s.meta["depth"] for s in Needle(lengths=(128,), depths=(0.9, 0.1)).samples(WORDS)] == [0.9, 0.1]


def test_several_needles_stand_in_the_text_once_each():
    samples = Needle(lengths=(512,), depths=4, repeats=2, n_needles=5).samples(WORDS)
    for sample in samples:
        text, question = sample.prompt.split("\nQuestion: ")
        stated = {part.strip() + "." for part in text.split(".") if "secret words" in part}
        assert len(stated) == text.count("secret words") == 5
        assert sample.meta["fact"] in stated
        assert sample.meta["n_needles"] == 5
        assert question.count("secret words") == 2  # asked, and led in to
    assert sum(sample.prompt.count(samples[0].meta["fact"]) for sample in samples) == 1


def test_same_seed_same_samples_other_seed_other_samples():
    needle = Needle(lengths=(128, 200), depths=3, repeats=2, n_needles=2)
    assert needle.samples(BYTES) == needle.samples(BYTES)
    facts = {seed: {s.meta["fact"] for s in dataclasses.replace(needle, seed=seed).samples(BYTES)} for seed in (0, 1)}
    assert len(facts[0]) == len(facts[1]) == 12
    assert not facts[0] & facts[1]


def test_more_depths_or_repeats_keep_what_was_there():
    few = Needle(lengths=(200,), depths=3).samples(WORDS)
    many = Needle(lengths=(96, 200), depths=5, repeats=2).samples(WORDS)
    assert [s.prompt for s in few] == [s.prompt for s in many if s.meta["length"] == 200 and not s.meta["repeat"]][::2]


@pytest.mark.parametrize("given", [1, 2, 3])
def test_own_facts_take_turns(given):
    task = Needle(lengths=(400, 420), depths=3, repeats=2, n_needles=min(2, given), facts=FACTS[:given])
    samples = task.samples(BYTES)
    asked = [sample.meta["fact"] for sample in samples]
    assert Counter(asked) == {fact.statement: 12 // given for fact in FACTS[:given]}
    assert all(a != b for a, b in pairwise(asked)) or given == 1
    for sample in samples:
        assert says(decoded(sample, "needle", BYTES), sample.target)
        assert sum(fact.statement in sample.prompt for fact in FACTS) == task.n_needles


def test_own_facts_come_to_every_depth():
    samples = Needle(lengths=(240,), depths=3, repeats=20, facts=FACTS).samples(BYTES)
    assert len({(sample.meta["fact"], sample.meta["depth"]) for sample in samples}) == 9


def test_own_folder_is_the_haystack(tmp_path):
    text_of(tmp_path, b=plain_text(40, "b") + "\n\nA heading\n\n" + plain_text(20, "c"), a=plain_text(60, "a"))
    (tmp_path / "notes.md").write_text("Not this one.")
    from_folder = Needle(lengths=(300,), depths=5, repeats=3, haystack=tmp_path).samples(BYTES)
    for sample in from_folder:
        text = sample.prompt[: sample.prompt.index("\nQuestion")].replace(sample.meta["fact"], "")
        whole = plain_text(60, "a") + " " + plain_text(40, "b") + " A heading " + plain_text(20, "c")
        assert " ".join(text.split()) in " ".join((whole + " " + whole).split())
        assert "Not this one" not in sample.prompt
        assert 300 - 60 <= length(sample, BYTES) <= 300
    assert len({sample.prompt[:30] for sample in from_folder}) > 1

    text_of(tmp_path, one=plain_text(100, "one"))
    (sample, *_) = Needle(lengths=(300,), haystack=str(tmp_path / "one.txt")).samples(BYTES)
    assert sample.meta["unknown"] == 0


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("One two. Three four! Five?\nSix", ["One two.", "Three four!", "Five?", "Six"]),
        ('He said "Go!" Then (so it was.) he went.', ['He said "Go!"', "Then (so it was.)", "he went."]),
        ("It is 3.5 km. Version 1.2.3 came...  Good.", ["It is 3.5 km.", "Version 1.2.3 came...", "Good."]),
        ("A heading\n\nText that\nbreaks its lines.", ["A heading", "Text that\nbreaks its lines."]),
        ("他走了。她来了！好", ["他走了。", "她来了！", "好"]),  # noqa: RUF001
    ],
)
def test_needles_go_only_where_a_sentence_ends(tmp_path, text, ends):
    haystack = text_of(tmp_path, a=text) / "a.txt"
    whole = Needle(lengths=(longest_with(haystack),), depths=30, haystack=haystack, facts=FACTS[:1])
    samples = [s for seed in range(20) for s in dataclasses.replace(whole, seed=seed).samples(BYTES)]
    places = {sample.prompt[: sample.characters("statement")[0]].rstrip() for sample in samples} - {""}
    assert {next((end for end in ends if place.endswith(end)), place) for place in places} == set(ends)


def test_unknown_share_of_the_haystack_is_told(tmp_path):
    text = " ".join(["The xylophone was small."] * 60)  # one word in five, the stop counted
    (sample,) = Needle(lengths=(128,), depths=1, haystack=text_of(tmp_path, a=text)).samples(WORDS)
    assert sample.meta["unknown"] == pytest.approx(0.2)
    assert Needle(lengths=(128,), depths=1).samples(WORDS)[0].meta["unknown"] == 0


def test_chat_template_is_used_and_located(chat):
    samples = Needle(lengths=(256,), depths=5, n_needles=2).samples(chat)
    for sample in samples:
        assert sample.chat
        assert sample.prompt.startswith("<|user|>\n")
        assert sample.prompt.endswith("<|end|>\n<|assistant|>\n")
        assert says(decoded(sample, "needle", chat), sample.target)
        assert sample.prompt[slice(*sample.characters("question"))].startswith("What are the secret words of")
        assert 256 - 60 <= length(sample, chat) <= 256
        assert chat.bos_token_id not in tokenize(sample, chat).ids
    assert samples[0].meta["depth_found"] == 0
    assert samples[-1].meta["depth_found"] == 1


@pytest.mark.parametrize(
    "body", ["{{ messages[0]['content'] | upper }}", "{% for i in 'ab' %}{{ messages[0]['content'] }}{% endfor %}"]
)
def test_chat_template_that_hides_the_text_is_refused(chat, body):
    chat.chat_template = body
    with pytest.raises(UsageError, match="word for word"):
        Needle(lengths=(256,)).samples(chat)


def test_score_is_the_metric_asked_for():
    (sample,) = Needle(lengths=(128,), depths=1).samples(WORDS)
    half = " ".join(words(sample.target)[::-1])
    assert Needle().score(sample, f" {sample.target.upper()} .") == 1
    assert Needle().score(sample, half) == 0
    assert Needle(metric="rouge1").score(sample, half) == 1


def test_no_answer_holds_what_it_stops_at():
    assert Needle().stop == ("\n", ".")
    assert not any(mark in fact.answer for fact in secret_facts(32, seed="stop") for mark in Needle().stop)
    full_stop = Fact("He lives in St. Gallen now.", "Where does he live?", "St. Gallen")
    assert Needle(facts=(full_stop,)).stop == ("\n",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": ()}, r"lengths \(\) must be positive"),
        ({"lengths": (256, 0)}, r"lengths \(256, 0\) must be positive"),
        ({"depths": ()}, r"depths \(\) names no depth"),
        ({"depths": 0}, "depths 0 names no depth"),
        ({"depths": (0.5, 1.2)}, "depth 1.2 is not a fraction.*from 0 to 1"),
        ({"depths": (float("nan"),)}, "depth nan is not a fraction"),
        ({"depths": (0.5, 0.1, 0.5)}, r"depths \(0.5, 0.1, 0.5\) would draw the same samples twice"),
        ({"lengths": (256, 256)}, r"lengths \(256, 256\) would draw the same samples twice.*more repeats"),
        ({"repeats": 0}, "repeats is 0"),
        ({"n_needles": 33}, "n_needles is 33, but there are 32 names.*1 to 32"),
        ({"n_needles": 0}, "n_needles is 0"),
        ({"n_needles": 4, "facts": FACTS}, "n_needles is 4, but there are 3 facts given"),
        ({"facts": (Fact("The party is an art.", "What?", "art"),)}, "'art' stands 2 times"),
        ({"facts": (Fact("The end...", "What?", "..."),)}, "one word or more"),
        ({"n_needles": 2, "facts": (FACTS[0], Fact("It is 3.", FACTS[0].question, "3"))}, "the same question"),
    ],
)
def test_a_task_that_cannot_be_is_refused_at_once(arguments, message):
    with pytest.raises(UsageError, match=message):
        Needle(**arguments)


@pytest.mark.parametrize("kind", [{}, {"n_needles": 6}, {"depths": (0.0,)}, {"facts": FACTS}], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_length_that_does_not_fit_names_one_that_does(kind, seed):
    task = Needle(lengths=(20,), seed=seed, **{"depths": 1, **kind})
    with pytest.raises(UsageError, match=r"needles? and question take \d+ tokens.* length 20 is too short") as error:
        task.samples(BYTES)
    enough = int(str(error.value).rpartition(" ")[2])
    (sample,) = dataclasses.replace(task, lengths=(enough,)).samples(BYTES)
    assert length(sample, BYTES) <= enough
    assert len(own_text(sample)) >= 1


def test_haystack_too_short_says_what_there_is_and_what_is_needed(tmp_path):
    text_of(tmp_path, a=plain_text(10))
    has = sum(len(WORDS.tokenize(sentence)) for sentence in islice(sentences("user"), 10))
    with pytest.raises(UsageError, match=rf"has {has} tokens, and length 400 needs (\d+).*lengths up to \d+") as error:
        Needle(lengths=(400,), haystack=tmp_path).samples(WORDS)
    assert str(tmp_path) in str(error.value)
    enough = int(str(error.value).rpartition(" ")[2])
    assert Needle(lengths=(enough,), haystack=tmp_path).samples(WORDS)


def test_haystack_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nowhere' does not exist"):
        Needle(haystack=tmp_path / "nowhere").samples(WORDS)
    with pytest.raises(UsageError, match="holds no text"):
        Needle(haystack=tmp_path).samples(WORDS)
    (tmp_path / "a.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        Needle(haystack=tmp_path).samples(WORDS)


def test_haystack_that_holds_the_needle_is_refused(tmp_path):
    text_of(tmp_path, a=FACTS[0].statement + " " + plain_text(3))
    with pytest.raises(UsageError, match="stands 2 times in the prompt"):
        Needle(lengths=(160,), facts=FACTS[:1], haystack=tmp_path).samples(BYTES)


def test_needle_of_unknown_words_is_refused():
    with pytest.raises(UsageError, match="does not know 'code'"):
        Needle(facts=FACTS[:1]).samples(WORDS)


def test_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False
        chat_template = None
        unk_token_id = None

        def __call__(self, text, **_):
            many = [[0] * len(part.split()) for part in ([text] if isinstance(text, str) else text)]
            return {"input_ids": many[0] if isinstance(text, str) else many}

    with pytest.raises(UsageError, match="load a fast tokenizer"):
        Needle().samples(Slow())


@settings(max_examples=60, deadline=None)
@given(
    tokenizer=st.sampled_from(list(TOKENIZERS.values())),
    asked=st.integers(240, 900),
    depth=st.floats(0, 1),
    n_needles=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_any_length_and_depth(tokenizer, asked, depth, n_needles, seed):
    task = Needle(lengths=(asked,), depths=(depth,), n_needles=n_needles, seed=seed)
    (sample,) = task.samples(tokenizer)
    assert asked - max(50, 0.05 * asked) <= length(sample, tokenizer) <= asked
    assert says(decoded(sample, "needle", tokenizer), sample.target)
    assert sample.prompt.count(sample.meta["fact"]) == 1
    # half of the longest sentence on either side, in a text that the question and the needles leave
    assert abs(sample.meta["depth_found"] - depth) <= 0.5 * 60 / (asked - 190) + 0.01
    assert 0 <= sample.meta["depth_found"] <= 1
