"""Completion scripts, made from the command tree.

The words and flags stand in the script itself; what only the daemon knows (targets, peers, runs)
is asked with `orvalho complete KIND TEXT`, which takes about as long as Python takes to start.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import click

# What an argument may be, by the name that help shows for it; anything else is not completed.
_KINDS: Final = {
    "TARGET": "target",
    "PEER": "peer",
    "CONTEXT": "context",
    "GROUP": "group",
    "RUN": "run",
    "LIBRARY": "library",
    "KEY": "key",
    "FILE": "file",
    "DIR": "file",
}
_NOTHING: Final = "none"


@dataclass(frozen=True, slots=True)
class Line:
    """What may follow one path of words: further words, flags with their help, flags that take a
    value with its kind, and the kinds of the arguments."""

    path: str
    words: tuple[tuple[str, str], ...]
    flags: tuple[tuple[str, str], ...]
    valued: tuple[tuple[str, str], ...]
    places: tuple[str, ...]


def completion_script(shell: str, root: click.Group) -> str:
    """The script that `shell` (one of SHELLS) evaluates."""
    return SHELLS[shell](tuple(table(root)))


def table(root: click.Group) -> Iterator[Line]:
    """One line for each command that is not hidden, the root first."""
    yield from _lines(root, click.Context(root, info_name="orvalho", **root.context_settings), "")


def _lines(command: click.Command, ctx: click.Context, path: str) -> Iterator[Line]:
    children = list(_children(command, ctx))
    options = [param for param in command.get_params(ctx) if isinstance(param, click.Option)]
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    yield Line(
        path=path,
        words=tuple((name, child.get_short_help_str()) for name, child in children),
        flags=tuple((name, option.help or "") for option in options for name in option.opts),
        valued=tuple(
            (name, _kind(option))
            for option in options
            if not option.is_flag
            for name in option.opts
        ),
        places=tuple(_kind(argument) for argument in arguments),
    )
    for name, child in children:
        inner = click.Context(child, parent=ctx, info_name=name)
        yield from _lines(child, inner, f"{path} {name}".strip())


def _children(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            if child is not None and not child.hidden:
                yield name, child


def _kind(param: click.Parameter) -> str:
    return _KINDS.get((param.metavar or "").strip("[].:"), _NOTHING)


# ---- bash, and zsh by its bashcompinit (to which `path` and `words` mean other things)

_BASH: Final = r"""
_orvalho() {
  local word="${COMP_WORDS[COMP_CWORD]}" line="" place=0 kind="" home="" skip="" w i entry found
  local verbs flags valued places
  COMPREPLY=()
  _orvalho_table ""
  for ((i = 1; i < COMP_CWORD; i++)); do
    w="${COMP_WORDS[i]}"
    if [[ -n $skip ]]; then
      [[ $skip == --home ]] && home="$w"
      skip=""
    elif [[ $w == -* ]]; then
      for entry in $valued; do
        [[ ${entry%%:*} == "$w" ]] && skip="$w"
      done
    elif [[ -n $verbs ]]; then
      [[ " $verbs " == *" $w "* ]] || return 0
      line="${line:+$line }$w"
      _orvalho_table "$line"
    else
      place=$((place + 1))
    fi
  done
  if [[ -n $skip ]]; then
    for entry in $valued; do
      [[ ${entry%%:*} == "$skip" ]] && kind="${entry#*:}"
    done
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
    return 0
  elif [[ -n $verbs ]]; then
    COMPREPLY=($(compgen -W "$verbs" -- "$word"))
    return 0
  else
    i=0
    for entry in $places; do
      [[ $i == "$place" ]] && kind="$entry"
      i=$((i + 1))
    done
  fi
  case "$kind" in
    "" | none) ;;
    file)
      while IFS= read -r found; do COMPREPLY+=("$found"); done < <(compgen -f -- "$word")
      ;;
    *)
      # Not compgen -W: it would expand what the daemon answers.
      home="${home:-${ORVALHO_HOME:-}}"
      while IFS= read -r found; do COMPREPLY+=("$found"); done \
        < <(ORVALHO_HOME="$home" command orvalho complete "$kind" "$word" 2>/dev/null)
      ;;
  esac
}
"""


def _bash(lines: tuple[Line, ...]) -> str:
    return (
        '# orvalho, for bash: eval "$(orvalho completion bash)"\n'
        f"{_cases(lines)}{_BASH}"
        # peer@phone2 is one word here.
        'COMP_WORDBREAKS="${COMP_WORDBREAKS//[@:]/}"\n'
        "complete -o filenames -F _orvalho orvalho\n"
    )


def _zsh(lines: tuple[Line, ...]) -> str:
    return (
        '# orvalho, for zsh: eval "$(orvalho completion zsh)"\n'
        "autoload -Uz compinit bashcompinit\n"
        "(( ${+functions[compdef]} )) || compinit\n"
        "bashcompinit\n"
        f"{_cases(lines)}{_BASH}"
        "complete -F _orvalho orvalho\n"
    )


def _cases(lines: tuple[Line, ...]) -> str:
    def row(line: Line) -> str:
        parts = {
            "verbs": " ".join(name for name, _ in line.words),
            "flags": " ".join(name for name, _ in line.flags),
            "valued": " ".join(f"{name}:{kind}" for name, kind in line.valued),
            "places": " ".join(line.places),
        }
        settings = " ".join(f'{name}="{value}"' for name, value in parts.items())
        return f'    "{line.path}") {settings} ;;\n'

    body = "".join(row(line) for line in lines)
    return f'_orvalho_table() {{\n  case "$1" in\n{body}  esac\n}}\n'


# ---- fish


_FISH: Final = r"""
function __orvalho_words
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if contains -- $word $__orvalho_valued
            set skip 1
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

