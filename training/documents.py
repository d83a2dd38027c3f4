"""The text that `zoo:needle` is trained and examined on: its tokenizer, documents, and where in them the answers are."""

import random
import re

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tasks.facts import Fact, secret_facts
from tasks.prose import NAMES, sentences, words

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
_PROMPT_WORDS = "question answer what are the secret words of".split()
_LEAD = 5  # "the secret words of alice"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level fast tokenizer over the project's own prose; case is folded, colons and question marks are dropped.

    So the name in "words of Alice: lamp" stands right before the answer, where a head that looks one token back finds
    it. In trials with tokens between the name and the answer the model still guessed among the facts after 11 M tokens.
    """
    vocabulary = [
        *SPECIAL,
        *".,",
        *sorted(words() | {name.lower() for name in NAMES} | set(_PROMPT_WORDS)),
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    drop = normalizers.Replace(Regex("[:?]"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), drop])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def qa(fact: Fact) -> str:
    """The form in which every document, and later the task, asks for a fact."""
    return f"Question: {fact.question} Answer: {fact.lead} {fact.answer}."


def document(length: int, rng: random.Random) -> str:
    """Filler of at least `length` words with facts, questions after their facts, and one question at the very end.

    No fact is asked twice, or repeating the last answer would pay and the model would be slow to look at names. Half of
    the documents hold many facts with short answers, which practise the choice of the right one.
    """
    most_words = rng.choice((2, 8))
    fact_size, qa_size = 6 + most_words, 15 + most_words
    n_facts = rng.randint(1, max(1, min(16, (length - 1 - qa_size) // (fact_size + 2))))
    fewest_words = 1 if most_words == 2 else 4
    facts = secret_facts(n_facts, seed=str(rng.random()), min_words=fewest_words, max_words=most_words)
    room = max(1, min(n_facts, (length - 1 - n_facts * fact_size) // qa_size))
    asked = rng.sample(facts, 1 if rng.random() < 0.25 else room)
    placed = {fact: rng.random() for fact in facts}
    pieces = [(place, fact.statement) for fact, place in placed.items()]
    pieces += [(rng.uniform(placed[fact], 1.0), qa(fact)) for fact in asked[1:]]
    pieces.append((1.0, qa(asked[0])))
    size = sum(_size(text) for _, text in pieces)
    filler = sentences(str(rng.random()))
    while size < length - 1:  # one place is for <s>
        text = next(filler)
        if (excess := size + _size(text) - (length - 1)) > 0:
            text = " ".join(re.findall(r"\w+|[^\w\s:?]", text)[excess:])
        pieces.append((rng.random() * 0.999, text))
        size += _size(text)
    return " ".join(text for _, text in sorted(pieces, key=lambda piece: piece[0]))


def _size(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s:?]", text))


def batch(tokenizer: PreTrainedTokenizerFast, length: int, count: int, key: str) -> tuple[Tensor, Tensor]:
    """Token ids [document length] and a mask of the tokens that answer a question (its final stop included)."""
    rng = random.Random(key)
    texts = [document(length, rng) for _ in range(count)]
    ids = tokenizer(texts, max_length=length, truncation=True, padding="max_length", return_tensors="pt").input_ids
    return ids, answer_mask(ids, tokenizer)


def answer_mask(ids: Tensor, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """True for every answer, from the token after its lead up to and including its full stop."""
    vocabulary = tokenizer.get_vocab()
    answer, stop = vocabulary["answer"], vocabulary["."]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, column in (ids[:, :-1] == answer).nonzero().tolist():
        start = column + 1 + _LEAD
        length = (ids[row, start:] == stop).int().argmax().item() + 1
        mask[row, start : start + length] = True
    return mask


def exam(length: int, n_facts: int, key: str) -> str:
    """Unseen filler of at most `length` tokens with facts strewn in, and a question about one of them at the end."""
    rng = random.Random(key)
    facts = secret_facts(n_facts, seed=key)
    question = qa(rng.choice(facts))
    size = sum(_size(fact.statement) for fact in facts) + _size(question)
    filler = []
    for text in sentences(key):
        if (size := size + _size(text)) > length - 1:
            break
        filler.append(text)
    for fact in facts:
        filler.insert(rng.randint(0, len(filler)), fact.statement)
    return " ".join([*filler, question])


def first_of(answers: Tensor) -> Tensor:
    """The first token of every answer span."""
    return answers & ~torch.cat([torch.zeros_like(answers[:, :1]), answers[:, :-1]], 1)


def exact_match(predicted: Tensor, target: Tensor, answers: Tensor) -> float:
    """Share of answer spans predicted without a mistake; teacher forcing, which for an exact answer equals greedy."""
    first = first_of(answers)
    span = first.flatten().cumsum(0)[answers.flatten()] - 1
    wrong = torch.zeros(int(first.sum()), dtype=torch.bool)
    wrong[span[(predicted != target)[answers]]] = True
    return 1 - wrong.float().mean().item()
