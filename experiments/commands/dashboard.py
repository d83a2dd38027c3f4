"""`headscope dashboard`: the dashboard on a folder of runs, in the browser."""

import signal
import subprocess
import sys
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from socket import gethostname
from typing import Annotated

import typer

from experiments.console import say
from headscope.errors import HeadscopeError, UsageError

LOCAL = "127.0.0.1"


def dashboard(
    runs: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port to serve on.", min=1, max=65535)] = 8501,
    host: Annotated[str, typer.Option(help="Address to serve on; by default this machine alone can reach it.")] = LOCAL,
    models: Annotated[
        Path | None, typer.Option(help="Folder with models that may be loaded, beside the zoo and those of runs.")
    ] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Open no browser.")] = False,
) -> None:
    """Look at runs, heads and attention in the browser; Ctrl-C ends it."""
    _check(runs, models)
    if not is_local(host):
        say(
            f"warning: the dashboard will be served on {host} without a password; whoever can reach this machine can "
            "read these runs, run these models, and start and stop sweeps here. Safer, from the other machine: leave "
            f"--host out here, run `ssh -L {port}:{LOCAL}:{port} {gethostname()}` there, and open http://{LOCAL}:{port}"
        )
    say(f"the dashboard of {runs} is at http://{_in_address(host)}:{port} (Ctrl-C ends it)")
    code = _served(server_command(runs, models, host=host, port=port, headless=headless))
    if code:
        raise HeadscopeError(f"the dashboard ended with code {code}; see the lines above, or try another --port")


def server_command(runs: Path, models: Path | None, *, host: str, port: int, headless: bool) -> list[str]:
    """The command that serves the dashboard; protections are given here, where no config file can undo them."""
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": headless,
        "server.showEmailPrompt": False,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.enableAgentApi": False,
        "server.enableStaticServing": False,
        "server.fileWatcherType": "none",
        "server.maxUploadSize": 20,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "type",
        "client.showErrorLinks": False,
        "runner.magicEnabled": False,
    }
    flags = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()]
    if is_local(host):  # a page elsewhere cannot pass for this one by a name that leads here
        flags += [f"--server.allowedHosts={name}" for name in dict.fromkeys(("localhost", LOCAL, "::1", host))]
    given = ["--runs", str(runs.resolve())] + ([] if models is None else ["--models", str(models.resolve())])
    return [sys.executable, "-m", "streamlit", "run", str(_app()), *flags, "--", *given]


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _served(command: list[str]) -> int:
    """How the server ended: 0 where this process was told to end, by Ctrl-C or a signal, and took the server along."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with subprocess.Popen(command) as server:
            try:
                return server.wait()
            except KeyboardInterrupt:
                server.terminate()
                return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check(runs: Path, models: Path | None) -> None:
    if not runs.is_dir():
        raise UsageError(f"there is no folder {runs}; `headscope demo --out runs/demo` makes a first run in runs")
    if (runs / "run.json").is_file():
        raise UsageError(f"{runs} is itself a run; give the folder that holds it: headscope dashboard {runs.parent}")
    if models is not None and not models.is_dir():
        raise UsageError(f"there is no folder {models}; give --models the folder that holds model folders")


def _app() -> Path:
    found = find_spec("dashboards")
    if found is None or not found.submodule_search_locations:
        raise HeadscopeError("the package dashboards is not installed beside this one; install headscope again")
    return Path(found.submodule_search_locations[0]) / "app.py"
