"""A filter on system calls (Linux, seccomp(2) with classic BPF): what a worker may never do again.

A guest that has broken out of V8 owns the process; this is what keeps it from opening a file or a
socket, starting a program, or touching another process. It is a list of refusals, since V8 and the
C library use many calls that differ between versions.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_EPERM: Final = 1
_ENOSYS: Final = 38
_CLONE_THREAD: Final = 0x10000
_SCHED_IDLE: Final = 5
# Offsets in struct seccomp_data: the call's number, the machine, the low halves of arguments.
_NUMBER, _MACHINE, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

# Each call's number on x86-64 and on aarch64; None where it does not exist.
_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "creat": (85, None),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "truncate": (76, 45),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "stat": (4, None),
    "lstat": (6, None),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "utimensat": (280, 88),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "unshare": (272, 97),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mq_open": (240, 180),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "quotactl": (179, 60),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "acct": (163, 89),
    "syslog": (103, 116),
    "personality": (135, 92),
    "ioperm": (173, None),
    "iopl": (172, None),
}
# clone, clone3, tgkill, prlimit64, sched_setscheduler: refused for what one argument says.
_MACHINES: Final = {
    ("x86_64", "little"): (0, 0xC000003E, (56, 435, 234, 302, 144)),
    ("aarch64", "little"): (1, 0xC00000B7, (220, 435, 131, 261, 119)),
}


def refuse_system_calls() -> bool:
    """Put the filter on this thread and all that it starts; there is no way back. False where the
    system has no such filter, or this machine is not known here."""
    if platform.system() != "Linux":
        return False
    machine = _MACHINES.get((platform.machine(), "little"))
    if machine is None:
        return False
    program = _program(*machine)
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Header(len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    answer: int = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(header), 0, 0)
    return answer == 0


class _Header(ctypes.Structure):
    """struct sock_fprog: how many instructions, and where they are."""

    _fields_ = (("count", ctypes.c_ushort), ("program", ctypes.c_void_p))


def _program(column: int, machine: int, by_argument: tuple[int, int, int, int, int]) -> bytes:
    clone, clone3, tgkill, prlimit, set_scheduler = by_argument
    refuse = _step(_RETURN, _ERRNO | _EPERM)
    code = _step(_LOAD, _MACHINE) + _step(_EQUAL, machine, 1, 0) + refuse
    code += _step(_LOAD, _NUMBER)
    # Numbers from here on are those of x32, a second way to make every call.
    code += _step(_AT_LEAST, 0x40000000, 0, 1) + refuse
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            code += _step(_EQUAL, number, 0, 1) + refuse
    # Its flags lie in memory, which a filter cannot read; told that it does not exist, the C
    # library starts its threads with clone instead.
    code += _step(_EQUAL, clone3, 0, 1) + _step(_RETURN, _ERRNO | _ENOSYS)
    code += _step(_EQUAL, clone, 0, 3)
    code += _step(_LOAD, _ARGUMENT_0) + _step(_ANY_BIT, _CLONE_THREAD, 1, 0) + refuse
    # Signals to oneself alone (abort), and limits of one's own.
    code += _step(_LOAD, _NUMBER) + _step(_EQUAL, tgkill, 0, 3)
    code += _step(_LOAD, _ARGUMENT_0) + _step(_EQUAL, os.getpid(), 1, 0) + refuse
    code += _step(_LOAD, _NUMBER) + _step(_EQUAL, prlimit, 0, 3)
    code += _step(_LOAD, _ARGUMENT_0) + _step(_EQUAL, 0, 1, 0) + refuse
    # No other policy than the one that gives way to all others.
    code += _step(_LOAD, _NUMBER) + _step(_EQUAL, set_scheduler, 0, 3)
    code += _step(_LOAD, _ARGUMENT_1) + _step(_EQUAL, _SCHED_IDLE, 1, 0) + refuse
    return code + _step(_RETURN, _ALLOW)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter; the jumps count the steps to leave out."""
    return struct.pack("<HBBI", code, if_true, if_false, value)
