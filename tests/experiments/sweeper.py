"""A process that loads a model once and forks a sweep for every line it reads, so that killing many costs little.

`FOLDER i/n` starts the i-th of n shards (from 0) with --resume in a folder and answers with the process' number;
`wait PID` answers with its exit code, negative for a signal. What a sweep does is appended to FOLDER.log, a line for
every unit that it has done; what it says goes to FOLDER.err.
"""

import os
import sys
from pathlib import Path

import torch

from experiments import run_sweep, units
from experiments.sweeps.ablated import Ablation, Ablator
from headscope import HookedModel
from headscope.runs import Run
from tasks import Needle

REPEATS, BATCH_TOKENS = 30, 64


class Logged(Ablator):
    """Notes every unit as soon as its logits are there."""

    def __init__(self, model: HookedModel, log: Path) -> None:
        super().__init__(model, Ablation())
        self.log = log

    def logits(self, inputs, units, *, wanted):
        for unit, logits in super().logits(inputs, units, wanted=wanted):
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {unit.name if unit else 'whole'}\n")
            yield unit, logits


def sweep(model: HookedModel, out: str, shard: tuple[int, int]) -> None:
    samples = Needle((64,), 1, REPEATS, seed=3).samples(model.tokenizer)
    config = {"shard": shard, "lengths": [64]}
    with Run.create(out, command="ablate sweep", config=config, seeds=[3], resume=True) as run:
        found = run_sweep(
            model,
            samples,
            units(model.heads()),
            metric="loss",
            batch_tokens=BATCH_TOKENS,
            run=run,
            shard=shard,
            runner=Logged(model, Path(f"{out}.log")),
        )
        with run.assembling():
            if not found.missing and "effects" not in run.table_names():
                run.save_table("effects", found.table)
                run.save_table("units", found.summary())
    if found.note:
        print(found.note, file=sys.stderr, flush=True)


def forked(model: HookedModel, out: str, shard: tuple[int, int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with Path(f"{out}.err").open("a") as said:
        os.dup2(said.fileno(), 2)
        try:
            sweep(model, out, shard)
            code = 0
        except Exception as error:
            said.write(f"{type(error).__name__}: {error}\n")
        finally:
            said.flush()
            os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    model = HookedModel.load("zoo:needle", device="cpu")
    print("ready", flush=True)
    for line in sys.stdin:
        first, second = line.split()
        if first == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(int(second), 0)[1])
        else:
            i, n = map(int, second.split("/"))
            answer = forked(model, first, (i, n))
        print(answer, flush=True)


if __name__ == "__main__":
    main()
