"""The examples: listed, copied out, built again to the byte; and the example configuration."""

import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from orvalho.cli import examples
from orvalho.daemon import config, settings
from orvalho.daemon.config_example import example_files
from orvalho.errors import InvalidInput
from orvalho.policies.book import PolicyBook
from orvalho.scripts.manifest import find_problems
from orvalho.scripts.script import make_script

EVERY = {each.name: each for each in examples.examples()}


def _is_debians_rustc() -> bool:
    """The one that made what is kept, with its library for WebAssembly."""
    found = shutil.which("rustc")
    if found is None or not examples._has_wasm(found):
        return False
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    return told.stdout.startswith("rustc 1.63.")


@pytest.mark.parametrize("name", EVERY)
def test_each_example_has_its_source_its_file_and_a_line_in_the_readme(name):
    example, top = EVERY[name], examples.directory()
    folder = top / example.language
    assert (folder / example.source).is_file()
    assert (folder / example.file).is_file() is example.keeps
    assert f"`{example.file}`" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name, each in EVERY.items() if each.keeps])
def test_what_an_example_needs_is_said_without_a_mistake(name):
    example = EVERY[name]
    if example.file.endswith(".ts") and not _runs_typescript():
        pytest.skip("TypeScript is not run by this version: its suffix is refused")
    file = examples.shipped_file(name)
    raw = file.read_bytes()
    is_module = file.suffix == ".wasm"
    beside = Path(f"{file}.toml")
    needs = beside.read_text() if beside.exists() else None
    script = make_script(file.name, raw if is_module else raw.decode())
    assert find_problems(script, needs) == ()


def _runs_typescript():
    try:
        make_script("a.ts", "1")
    except InvalidInput:
        return False
    return True


@pytest.mark.parametrize("name", [name for name, each in EVERY.items() if each.tool and each.keeps])
def test_an_example_is_built_to_the_very_bytes_that_are_kept(name, tmp_path):
    example = EVERY[name]
    if example.tool == "zig" and importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed: pip install orvalho[examples]")
    if example.tool == "asc" and shutil.which("asc") is None:
        pytest.skip("asc is not installed: npm install -g assemblyscript")
    if example.tool == "rustc" and not _is_debians_rustc():
        pytest.skip("rustc 1.63 is not installed: apt-get install rustc libstd-rust-dev-wasm32")
    built = examples.build(example, tmp_path)
    assert built.is_as_kept, f"{example.source} or its toolchain has changed: build it again"
    assert built.file == tmp_path / example.language / example.file
    assert Path(f"{built.file}.toml").is_file()


def test_python_becomes_a_component(tmp_path):
    if importlib.util.find_spec("componentize_py") is None:
        pytest.skip("componentize-py is not installed: pip install orvalho[examples]")
    built = examples.build(EVERY["words"], tmp_path)
    assert built.is_as_kept is None
    content = built.file.read_bytes()
    assert content[:8] == b"\0asm\x0d\0\1\0", "a component, by its layer"
    assert b"frequent" in content


def test_a_missing_toolchain_is_named_with_what_installs_it(orvalho, capsys, environ, tmp_path):
    example = examples.Example(
        name="x", language="c", source="ram.c", file="x.wasm", says="", command=("asc-none", "x")
    )
    with pytest.raises(examples.Unavailable, match="asc-none, which is not installed"):
        examples.build(example, tmp_path)
    assert examples._INSTALL["zig"] == "pip install orvalho[examples]"


@pytest.mark.parametrize("tools", [("zig", "asc"), ("asc",)])
def test_who_builds_all_is_told_what_is_left_out(orvalho, capsys, monkeypatch, tmp_path, tools):
    pytest.importorskip("ziglang")
    chosen = [EVERY[name] for name in ("ram", "csvsum") if EVERY[name].tool in tools]
    monkeypatch.setattr(examples, "examples", lambda: tuple(chosen))
    monkeypatch.setenv("PATH", str(tmp_path))
    status = orvalho("examples", "build", "--out", str(tmp_path))
    assert status == (0 if "zig" in tools else 4)
    printed = capsys.readouterr()
    assert ("ram.wasm" in printed.out) is (status == 0)
    assert "left out: csvsum is built with asc, which is not installed here: npm" in printed.err
    assert "error[" not in printed.err


