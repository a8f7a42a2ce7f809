"""Two homes on this machine, two daemons, a real WebSocket between them: the README's story.

Every command is typed as a user would type it, shown with what it printed, and checked. Leaves
nothing running and nothing behind. `python demo/story.py`, or `make demo`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
LOOPBACK = "ws://127.0.0.1:0"


class Wrong(Exception):
    """The story went another way than the README tells it."""


class Device:
    """One home, as its owner at a terminal sees it."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.home = home
        self.environ = {
            key: value for key, value in os.environ.items() if not key.startswith("ORVALHO_")
        } | {"ORVALHO_HOME": str(home), "NO_COLOR": "1"}

    def types(self, *words: str, exits: int = 0, shows: str = "", stdin: str | None = None) -> str:
        """Type `orvalho WORDS`; the exit status and a pattern in what it prints must hold.
        Returns standard output."""
        shown = " ".join(_quoted(word) for word in words)
        print(f"\n{self.name}$ orvalho {shown}", flush=True)
        if stdin is not None:
            print("".join(f"  > {line}\n" for line in stdin.splitlines()), end="")
        done = subprocess.run(
            [sys.executable, "-m", "orvalho", *words],
            env=self.environ,
            cwd=EXAMPLES,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for line in (done.stderr + done.stdout).splitlines():
            print(f"  {line}")
        if done.returncode:
            print(f"  (exit {done.returncode})")
        if done.returncode != exits:
            raise Wrong(f"`orvalho {shown}` exits {done.returncode}, not {exits}")
        if not re.search(shows, done.stderr + done.stdout, re.DOTALL):
            raise Wrong(f"`orvalho {shown}` does not show {shows!r}")
        return done.stdout


def _quoted(word: str) -> str:
    if len(word) > 60:
        word = word[:24] + "..."
    return f"'{word}'" if re.search(r"[\s()]", word) else word


def tell(laptop: Device, phone: Device) -> None:
    """The story, from two empty directories to a policy edited by hand."""
    says("Two devices. Each makes its keys, its configuration and a first context.")
    laptop.types("init", "--name", "laptop", "--listen", LOOPBACK, shows="device id")
    laptop.types("init", "--name", "laptop", shows="already initialised")
    phone.types("init", "--name", "phone2", "--listen", LOOPBACK)
    phone.types("ctx", "new", "peer", shows="peer")

    says("They meet: a ticket made on the phone is pasted on the laptop.")
    ticket = phone.types("peer", "invite").strip().splitlines()[-1].strip()
    added = laptop.types("peer", "add", ticket, shows="phone2")
    words = check_words(laptop.types("peer", "ls", shows="phone2"), "phone2")
    if words not in added or words not in phone.types("peer", "ls", shows="laptop"):
        raise Wrong("the two devices show different check words")

    says("An album lies in the phone's context `peer`.")
    album = phone.home / "data/contexts/peer/shared/albums/2024"
    album.mkdir(parents=True)
    (album / "beach.jpg").write_bytes(b"\xff\xd8" + bytes(4094))
    (album / "dunes.jpg").write_bytes(b"\xff\xd8" + bytes(1022))

    says("The laptop sends a script. It runs on the phone; its log lines come live.")
    laptop.types("script", "check", "job.js", shows="target.fs.read")
    laptop.types(
        "script", "send", "peer@phone2", "job.js", "--param", "album=2024", shows="beach.jpg.*5120"
    )

    says("Another one wants to remove files: refused, with the reason, and what to do about it.")
    laptop.types("script", "send", "peer@phone2", "rm-all.js", exits=3, shows="fs.remove.*policy/")
    says("The phone's owner edits the policy and saves. The daemon has seen it at once.")
    policy = phone.home / "config/policy/peer.csv"
    line = "p, laptop, peer, fs.remove, /shared/albums/**, allow"
    print(f"\nphone2$ echo '{line}' >> {policy.name}")
    with policy.open("a") as file:
        file.write(line + "\n")
    wait_for(phone.home / "state/log.jsonl", "policy reloaded: +1 -0 rules")
    print("  policy reloaded: +1 -0 rules")
    laptop.types("script", "send", "peer@phone2", "rm-all.js", shows='"removed": ?1')

    says("Line by line: each one is a signed script, under the same policy.")
    laptop.types(
        "repl",
        "peer@phone2",
        exits=3,
        shows="inbox.*fs.write.*/shared/no.txt",
        stdin='await target.fs.list("/inbox")\nawait target.fs.write("/shared/no.txt", "x")\n',
    )

    says("Both sides remember, also after a restart.")
    runs = laptop.types("script", "ls", shows="job.js")
    run = re.findall(r"r_\w+", next(row for row in runs.splitlines() if "job.js" in row))[0]
    for device in (laptop, phone):
        device.types("daemon", "stop")
        device.types("script", "show", run, shows="receipt")
        device.types("script", "logs", run, shows="beach.jpg")
        device.types("script", "result", run, shows='"bytes": ?5120')
    laptop.types("why", run, shows=r"policy/default\.csv:\d+")

    says("How things stand.")
    laptop.types("status", shows="phone2.*online")
    phone.types("worker", "ls")
    laptop.types("doctor", shows="ok")


def says(text: str) -> None:
    print(f"\n# {text}", flush=True)


def check_words(listing: str, peer: str) -> str:
    """The four words in the line of `peer`."""
    line = next(line for line in listing.splitlines() if line.startswith(peer))
    found = re.search(r"[a-z]+-[a-z]+-[a-z]+-[a-z]+", line)
    if found is None:
        raise Wrong(f"no check words in {line!r}")
    return found[0]


def wait_for(file: Path, text: str, limit_s: float = 10) -> None:
    deadline = time.monotonic() + limit_s
    while text not in file.read_text():
        if time.monotonic() > deadline:
            raise Wrong(f"{file.name} never said {text!r}")
        time.sleep(0.05)


def main() -> int:
    top = Path(tempfile.mkdtemp(prefix="orvalho-"))
    laptop, phone = Device("laptop", top / "laptop"), Device("phone2", top / "phone2")
    try:
        tell(laptop, phone)
    except Wrong as wrong:
        print(f"\nstory: {wrong}", file=sys.stderr)
        for device in (laptop, phone):
            log = device.home / "state/log.jsonl"
            if log.exists():
                print(f"--- {device.name}\n" + log.read_text()[-4000:], file=sys.stderr)
        return 1
    finally:
        for device in (laptop, phone):
            if (device.home / "state").exists():
                device.types("daemon", "stop")
        shutil.rmtree(top)
    print("\nThe story went as told.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
