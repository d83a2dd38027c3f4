"""`headscope doctor MODEL`: proof that hooks see and change what they claim, on the user's own model."""

from typing import Annotated

import typer

from experiments.console import print_check, print_json, print_table
from experiments.options import AllowPickle, Device, Dtype, Json, TrustCode
from headscope import HookedModel
from headscope.backends import BackendName


def doctor(
    model: Annotated[str, typer.Argument(help="Folder, hub id, or a model of the zoo such as zoo:needle.")],
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    backend: Annotated[BackendName, typer.Option(help="Library whose model is hooked; the numbers are the same.")] = (
        "transformers"
    ),
    json: Json = False,
) -> None:
    """Check that a model can be hooked: what was found, and each fact with its number. Exit code 1 if one fails."""
    hooked = HookedModel.load(
        model,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        backend=backend,
    )
    check = hooked.check()
    stacks = [
        {
            "stack": stack,
            "layers": len(hooked.layers(stack)),
            "heads": (site := hooked.sites_of(stack)[0]).n_heads,
            "key heads": site.n_kv_heads,
            "d_head": site.d_head,
            "z exact": all(site.z_exact for site in hooked.sites_of(stack)),
        }
        for stack in hooked.stacks
    ]
    if json:
        print_json(
            {"model": model, "backend": backend, "passed": check.passed, "stacks": stacks, "checks": check.to_records()}
        )
    else:
        print_table(stacks, title=f"{hooked!r} through {backend}")
        print_check(check)
    if not check.passed:
        raise typer.Exit(1)
