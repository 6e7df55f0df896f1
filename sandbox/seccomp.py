"""A filter of system calls. In every cage the runner installs it for itself and so for its jobs.

Namespaces hide the host; this takes away the kernel's lesser doors: tracing and reading other
processes, or slowing them, new namespaces, mounts, kernel keyrings, BPF, io_uring, and memory that
outlives or escapes the limits of a job.

Jobs have no network, not even 127.0.0.1: the only sockets are Unix ones (AF_UNIX), which asyncio
and multiprocessing need and which end with their process. A TCP port would stay taken after its
job (TIME_WAIT), and what was sent would show in /proc/net. `socket.socket()` fails with "Address
family not supported by protocol".
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    "inotify_init": (253, 26),
    "inotify_init1": (294, 26),
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
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "splice": (275, 76),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tee": (276, 77),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vmsplice": (278, 75),
}
CLONE, CLONE3, SOCKET, SOCKETPAIR = (56, 220), (435, 435), (41, 198), (53, 199)
PRLIMIT64, SETPRIORITY, SCHED_SETAFFINITY = (302, 261), (141, 140), (203, 122)
FCNTL, SETSOCKOPT = (72, 25), (54, 208)
NAMESPACE_FLAGS = 0x7E020000  # all CLONE_NEW* of clone
CLONE_FILES, CLONE_THREAD = 0x400, 0x10000
CLONE_FLAGS = NAMESPACE_FLAGS | CLONE_FILES | CLONE_THREAD
AF_UNIX, SOL_SOCKET, F_SETPIPE_SZ, PRIO_PROCESS = 1, 1, 1031, 0
BUFFER_SIZES = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and the two with FORCE

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*

LOAD, AND, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
DENY = FAIL | errno.EPERM
PRETEND = FAIL  # returns 0, as if it had been done
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
FIRST, SECOND, THIRD = 16, 24, 32  # of the arguments
ALL_BITS = 0xFFFFFFFF

Step = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
Numbers = tuple[int | None, int | None]  # of a call, as above; None where a machine has no such


@dataclass(frozen=True)
class Argument:
    """One of `values`, after all but the bits of `mask` are cleared."""

    offset: int
    values: Sequence[int]
    mask: int = ALL_BITS


# The call, what its arguments must be, and what happens if they are and if they are not.
Rule = tuple[Numbers, Sequence[Argument], int, int]
RULES: tuple[Rule, ...] = (
    # No namespaces, and no thread with files of its own, which /proc/PID/fd would not show.
    (
        CLONE,
        (Argument(FIRST, (0, CLONE_FILES, CLONE_THREAD | CLONE_FILES), CLONE_FLAGS),),
        ALLOW,
        DENY,
    ),
    # Of the caller only, not of our runner.
    (PRLIMIT64, (Argument(FIRST, (0,)),), ALLOW, DENY),
    (SCHED_SETAFFINITY, (Argument(FIRST, (0,)),), ALLOW, DENY),
    (SETPRIORITY, (Argument(FIRST, (PRIO_PROCESS,)), Argument(SECOND, (0,))), ALLOW, DENY),
    # As on a machine that has no other kind of network.
    (SOCKET, (Argument(FIRST, (AF_UNIX,)),), ALLOW, FAIL | errno.EAFNOSUPPORT),
    (SOCKETPAIR, (Argument(FIRST, (AF_UNIX,)),), ALLOW, FAIL | errno.EAFNOSUPPORT),
    # Buffers in the kernel keep the size that the runner charges for them.
    (FCNTL, (Argument(SECOND, (F_SETPIPE_SZ,)),), DENY, ALLOW),
    (SETSOCKOPT, (Argument(SECOND, (SOL_SOCKET,)), Argument(THIRD, BUFFER_SIZES)), PRETEND, ALLOW),
)


def programs() -> dict[str, str]:
    """The filter as hexadecimal classic BPF, for each machine (`uname -m`) that we know."""
    return {machine: program(machine).hex() for machine in MACHINES}


def program(machine: str, denied: Iterable[Numbers] = (), rules: Iterable[Rule] = ()) -> bytes:
    """The filter for a machine, stricter by more calls that are denied and more rules."""
    column, architecture = MACHINES[machine]
    steps = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_AT_LEAST, 0, 1, 0x40000000),  # x32, an alias of all calls
        (RETURN, 0, 0, DENY),
        # glibc falls back to clone, whose flags can be examined.
        (JUMP_IF_EQUAL, 0, 1, CLONE3[column]),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
    ]
    for numbers in (*DENIED.values(), *denied):
        if (number := numbers[column]) is not None:
            steps += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, DENY)]
    for numbers, arguments, met, unmet in (*rules, *RULES):
        if (number := numbers[column]) is not None:
            steps += _rule(number, arguments, met, unmet)
    steps.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _rule(number: int, arguments: Sequence[Argument], met: int, unmet: int) -> list[Step]:
    steps: list[Step] = [(RETURN, 0, 0, met), (RETURN, 0, 0, unmet)]
    for argument in reversed(arguments):
        steps = _test(argument, to_unmet=len(steps) - 1) + steps
    return [(JUMP_IF_EQUAL, 0, len(steps), number), *steps]


def _test(argument: Argument, to_unmet: int) -> list[Step]:
    """Goes on behind itself if the argument is one of the values, else `to_unmet` steps later."""
    last = len(argument.values) - 1
    return [
        (LOAD, 0, 0, argument.offset),
        (AND, 0, 0, argument.mask),
        *(
            (JUMP_IF_EQUAL, last - at, to_unmet if at == last else 0, value)
            for at, value in enumerate(argument.values)
        ),
    ]
