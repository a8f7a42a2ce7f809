"""Settings: files, environment and flags, the later the stronger; mistakes by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from orvalho.daemon import config, config_unset
from orvalho.errors import InvalidInput


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "config.toml").write_text('# mine\nname = "laptop"\n\n[log]\nlevel = "debug"\n')
    return tmp_path


def origin(loaded: config.LoadedConfig, key: str) -> str:
    return next(where for name, _, where in loaded.settings if name == key)


def test_each_value_names_where_it_comes_from(directory: Path) -> None:
    (directory / "conf.d/10-q.toml").write_text('[quota]\nkv_bytes = "1MB"\n')
    loaded = config.load(directory, {"ORVALHO_WORKERS_RUNS_AT_ONCE": "3"}, {"name": "flagged"})

    assert loaded.config.name == "flagged"
    assert loaded.config.workers.runs_at_once == 3
    assert origin(loaded, "name") == "flag"
    assert origin(loaded, "log.level") == "config.toml:5"
    assert origin(loaded, "quota.kv_bytes") == "conf.d/10-q.toml:2"
    assert origin(loaded, "workers.runs_at_once") == "ORVALHO_WORKERS_RUNS_AT_ONCE"
    assert origin(loaded, "limits.wall") == "default"


def test_conf_d_is_stronger_than_config_and_the_later_file_than_the_earlier(
    directory: Path,
) -> None:
    for number, level in ((10, "info"), (20, "error")):
        (directory / f"conf.d/{number}.toml").write_text(f'log.level = "{level}"\n')
    assert config.load(directory, {}, {}).config.log.level == "error"
    assert config.load(directory, {"ORVALHO_LOG_LEVEL": "info"}, {}).config.log.level == "info"


@pytest.mark.parametrize(
    ("text", "told", "where"),
    [
        ("[log\n", "not TOML", "config.toml:1"),
        ('name = "a"\n[lgo]\nlevel = "info"\n', 'did you mean "log.level"', "config.toml:3"),
        ('name = "a"\nlisten = 7\n', "listen", "config.toml:2"),
        ('name = "a"\n[log]\nlevel = "loud"\n', "one of debug", "config.toml:3"),
        ('name = "a"\n[limits]\nwall = "soon"\n', "duration", "config.toml:3"),
        ('name = "a"\n[quota]\ncontext_bytes = "much"\n', "size", "config.toml:3"),
        ('name = "a"\n[workers]\ncontexts_per_worker = 0\n', "at least 1", "config.toml:3"),
        ('name = "a"\n[nats]\nstream = "a b"\n', "a word of letters", "config.toml:3"),
        ('name = "a"\n[nats]\nstream = "a"\n', "needs a NATS server", "config.toml:3"),
        ('name = "a"\n[quota.total]\nmemory = "1MB"\n', "at least 8MB", "config.toml:3"),
        ('name = "a"\n[quota.total]\ncpu = "much"\n', "a duration", "config.toml:3"),
        ('name = "a"\n[quota.groups.x-y]\nwindow = "0s"\n', "at least 1s", "config.toml:3"),
        ('name = "a"\n[quota.groups.x]\ncores = -1\n', "at least 1", "config.toml:3"),
        ('name = "a"\n[quota.groups.x]\ncpus = 1\n', 'did you mean "quota.gr', "config.toml:3"),
        ('name = "a"\n[quota.groups.X_]\ncpu = "1s"\n', "no setting", "config.toml:3"),
        ('name = "a"\n[quota.groups]\nx = 1\n', "no setting", "config.toml:3"),
        ('name = "a"\n[retention]\nruns = "1h"\n', "at least 1d", "config.toml:3"),
        ('name = "a"\n[policy.broker]\nactions = ["fs.write"]\n', "needs policy", "config.toml:3"),
        ('name = "a"\n[policy.broker]\nsocket = "x"\n', "begins with /", "config.toml:3"),
        ('name = "a"\n[policy.broker]\ntimeout = "1d"\n', "from 10ms", "config.toml:3"),
        ('name = "a"\n[contexts.peer]\ndisabled = ["evl"]\n', '"eval"', "config.toml:3"),
        ('name = "a"\n[contexts.peer]\ndisable = ["kv"]\n', "no setting", "config.toml:3"),
        ('name = "a"\n[contexts]\npeer = ["kv"]\n', "no setting", "config.toml:3"),
        ('[log]\nlevel = "info"\n', "no node name", "config.toml"),
    ],
)
def test_a_mistake_is_told_with_its_line(directory: Path, text: str, told: str, where: str) -> None:
    (directory / "config.toml").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        config.load(directory, {}, {})
    assert told in caught.value.message
    assert where in (caught.value.where or "")


def test_setting_a_value_keeps_the_comments(directory: Path) -> None:
    assert config.set_value(directory, "workers.contexts_per_worker", "2")
    assert not config.set_value(directory, "workers.contexts_per_worker", "2")
    assert config.set_value(directory, "log.level", "info")

    assert (directory / "config.toml").read_text().startswith("# mine\n")
    loaded = config.load(directory, {}, {})
    assert loaded.config.workers.contexts_per_worker == 2
    assert loaded.config.log.level == "info"


def test_an_unknown_key_cannot_be_set(directory: Path) -> None:
    with pytest.raises(InvalidInput, match=r"workers\.contexts_per_worker"):
        config.set_value(directory, "workers.context_per_worker", "2")


def test_a_label_that_is_none_names_its_line(tmp_path):
    (tmp_path / "config.toml").write_text('name = "x"\n[node]\nlabels = ["gpu"]\n')
    with pytest.raises(InvalidInput) as raised:
        config.load(tmp_path, {}, {})
    assert raised.value.where == "config.toml:3"
    assert "env=home" in raised.value.message


def test_each_group_may_have_a_quota(directory: Path) -> None:
    assert config.set_value(directory, "quota.groups.guests.cpu", "10s")
    assert config.set_value(directory, "quota.groups.guests.queue", "true")
    assert config.set_value(directory, "quota.groups.my-family.runs_at_once", "3")
    loaded = config.load(directory, {}, {})

    assert loaded.config.quota.groups["guests"].cpu == "10s"
    assert loaded.config.quota.groups["guests"].queue
    assert loaded.config.quota.groups["my-family"].runs_at_once == 3
    assert origin(loaded, "quota.groups.guests.cpu").startswith("config.toml:")
    assert loaded.config.quota.total == config.SharedQuota()
    with pytest.raises(InvalidInput, match=r'did you mean "quota.groups.guests.cpu"'):
        config.set_value(directory, "quota.groups.guests.cpus", "10s")


def test_an_empty_value_that_is_there_already_is_told_as_empty(directory: Path) -> None:
    config.set_offline(directory, {}, "quota.total.memory", "")
    told = config.set_offline(directory, {}, "quota.total.memory", "")
    assert told == "quota.total.memory is empty already"


def test_a_context_has_a_table_of_its_own(directory: Path) -> None:
    (directory / "conf.d/10-c.toml").write_text('[contexts.peer]\ndisabled = ["eval", "kv"]\n')
    loaded = config.load(directory, {}, {})
    assert loaded.config.contexts["peer"].disabled == ("eval", "kv")
    assert origin(loaded, "contexts.peer.disabled") == "conf.d/10-c.toml:2"
    assert config.set_value(directory, "contexts.other.disabled", "timers")
    assert config.load(directory, {}, {}).config.contexts["other"].disabled == ("timers",)


def test_a_setting_is_taken_out_again_and_comments_stay(directory: Path) -> None:
    file = directory / "config.toml"
    file.write_text(
        '# mine\nname = "laptop"\n\n[limits]\n# long\nwall = "60s"\ncpu = "5s"\n\n'
        '[log]\nlevel = "debug"\n'
    )
    assert config_unset.unset_value(directory, "limits.wall")
    assert not config_unset.unset_value(directory, "limits.wall")
    assert config_unset.unset_value(directory, "log.level")
    text = file.read_text()
    assert ("# mine" in text, "wall" in text, "5s" in text, "[log]" in text) == (
        True,
        False,
        True,
        False,
    )
    loaded = config.load(directory, {}, {})
    assert origin(loaded, "limits.wall") == "default"
    assert config_unset.unset_words("limits.wall", loaded) == 'limits.wall = "30s", its default'
    beaten = config.load(directory, {"ORVALHO_LIMITS_WALL": "9s"}, {})
    assert "from ORVALHO_LIMITS_WALL" in config_unset.unset_words("limits.wall", beaten)


def test_a_typing_error_is_taken_out_though_there_is_no_such_setting(directory: Path) -> None:
    (directory / "config.toml").write_text('name = "laptop"\n[limts]\nwall = "60s"\n')
    with pytest.raises(InvalidInput):
        config.load(directory, {}, {})
    told = config_unset.unset_offline(directory, {}, "limts.wall")
    assert told == "limts.wall is set no longer"
    assert config.load(directory, {}, {}).config.name == "laptop"
    with pytest.raises(InvalidInput, match=r'did you mean "limits.wall"'):
        config_unset.unset_value(directory, "limts.wall")


def test_what_there_has_to_be_stays(directory: Path) -> None:
    (directory / "config.toml").write_text('name = "laptop"\n')
    with pytest.raises(InvalidInput, match="node name"):
        config_unset.unset_offline(directory, {}, "name")
    assert config.load(directory, {}, {}).config.name == "laptop"


def test_a_section_is_refused_but_a_group_goes_as_a_whole(directory: Path) -> None:
    file = directory / "config.toml"
    file.write_text(
        'name = "laptop"\n[limits]\nwall = "60s"\n[quota.groups.guests]\ncpu = "9s"\nqueue = true\n'
    )
    with pytest.raises(InvalidInput, match="is a section"):
        config_unset.unset_value(directory, "limits")
    assert config_unset.unset_value(directory, "quota.groups.guests")
    assert "guests" not in file.read_text()
    assert not config_unset.unset_value(directory, "quota.groups.guests.cpu")


def test_what_another_setting_needs_is_taken_out_after_that_one(directory: Path) -> None:
    (directory / "config.toml").write_text(
        'name = "a"\n[policy.broker]\nsocket = "/run/b"\nactions = ["fs.write"]\n'
    )
    with pytest.raises(InvalidInput) as caught:
        config_unset.unset_offline(directory, {}, "policy.broker.socket")
    assert caught.value.hint == "orvalho config unset policy.broker.actions"
    config_unset.unset_offline(directory, {}, "policy.broker.actions")
    config_unset.unset_offline(directory, {}, "policy.broker.socket")
