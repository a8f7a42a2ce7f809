"""The QR code in a terminal: the picture holds just the modules of the code."""

from __future__ import annotations

import segno

from orvalho.cli.qr import qr_text

TEXT = "orvalho1:" + "Ab3-" * 90
HALVES = {"\u2588": (1, 1), "\u2580": (1, 0), "\u2584": (0, 1), " ": (0, 0)}


def test_every_module_is_drawn_where_it_belongs() -> None:
    lines = qr_text(TEXT).splitlines()
    assert len({len(line) for line in lines}) == 1
    rows: list[list[int]] = []
    for line in lines:
        rows += [list(half) for half in zip(*(HALVES[mark] for mark in line), strict=True)]
    code = segno.make(TEXT, error="l", micro=False)
    size, border = code.symbol_size(border=0)[0], 2
    light = [row[border : border + size] for row in rows[border : border + size]]
    assert light == [[1 - module for module in row] for row in code.matrix]
    # All around it is light: the quiet zone.
    assert all(all(row) for row in (*rows[:border], *rows[border + size :]))
    assert all(all(row[:border]) and all(row[border + size :]) for row in rows)


def test_a_terminal_that_is_too_narrow_is_told(daemon, orvalho, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    assert orvalho("pair") == 0
    printed = capsys.readouterr()
    assert "columns wide" in printed.err
    assert printed.out.startswith("417-violin-orbit-lemon")
    assert orvalho("pair", "--qr") == 0
    assert "\u2588" in capsys.readouterr().out
