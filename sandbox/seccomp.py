"""A system call filter. The runner puts it on itself, and so on its jobs, in every cage.

Namespaces hide the host; this takes away the kernel's lesser doors: tracing and reading other
processes, or slowing them, new namespaces, mounts, kernel keyrings, BPF, io_uring, sockets that
namespaces do not cover (vsock, netlink), and memory that outlives or escapes the limits of a job.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

# name: (x86_64, aarch64)
DENIED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
CLONE, CLONE3, PRLIMIT64, SOCKET = (56, 220), (435, 435), (302, 261), (41, 198)
NAMESPACE_FLAGS = 0x7E020000  # all CLONE_NEW* of clone
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10  # these a network namespace contains

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*

LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


def programs(socket_families: Sequence[int] = (AF_UNIX, AF_INET, AF_INET6)) -> dict[str, str]:
    """The filter as hexadecimal classic BPF, for each machine (`uname -m`) that we know."""
    return {machine: _program(*MACHINES[machine], socket_families).hex() for machine in MACHINES}


def _program(column: int, architecture: int, socket_families: Sequence[int]) -> bytes:
    denied = FAIL | errno.EPERM
    steps = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_AT_LEAST, 0, 1, 0x40000000),  # x32, an alias of all calls
        (RETURN, 0, 0, denied),
        # glibc falls back to clone, whose flags can be examined.
        (JUMP_IF_EQUAL, 0, 1, CLONE3[column]),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
    ]
    for numbers in DENIED.values():
        steps += [(JUMP_IF_EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, denied)]
    steps += [
        (JUMP_IF_EQUAL, 0, 4, CLONE[column]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_IF_ANY_BIT, 0, 1, NAMESPACE_FLAGS),
        (RETURN, 0, 0, denied),
        (RETURN, 0, 0, ALLOW),
        (JUMP_IF_EQUAL, 0, 4, PRLIMIT64[column]),  # of the caller only, not of our runner
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_IF_EQUAL, 1, 0, 0),
        (RETURN, 0, 0, denied),
        (RETURN, 0, 0, ALLOW),
        (JUMP_IF_EQUAL, 0, 2 + len(socket_families), SOCKET[column]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        *(
            (JUMP_IF_EQUAL, len(socket_families) - at, 0, family)
            for at, family in enumerate(socket_families)
        ),
        (RETURN, 0, 0, denied),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
