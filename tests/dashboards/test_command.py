"""`headscope dashboard` as a user meets it, and how it protects what it serves."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dashboards.settings import Settings, read_settings
from experiments.cli import run
from experiments.commands.dashboard import is_local, server_command


def refused(argv: list[str], capsys) -> str:
    assert run(argv) == 2
    return capsys.readouterr().err


def test_a_folder_that_does_not_exist(tmp_path, capsys):
    said = refused(["dashboard", str(tmp_path / "gone")], capsys)
    assert "there is no folder" in said
    assert "headscope demo --out runs/demo" in said


def test_a_run_instead_of_the_folder_of_runs(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert f"headscope dashboard {tmp_path.parent}" in refused(["dashboard", str(tmp_path)], capsys)


def test_models_that_do_not_exist(tmp_path, capsys):
    said = refused(["dashboard", str(tmp_path), "--models", str(tmp_path / "gone")], capsys)
    assert "--models" in said


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_ports_that_are_none(tmp_path, port, capsys):
    assert "port" in refused(["dashboard", str(tmp_path), "--port", port], capsys)


def test_what_protects_is_on(tmp_path):
    command = server_command(tmp_path, None, host="127.0.0.1", port=8501, headless=True)
    for flag in (
        "--server.address=127.0.0.1",
        "--server.port=8501",
        "--server.headless=true",
        "--server.enableCORS=true",
        "--server.enableXsrfProtection=true",
        "--browser.gatherUsageStats=false",
        "--client.toolbarMode=viewer",
        "--server.allowedHosts=127.0.0.1",
        "--server.enableAgentApi=false",
    ):
        assert flag in command
    assert Path(command[4]).name == "app.py"
    assert command[command.index("--") :] == ["--", "--runs", str(tmp_path)]


def test_what_the_command_passes_on_is_understood(tmp_path):
    command = server_command(tmp_path, tmp_path, host="127.0.0.1", port=1, headless=True)
    assert read_settings(command[command.index("--") + 1 :]) == Settings(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.0.0.2", True),
        ("0.0.0.0", False),
        ("10.0.0.2", False),
        ("box", False),
    ],
)
def test_who_can_reach_it(host, local):
    assert is_local(host) is local
    flags = server_command(Path(), None, host=host, port=1, headless=True)
    names = {flag.split("=")[1] for flag in flags if flag.startswith("--server.allowedHosts")}
    assert names == ({"localhost", "127.0.0.1", "::1", host} if local else set()), "as they stand in a request, bare"


def test_no_file_of_the_dashboard_lets_markup_through():
    folder = Path(server_command(Path(), None, host="localhost", port=1, headless=True)[4]).parent
    sources = [path.read_text("utf-8") for path in folder.rglob("*.py")]
    assert len(sources) > 20
    for word in ("unsafe_allow_html", "st.html(", "components.v1", "trust_remote_code=True", "allow_pickle=True"):
        assert not any(word in source for source in sources), word


def test_a_port_that_is_taken(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run(["dashboard", str(tmp_path), "--host", "0.0.0.0", "--port", port, "--headless"]) == 1
    said = capsys.readouterr()
    out = " ".join(said.out.split())
    assert "without a password" in out
    assert "start and stop sweeps" in out
    assert f"ssh -L {port}:127.0.0.1:{port}" in out
    assert "another --port" in said.err


def test_a_folder_below_the_one_it_was_started_in_is_named_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_settings(["--runs", str(tmp_path / "kept" / "runs")]).runs == Path("kept/runs")
    assert read_settings(["--runs", str(tmp_path)]).runs == tmp_path
    assert read_settings(["--runs", str(tmp_path.parent)]).runs == tmp_path.parent


@pytest.mark.slow
def test_the_server_ends_with_the_command(tmp_path):
    with socket.socket(socket.AF_INET6) as free:
        free.bind(("::1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", "from experiments.cli import main; main()", "dashboard", str(tmp_path), "--headless"]
    with subprocess.Popen([*words, "--host", "::1", "--port", str(port)], stdout=subprocess.PIPE, text=True) as command:
        _until(lambda: _answers(port))
        command.send_signal(signal.SIGTERM)
        out, _ = command.communicate(timeout=30)
    assert command.returncode == 0
    assert f"http://[::1]:{port}" in "".join(out.split())
    _until(lambda: not _answers(port))


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("::1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _until(holds: Callable[[], bool], *, patience: float = 60.0) -> None:
    until = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)
