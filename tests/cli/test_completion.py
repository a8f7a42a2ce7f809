import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orvalho.cli.shells import completion_script, table
from orvalho.cli.tree import root
from orvalho.control import messages as m

BASH_TAB = r"""
eval "$SCRIPT"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_orvalho
printf '%s\n' "${COMPREPLY[@]}"
"""
# zsh offers no Tab off a terminal; what is tested is that its own rules can run the function.
ZSH_TAB = r"""
autoload -Uz compinit && compinit -u -D
eval "$SCRIPT"
tab() {
  emulate -L sh
  setopt kshglob noshglob braceexpand
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
  compgen() { [[ $1 == -W ]] && for w in ${=2}; do [[ $w == ${4}* ]] && print -r -- $w; done; true }
  _orvalho
  printf '%s\n' "${COMPREPLY[@]}"
}
tab "$@"
"""
CASES = [
    (("orvalho", "scr"), {"script"}),
    (("orvalho", "script", "s"), {"send", "show"}),
    (("orvalho", "script", "send", "--det"), {"--detach"}),
    (("orvalho", "--json", "peer", "i"), {"invite"}),
    (("orvalho", "nonsense", "x"), set()),
    (("orvalho", "config", "set", "k", "v"), set()),
    (("orvalho", "script", "send", "peer@p"), {"peer@phone2", "peer@phone$(touch owned)"}),
    (
        ("orvalho", "script", "send", "--param", "n=1", "p"),
        {"peer@phone2", "peer@phone$(touch owned)"},
    ),
    (("orvalho", "script", "send", "--as", "p"), {"peer@phone2", "peer@phone$(touch owned)"}),
    (("orvalho", "peer", "rm", "p"), {"peer@phone2", "peer@phone$(touch owned)"}),
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `orvalho` is this checkout's."""
    program = tmp_path / "bin" / "orvalho"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m orvalho "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:/usr/bin:/bin"


def tab(shell, program, words, environ, cwd):
    return subprocess.run(
        [shell, *(("-f",) if shell == "zsh" else ("--norc",)), "-c", program, shell, *words],
        env=environ, cwd=cwd, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("words", "wanted"), CASES, ids=[" ".join(words) for words, _ in CASES])
@pytest.mark.parametrize(
    ("shell", "program"), [("bash", BASH_TAB), ("zsh", ZSH_TAB)], ids=["bash", "zsh"]
)
def test_tab(  # noqa: PLR0917
    shell, program, words, wanted, daemon, environ, path, tmp_path
):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = completion_script(shell, root())
    done = tab(shell, program, words, environ | {"PATH": path, "SCRIPT": script}, tmp_path)
    assert set(done.stdout.split("\n")) - {""} == wanted, done.stderr
    assert done.stderr == ""
    assert not (tmp_path / "owned").exists(), "a completion was evaluated"


@pytest.mark.parametrize(("words", "wanted"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_tab_in_fish(  # noqa: PLR0917
    words, wanted, daemon, environ, path, tmp_path
):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    (tmp_path / "orvalho.fish").write_text(completion_script("fish", root()))
    line = "source orvalho.fish; complete -C (string join ' ' -- $argv)"
    done = subprocess.run(
        ["fish", "--no-config", "-c", line, *words],
        env=environ | {"PATH": path}, cwd=tmp_path, capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip
    found = {word.split("\t")[0].replace("\\", "") for word in done.stdout.splitlines()}
    assert found == wanted, done.stderr
    assert not (tmp_path / "owned").exists(), "a completion was evaluated"


def test_the_home_on_the_line_is_the_one_that_is_asked(daemon, environ, path, tmp_path):
    environ = environ | {"PATH": path, "SCRIPT": completion_script("bash", root())}
    home = environ.pop("ORVALHO_HOME")
    words = ("orvalho", "--home", home, "why", "r_")
    assert "peer@phone2" in tab("bash", BASH_TAB, words, environ, tmp_path).stdout
    assert (daemon.last(m.Complete).kind, daemon.last(m.Complete).text) == ("run", "r_")


def test_without_a_daemon_there_is_nothing_to_complete(shell):
    done = shell("complete", "target", "p")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_each_flag_takes_a_value_everywhere_or_nowhere():
    lines = list(table(root()))
    valued = {name for line in lines for name, _ in line.valued}
    for line in lines:
        taking = {name for name, _ in line.valued}
        assert {name for name, _ in line.flags} & valued <= taking, line.path


def test_the_command_prints_the_script(orvalho, capsys):
    assert orvalho("completion", "bash") == 0
    assert capsys.readouterr().out == completion_script("bash", root())