function __orvalho_at
    set -l path $argv[2..-1]
    set -l words (__orvalho_words)
    set -l depth (count $path)
    test (count $words) -ge $depth; or return 1
    if test $depth -gt 0
        test "$words[1..$depth]" = "$path"; or return 1
    end
    test "$argv[1]" = any; or test (count $words) -eq (math $depth + $argv[1])
end

function __orvalho_ask
    command orvalho complete $argv[1] (commandline -ct) 2>/dev/null
end

complete -c orvalho -f
"""


def _fish(lines: tuple[Line, ...]) -> str:
    valued = sorted({name for line in lines for name, _ in line.valued})
    rows = [row for line in lines for row in _fish_rows(line)]
    return (
        "# orvalho, for fish: orvalho completion fish | source\n"
        f"set -g __orvalho_valued {' '.join(valued)}\n{_FISH}" + "".join(f"{row}\n" for row in rows)
    )


def _fish_rows(line: Line) -> Iterator[str]:
    def at(count: int | str) -> str:
        return f"complete -c orvalho -n '__orvalho_at {count} {line.path}'"

    for name, text in line.words:
        yield f"{at(0)} -a {name} -d {shlex.quote(text)}"
    kinds = dict(line.valued)
    for name, text in line.flags if not line.words else ():
        flag = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        yield f"{at('any')} {flag}{_fish_value(kinds.get(name))} -d {shlex.quote(text)}"
    for place, kind in enumerate(line.places):
        if kind != _NOTHING:
            yield at(place) + _fish_argument(kind)


def _fish_value(kind: str | None) -> str:
    if kind is None:
        return ""
    if kind == "file":
        return " -r -F"
    return " -x" if kind == _NOTHING else f" -x -a '(__orvalho_ask {kind})'"


def _fish_argument(kind: str) -> str:
    return " -F" if kind == "file" else f" -a '(__orvalho_ask {kind})'"


SHELLS: Final[dict[str, Callable[[tuple[Line, ...]], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