def test_a_source_with_a_mistake_is_told_with_the_compilers_words(tmp_path):
    pytest.importorskip("ziglang")
    example = examples.Example(
        name="x",
        language="c",
        source="ram.c",
        file="x.wasm",
        says="",
        command=("zig", "cc", "-target", "wasm32-freestanding", "no-such-file.c", "-o", "OUT"),
    )
    with pytest.raises(examples.ScriptFailed) as told:
        examples.build(example, tmp_path)
    assert "no-such-file.c" in (told.value.detail or "")


def test_extract_copies_all_and_touches_nothing_that_stands_there(orvalho, capsys, tmp_path):
    mine = tmp_path / "out/c/ram.c"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert orvalho("examples", "extract", str(tmp_path / "out")) == 0
    assert "1 file stood there already" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    for example in EVERY.values():
        assert (tmp_path / "out" / example.language / example.source).is_file()
    assert (tmp_path / "out/c/wordcount.wasm").read_bytes()[:4] == b"\0asm"
    (tmp_path / "file").write_text("")
    assert orvalho("examples", "extract", str(tmp_path / "file")) == 2


def test_an_installed_package_has_them_all(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        kept = [each for each in EVERY.values() if each.keeps]
        assert {f"orvalho/examples/{each.language}/{each.file}" for each in kept} <= names
        assert "orvalho/examples/examples.toml" in names
        wheel.extractall(tmp_path / "site")
    installed = subprocess.run(
        [sys.executable, "-m", "orvalho", "examples", "extract", str(tmp_path / "out")],
        cwd=tmp_path / "site",
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    assert (tmp_path / "out/c/ram.wasm").is_file()


def test_an_unknown_example_and_one_without_a_build_are_told(orvalho, capsys):
    assert orvalho("examples", "build", "nothing") == 4
    assert "orvalho examples ls" in capsys.readouterr().err
    assert orvalho("examples", "build", "inventory") == 2


# ---- config extract -----------------------------------------------------------------------


def test_the_example_configuration_is_read_as_it_stands(shell, tmp_path):
    done = shell("config", "extract", str(tmp_path / "x"))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "x"
    loaded = config.load(folder, {}, {})
    assert loaded.config == settings.Config(name="laptop")
    checked = PolicyBook(folder, lambda: ["peer"]).check()
    assert (checked.problems, checked.files) == ((), ("policy/default.csv", "policy/peer.csv"))
    again = shell("config", "extract", str(folder))
    assert again.returncode == 0
    assert "4 files stood there already" in again.stderr


def test_each_setting_stands_there_and_each_default_is_right(tmp_path):
    text = next(each.text for each in example_files().files if each.path == "config.toml")
    bare = "\n".join(
        line.removeprefix("# ") for line in text.splitlines() if not line.startswith("##")
    )
    # The head is words, not settings.
    bare = bare[bare.index("name =") :]
    (tmp_path / "config.toml").write_text(bare)
    assert config.load(tmp_path, {}, {}).config == settings.Config(name="laptop")
    flat = config._flatten(tomllib.loads(bare))
    assert set(flat) == set(config.keys())


def test_the_rules_of_a_context_can_be_used_as_they_are_shown(tmp_path):
    for each in example_files().files:
        file = tmp_path / each.path
        file.parent.mkdir(exist_ok=True)
        text = each.text.replace("# p, ", "p, ").replace("# g, ", "g, ")
        file.write_text(text if each.path == "policy/peer.csv" else each.text)
    checked = PolicyBook(tmp_path, lambda: ["peer"]).check()
    assert checked.problems == ()
    assert checked.rules > 7
