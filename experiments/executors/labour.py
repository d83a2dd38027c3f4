"""Who does the cells of a command, as its options say."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from experiments.executors.order import Order
from headscope.errors import UsageError
from headscope.sharing import Executor, do_work

Name = Literal["local", "processes", "ray"]


@dataclass(frozen=True)
class Labour:
    """The options of an executor; UsageError for some that do not go together."""

    name: Name = "local"
    workers: int | None = None
    num_gpus: float | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.name == "local" and self.workers is not None:
            raise UsageError(
                f"--workers {self.workers} is given, and --executor local is one process; add --executor processes or "
                "--executor ray, or leave --workers out"
            )
        for option, value in (("--num-gpus", self.num_gpus), ("--ray-address", self.ray_address)):
            if self.name != "ray" and value is not None:
                raise UsageError(f"{option} {value} is an option of --executor ray; add that, or leave {option} out")

    @contextmanager
    def executor(self, order: Order) -> Iterator[Executor]:
        """What does the cells inside the block; its workers end with the block.

        A worker loads its model when there is a first cell to do. UsageError for a cluster that does not answer.
        """
        if self.name == "local":
            yield do_work
        elif self.name == "processes":
            from experiments.executors.processes import processes

            with processes(order, workers=self.workers) as executor:
                yield executor
        else:
            from experiments.executors.on_ray import on_ray

            with on_ray(order, workers=self.workers, num_gpus=self.num_gpus, address=self.ray_address) as executor:
                yield executor
