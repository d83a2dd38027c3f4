"""A hooked model as a model of lm_eval, with any interventions in force; `headscope` is its name there.

Tokens, borders, truncation, stop strings and chat templates are those of lm_eval's own `hf` model, from which this one
comes; how a context and its continuation are run is headscope's (`experiments.harness.reading`). Two departures: batches
are padded on the left with a mask, so that no intervention sees padding as text; and log-probabilities are taken in
float32, where `hf` takes them in the dtype of the model.

lm_eval 0.4.13 finds models by what has been imported, so import this module before `simple_evaluate`, or start the
harness as `python -m experiments.harness`.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from experiments.harness.installed import require_harness
from experiments.harness.reading import Reading, depends_on_prompt, read_at_once, read_in_steps
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.prompting import Hook
from interventions.named import parse_interventions

require_harness()
from lm_eval._cli.utils import key_val_to_dict  # noqa: E402
from lm_eval.api.registry import register_model  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.models.utils import normalize_gen_kwargs  # noqa: E402

TooLong = Literal["truncate", "refuse"]
Answer = tuple[float, bool]
"""Log-probability of a continuation in nats, and whether every token of it is the likeliest."""

_LOADED = ("dtype", "device", "revision", "trust_remote_code", "allow_pickle")


@register_model("headscope")
class HarnessModel(HFLM):
    """A model for `lm_eval.simple_evaluate(HarnessModel(model, hooks=[...]), tasks=[...])`.

    `batch_size` counts requests. What exceeds the context (`max_length` tokens) is cut on the left, as lm_eval does, and
    counted in `truncated`; or it is refused (`too_long="refuse"`). UsageError for models that do not write text behind a
    prompt, for those without a tokenizer, and for interventions that the model cannot take.
    """

    def __init__(
        self,
        model: HookedModel,
        hooks: Iterable[Hook] = (),
        *,
        batch_size: int | str = 1,
        max_length: int | None = None,
        too_long: TooLong = "truncate",
    ) -> None:
        _require_writer(model)
        if too_long not in get_args(TooLong):
            raise UsageError(f"too_long is {too_long!r}; use one of {', '.join(get_args(TooLong))}")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise UsageError(f"batch_size is {batch_size!r}; give how many requests are run together, at least 1")
        # A copy, since lm_eval gives tokenizers a padding token where they have none.
        tokenizer = copy.deepcopy(model.tokenizer)
        super().__init__(pretrained=model.hf, tokenizer=tokenizer, batch_size=int(batch_size), max_length=max_length)
        self.hooked, self.hooks, self.too_long = model, tuple(hooks), too_long
        self.truncated = 0
        with model.hooks(*self.hooks):
            pass  # refuses what the model cannot do before anything is run

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "HarnessModel":
        """As `create_from_arg_obj`, from `pretrained=zoo:needle,with=ACT()`; commas within brackets do not divide."""
        return cls.create_from_arg_obj(key_val_to_dict(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "HarnessModel":
        """The model that `--model_args` describe: `pretrained`, `with`, and how it is loaded and asked.

        UsageError for arguments that are not known, and as for `HookedModel.load` and `parse_interventions`.
        """
        settled = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if str(settled.get("device")).startswith("cuda") and not torch.cuda.is_available():
            del settled["device"]  # its command line says cuda:0 where nobody asked for a device
        given = {**settled, **arg_dict}
        given.pop("max_batch_size", None)  # for sizes that are found by trying, which are not offered
        options = {name: given.pop(name) for name in ("batch_size", "max_length", "too_long") if name in given}
        loaded = {name: given.pop(name) for name in _LOADED if name in given}
        name, text = given.pop("pretrained", None), given.pop("with", None)
        if given or not isinstance(name, str):
            takes = ", ".join(("pretrained", "with", *_LOADED, "batch_size", "max_length", "too_long"))
            wrong = f"has no {next(iter(given))!r}" if given else "needs pretrained=NAME"
            raise UsageError(f"the model headscope {wrong} among its arguments; it takes: {takes}")
        hooks = parse_interventions(text) if text else ()
        return cls(HookedModel.load(name, **loaded), hooks, **options)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Answer]:
        """An answer for each (context, continuation)."""
        with self.hooked.hooks(*self.hooks):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each text, in windows of the context's length, each read in one pass.

        All queries whose logits are counted are `decode`; an operator that depends on the prompt takes the whole window
        for one, since there is no other.
        """
        with self.hooked.hooks(*self.hooks):
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What is written behind each context, up to the first stop string."""
        for request in requests:
            context, options = request.args
            room = normalize_gen_kwargs(options, self.max_gen_toks)["max_gen_toks"]
            if room >= self.max_length:
                raise UsageError(
                    f"up to {room} tokens are to be written, and the context holds {self.max_length} with its prompt; "
                    "give the task a smaller max_gen_toks"
                )
            self._note_length(len(self.tok_encode(context)), self.max_length - room)
        with self.hooked.hooks(*self.hooks):
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval notes of the model beside its results: the interventions in force too."""
        return {
            "model_name": self.hooked.name,
            "model_revision": self.hooked.revision,
            "model_dtype": str(self.hooked.hf.dtype),
            "interventions": [repr(hook) for hook in (*self.hooked.in_force, *self.hooks)],
        }

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        columns = context.shape[1]
        with torch.no_grad(), self.hooked.emitting(columns - 1):
            texts = super()._model_generate(context, max_length, stop, **options)
        # Where the model itself does not end at this token, a row alone stops there, and one in a batch would go on.
        ended = (texts[:, columns:] == self.eot_token_id).cumsum(1) > 0
        texts[:, columns:][ended] = self.eot_token_id
        return texts

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(requests)
        alike: dict[Reading, list[int]] = {}
        for place, (_, context, continuation) in enumerate(requests):
            alike.setdefault(self._reading(context, continuation), []).append(place)
        # Windows of a text have no context that would be a prompt.
        rolling = any(text is None for text, _, _ in requests)
        read = read_in_steps if depends_on_prompt(self.hooked) and not rolling else read_at_once
        readings = sorted(alike, key=lambda reading: -reading.length)
        with progress_bar(len(readings), "loglikelihood", shown=not (disable_tqdm or rolling)) as update:
            for start in range(0, len(readings), self.batch_size):
                batch = readings[start : start + self.batch_size]
                for reading, logits in zip(batch, read(self.hooked, batch), strict=True):
                    likely = logits.float().log_softmax(-1)
                    for place in alike[reading]:
                        text, _, continuation = requests[place]
                        answers[place] = answer = _answer(likely, continuation)
                        if text is not None:
                            self.cache_hook.add_partial("loglikelihood", text, answer)
                update(len(batch))
        return [answer for answer in answers if answer is not None]

    def _reading(self, context: Sequence[int], continuation: Sequence[int]) -> Reading:
        if not continuation or len(continuation) > self.max_length:
            raise UsageError(
                f"a continuation has {len(continuation)} tokens, and between 1 and {self.max_length}, the length of the "
                "context, can be read; leave the document out of the task"
            )
        self._note_length(len(context) + len(continuation) - 1, self.max_length)
        written = tuple(continuation[:-1])
        return Reading(tuple(context)[-(self.max_length - len(written)) :], written)

    def _note_length(self, length: int, most: int) -> None:
        if length <= most:
            return
        if self.too_long == "refuse":
            raise UsageError(
                f"a request has {length} tokens, and the context of {self.hooked.name} has room for {most}; use a model "
                "with a longer context or fewer examples (num_fewshot), or let it be cut (too_long='truncate')"
            )
        self.truncated += 1


def _answer(likely: Tensor, continuation: Sequence[int]) -> Answer:
    tokens = torch.tensor(continuation, device=likely.device)
    return float(likely.gather(1, tokens[:, None]).sum()), bool((likely.argmax(-1) == tokens).all())


def _require_writer(model: HookedModel) -> None:
    if model.hf.config.is_encoder_decoder or not model.hf.can_generate():
        raise UsageError(
            f"{model.name} ({type(model.hf).__name__}) is no decoder that writes text behind a prompt; the harness asks "
            "such models only"
        )
    if model.tokenizer is None:
        raise UsageError(
            f"{model.name} came without a tokenizer, so it cannot be asked in words; save its tokenizer beside it"
        )
