"""Named networks: flag, then environment, then the one in use."""

import json

import pytest

from orvalho.cli.main import run
from orvalho.cli.session import Session


@pytest.fixture
def environ(tmp_path):
    return {"HOME": str(tmp_path)}


def place(environ, *argv):
    """The home that a command with these options is about."""
    session = Session(environ)
    if argv:
        session.home = argv[-1]
    return session.place


def test_a_home_is_named_used_and_forgotten(environ, tmp_path, capsys):
    assert run(["use", "add", "office", "--home", str(tmp_path / "o")], environ) == 0
    assert place(environ) is None, "naming is not using"
    assert run(["use", "office"], environ) == 0
    assert place(environ) == str(tmp_path / "o")
    capsys.readouterr()
    assert run(["use", "--json"], environ) == 0
    networks = json.loads(capsys.readouterr().out)["networks"]
    assert [(each["name"], each["current"]) for each in networks] == [
        ("default", False),
        ("office", True),
    ]
    assert run(["use", "rm", "office"], environ) == 0
    assert place(environ) is None


def test_a_flag_wins_over_the_environment_and_that_over_use(environ, tmp_path):
    run(["use", "add", "office", "--home", str(tmp_path / "o")], environ)
    run(["use", "office"], environ)
    assert place({**environ, "ORVALHO_HOME": "/env"}) is None, "the client finds it there"
    assert place({**environ, "ORVALHO_HOME": "/env"}, "/flag") == "/flag"


def test_the_network_flag_names_the_home_of_one_command(environ, tmp_path, capsys):
    run(["use", "add", "office", "--home", str(tmp_path / "o")], environ)
    assert run(["--network", "office", "daemon", "status"], environ) == 4
    assert str(tmp_path / "o" / "run" / "ctl.sock") in capsys.readouterr().err
    assert run(["daemon", "status", "--network", "offcie"], environ) == 4
    assert "did you mean office?" in capsys.readouterr().err


def test_what_cannot_be_a_name_and_a_broken_file_are_told(environ, tmp_path, capsys):
    for name in ("default", "add", "A b", "../x"):
        assert run(["use", "add", name, "--home", "/x"], environ) == 2
    assert run(["use", "nowhere"], environ) == 4
    file = tmp_path / ".config/orvalho/networks.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("current = [")
    assert run(["status"], environ) == 2
    assert "networks.toml" in capsys.readouterr().err
