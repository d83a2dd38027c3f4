"""The words of the command line that made a run, from its config; none where the config does not tell all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from head_analysis.sink_rules import SinkRule
from headscope.errors import UsageError
from headscope.literals import parse_call
from interventions.act import ACT
from tasks import MostNamed, SecretChoices

_TASK = ("lengths", "depths", "repeats", "needles", "haystack", "prompts", "options", "seed", "limit")
_VISION = (
    *("model", "annotations", "images", "synonyms", "prompt", "prior", "limit", "max_new_tokens", "by_token"),
    *("batch_tokens", "dtype"),
)
_TRUST = ("trust_remote_code", "allow_pickle")
_SWEEP = ("of", "heads", "mode", "metric", "screen", "top", "draws", "max_new_tokens", "batch_tokens", "shard", "dtype")

Facts = Mapping[str, Any]


def sweep_words(facts: Facts, config: Facts) -> list[str]:
    """Of `headscope ablate sweep`."""
    task, named = config.get("task"), config.get("groups")
    if not isinstance(task, Mapping):
        return []
    groups = [("group", group) for group in named] if isinstance(named, list) else []
    asked = [("model", config.get("model")), ("task", task.get("name")), *_of(task, _TASK), *_of(config, _SWEEP)]
    return ["headscope", "ablate", "sweep", *_options([*asked, *groups])]


def sinks_words(facts: Facts, config: Facts) -> list[str]:
    """Of `headscope heads sinks`."""
    rule = _read(config.get("rule"), SinkRule)
    lengths, seed = config.get("lengths"), _seed(facts)
    if not isinstance(rule, SinkRule) or not isinstance(lengths, list) or seed is None:
        return []
    asked = [*_of(config, ("model", "texts")), ("lengths", ",".join(map(str, lengths)))]
    asked += [*_of(config, ("n", "limit", "removal", "how", "draws", "dtype")), ("seed", seed)]
    asked += [(name, getattr(rule, name)) for name in ("variant", "alpha", "threshold", "min_queries")]
    return ["headscope", "heads", "sinks", *_options(asked)]


def vision_words(facts: Facts, config: Facts) -> list[str]:
    """Of `headscope heads vision`; none for runs of earlier versions, which kept the model and the task alone."""
    seed = _seed(facts)
    if seed is None or "limit" not in config:
        return []
    flags = [f"--{name.replace('_', '-')}" for name in _TRUST if config.get(name) is True]
    return ["headscope", "heads", "vision", *_options([*_of(config, _VISION), ("seed", seed)]), *flags]


def eval_words(facts: Facts, config: Facts) -> list[str]:
    """Of `headscope eval pope` and `chair`; none for runs of earlier versions, which did not keep what was asked."""
    asked, operators, seed = config.get("asked"), config.get("with"), _seed(facts)
    if not isinstance(asked, Mapping) or not isinstance(operators, list) or seed is None:
        return []
    told = [*_of(config, ("model", "manifest", "draws", "max_new_tokens", "batch_tokens", "dtype")), ("seed", seed)]
    named = [("with", operator) for operator in operators]
    flags = [f"--{name.replace('_', '-')}" for name in _TRUST if config.get(name) is True]
    return ["headscope", *str(facts.get("command")).split(), *_options([*asked.items(), *told, *named]), *flags]


def filter_words(facts: Facts, config: Facts) -> list[str]:
    """Of `headscope heads filter`; none for tasks of one's own, of which a run keeps no file names."""
    act, seed, candidates = _read(config.get("act"), ACT), _seed(facts), config.get("candidates")
    choosing, judging = _built_in(config.get("tasks")), _built_in(config.get("held_out"))
    if not isinstance(act, ACT) or seed is None or not isinstance(candidates, list) or not (choosing and judging):
        return []
    asked = [*_of(config, ("model", "rule", "draws", "dtype")), ("heads", ",".join(map(str, candidates)))]
    asked += [("calibration", choosing.n), ("held_out", judging.n), ("seed", seed), ("scoring", choosing.rule)]
    asked += [("length", choosing.length)] if isinstance(choosing, SecretChoices) else []
    asked += [(name, getattr(act, name)) for name in ("variant", "beta", "alpha", "threshold")]
    return ["headscope", "heads", "filter", *_options(asked)]


def _built_in(tasks: object) -> SecretChoices | MostNamed | None:
    """The built-in set among a run's tasks."""
    named = tasks if isinstance(tasks, Mapping) else {}
    for name, kind in (("choices", SecretChoices), ("kinds", MostNamed)):
        found = _read(named.get(name), kind)
        if isinstance(found, SecretChoices | MostNamed):
            return found
    return None


def _read(text: object, kind: type) -> object:
    try:
        return parse_call(text, {kind.__name__: kind}) if isinstance(text, str) else None
    except UsageError:
        return None


def _seed(facts: Facts) -> object:
    seeds = facts.get("seeds")
    return seeds[0] if isinstance(seeds, list) and seeds else None


def _of(given: Facts, names: Sequence[str]) -> list[tuple[str, Any]]:
    return [(name, given.get(name)) for name in names]


def _options(asked: Sequence[tuple[str, Any]]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in asked if value not in (None, "")]
