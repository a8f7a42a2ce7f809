"""`orvalho nodes` and the verbs of `peer` that say whom we trust how far, against a stand-in."""

import pytest

from orvalho.control import mesh


def test_nodes_are_shown_with_what_the_owner_should_settle(daemon, orvalho, capsys):
    assert orvalho("nodes") == 0
    shown = capsys.readouterr().out
    assert "phone2" in shown
    assert "suspect" in shown
    assert "via laptop" in shown
    assert "env=home os=linux" in shown
    assert "! laptop has revoked this device" in shown
    assert "ws://" not in shown
    assert daemon.last(mesh.Nodes) == mesh.Nodes(lan=False)

    assert orvalho("nodes", "-v") == 0
    assert "ws://192.0.2.1:4455" in capsys.readouterr().out


def test_a_name_from_the_network_cannot_drive_the_terminal(daemon, orvalho, capsys):
    assert orvalho("nodes", "--lan") == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "not paired: orvalho pair" in shown
    assert daemon.last(mesh.Nodes) == mesh.Nodes(lan=True)


def test_that_beacons_are_off_is_said(daemon, orvalho, capsys):
    off = mesh.NodesReply(nodes=(), lan=(), is_listening=False, problems=())
    daemon.says(mesh.Nodes, off)
    assert orvalho("nodes", "--lan") == 0
    assert "orvalho config set mesh.beacons true" in capsys.readouterr().err


def test_the_verbs_of_peer_ask_for_what_they_say(daemon, orvalho, capsys):
    assert orvalho("peer", "set", "laptop", "--introducer") == 0
    assert daemon.last(mesh.PeerSet) == mesh.PeerSet(name="laptop", introducer=True)
    assert orvalho("peer", "set", "laptop", "--no-introducer") == 0
    assert daemon.last(mesh.PeerSet) == mesh.PeerSet(name="laptop", introducer=False)
    assert orvalho("peer", "set", "laptop") == 2
    assert orvalho("peer", "rename", "phone2", "phone") == 0
    assert daemon.last(mesh.PeerRename) == mesh.PeerRename(name="phone2", new_name="phone")
    assert orvalho("peer", "revoke", "phone2", "-y") == 0
    assert daemon.last(mesh.PeerRevoke) == mesh.PeerRevoke(name="phone2")


@pytest.mark.parametrize("verb", ["revoke", "rm"])
def test_parting_asks_first(daemon, orvalho, capsys, verb):
    assert orvalho("peer", verb, "phone2") == 2
    assert "--yes" in capsys.readouterr().err
