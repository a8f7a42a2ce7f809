"""The interactive peer REPL: each line is one signed script (the only import of prompt_toolkit)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.shortcuts import CompleteStyle

from orvalho.cli.complete import completions
from orvalho.cli.explain import explanation
from orvalho.cli.inline import inline_source
from orvalho.cli.javascript import complete_word, is_complete
from orvalho.cli.replies import plain
from orvalho.cli.runs import follow, preview, result_text, show_end, show_held, standing_words
from orvalho.cli.session import Session
from orvalho.control.client import Client, state_directory
from orvalho.control.messages import (
    RunEnded,
    RunHeld,
    RunOutput,
    RunQueued,
    ScriptLogs,
    ScriptSend,
    Status,
    StatusReply,
    Why,
    WhyReply,
)
from orvalho.errors import InvalidInput, OrvalhoError, Unavailable

_FILENAME: Final = "repl.js"
_WIDTH: Final = 80
_HELP: Final = """\
Each line is a script of its own, signed here and run there: nothing is kept between lines.
In scope: target, caller (.id .name .fs .kv), params, log. The last value is the result.
  await target.fs.list("/shared")     what lies there
  (await target.kv.get("n")) ?? 0     a value
  target.node.facts()                 its cores, load, memory, disk
  :why [RUN]    the rules behind the last line, or a run
  :logs [RUN]   what it logged
  :quit         leave (also Ctrl-D)"""


class Repl:
    """Lines in, results out. `terminal` stands in for the real one."""

    def __init__(
        self,
        session: Session,
        client: Client,
        target: str,
        *,
        expose: Sequence[str] = (),
        context: str | None = None,
        terminal: tuple[Input, Output] | None = None,
    ) -> None:
        self._session = session
        self._screen = session.screen
        self._client = client
        self._target = target
        self._expose = tuple(expose)
        self._context = context
        self._terminal = terminal
        self._last_run: str | None = None
        self._caller: str | None = None

    def run(self) -> int:
        """Until :quit or the input's end. On a terminal the exit status is 0; from a pipe it is
        that of the last line that failed."""
        if self._terminal is not None or (sys.stdin.isatty() and sys.stdout.isatty()):
            self._run_prompt()
            return 0
        status = 0
        for text in _statements(sys.stdin):
            if text.strip() == ":quit":
                break
            status = self.execute(text) or status
        return status

    def execute(self, text: str) -> int:
        """Run one input and show what comes of it; answers its exit status."""
        words = text.split()
        if not words:
            return 0
        try:
            if words[0].startswith(":"):
                self._command(words[0], words[1:])
            else:
                self._send(text)
        except OrvalhoError as error:
            self._screen.error(error)
            return error.exit_status
        return 0

    # ---- a line

    def _send(self, code: str) -> None:
        request = ScriptSend(
            to=self._target,
            filename=_FILENAME,
            source=inline_source(code),
            expose=self._expose,
            context=self._context,
        )
        replies = self._connected().stream(request)
        last = follow(self._session, replies, _FILENAME, self._remember)
        if isinstance(last, RunEnded):
            self._show(last)
        elif isinstance(last, RunHeld):
            show_held(self._session, last)
        elif last is not None:
            raise Unavailable(
                f"{self._target} is away; the line waits for it."
                if last.state != "away"
                else f"{standing_words(last)}.",
                hint=f"orvalho script result {last.run} --wait",
            )

    def _remember(self, queued: RunQueued) -> None:
        self._last_run = queued.run

    def _show(self, ended: RunEnded) -> None:
        if self._screen.as_json or ended.outcome != "done" or ended.error is not None:
            show_end(self._session, ended, None)
        elif ended.result_bytes is not None:
            self._screen.line(preview(ended.result_bytes))
        elif ended.result is not None:
            text = result_text(ended.result, pretty=False)
            if self._screen.is_terminal and len(text) > _WIDTH:
                text = result_text(ended.result, pretty=True)
            self._screen.line_now(text)

    # ---- a command

    def _command(self, name: str, words: Sequence[str]) -> None:
        if name == ":help":
            self._screen.line(_HELP)
        elif name == ":why":
            self._why(self._run_named(words))
        elif name == ":logs":
            self._logs(self._run_named(words))
        else:
            raise InvalidInput(f"there is no command {name}.", hint=":help")

    def _run_named(self, words: Sequence[str]) -> str:
        run = words[0] if words else self._last_run
        if run is None:
            raise InvalidInput("no line has run yet.", hint="orvalho script ls")
        return run

    def _why(self, run: str) -> None:
        reply = self._connected().ask(Why(run=run), WhyReply)
        if self._screen.as_json:
            self._screen.document(plain(reply))
        else:
            self._screen.lines(explanation(reply))

    def _logs(self, run: str) -> None:
        for reply in self._connected().stream(ScriptLogs(run=run)):
            if isinstance(reply, RunOutput):
                self._screen.line_now(f"{reply.level:<5} {reply.text}")

    def _connected(self) -> Client:
        # An interrupted line closes its connection, and the daemon may have been restarted.
        if not self._client.is_open:
            self._client = self._session.connect()
        return self._client

    # ---- the prompt

    def _run_prompt(self) -> None:
        given, shown = self._terminal or (None, None)
        prompt: PromptSession[str] = PromptSession(
            f"{self._target}> ",
            input=given,
            output=shown,
            multiline=True,
            prompt_continuation=lambda width, _line, _wrap: "... ".rjust(width),
            history=FileHistory(str(self._history_file())),
            completer=_Words(self._paths),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            key_bindings=_keys(),
        )
        while True:
            try:
                text = prompt.prompt()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text.strip() == ":quit":
                return
            try:
                self.execute(text)
            except KeyboardInterrupt:
                continue

    def _history_file(self) -> Path:
        file = state_directory(self._session.environ, self._session.place) / "repl_history"
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What was typed may hold secrets.
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600))
        return file

    def _paths(self, side: str, start: str) -> list[str]:
        place = self._target if side == "target" else self._caller_address()
        words = completions(self._session, "path", f"{place}:{start}")
        return [word.removeprefix(f"{place}:") for word in words]

    def _caller_address(self) -> str:
        if self._caller is None:
            reply = self._connected().ask(Status(), StatusReply)
            context = self._context or next(iter(reply.contexts), "")
            self._caller = f"{context}@{reply.node}"
        return self._caller


class _Words(Completer):
    def __init__(self, paths: Callable[[str, str], Sequence[str]]) -> None:
        self._paths = paths

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        length, words = complete_word(document.text_before_cursor, self._paths)
        return [Completion(word, start_position=-length) for word in words]


def _keys() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        # An empty last line sends whatever is there: the way out when brackets never match.
        if is_complete(buffer.text) or buffer.text.endswith("\n"):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return bindings


def _statements(lines: Iterable[str]) -> Iterator[str]:
    """Inputs from a pipe: lines, joined while brackets are open."""
    text = ""
    for line in lines:
        text += line
        if is_complete(text):
            yield text.rstrip("\n")
            text = ""
    if text:
        yield text
