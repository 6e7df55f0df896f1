"""Hostile programs: what each tries, and how it may end.

Every one gets a JSON object on its standard input that tells it what a well-informed attacker would
know about the host: `pid` and `parent` (processes), `file`, `socket`, `abstract`, `tcp`, `udp`. One
that reaches what it must not reach says so with `breach`. What must be true afterwards is the same
for all of them and is in test_attacks.py.
"""

from dataclasses import dataclass, field

from sandbox import MIB, Call, ExecutionStatus, Limits


@dataclass(frozen=True)
class Attack:
    name: str
    tries: str
    ends: str  # the statuses that are right, separated by blanks
    code: str
    wall_seconds: float = 0.5
    call: bool = False  # run as a call of solve(), which should return 7
    value: str | None = None  # the JSON text that a call may return; others and none are forged
    hogs: bool = False  # takes what others need: a job in the other cage runs meanwhile
    # Which local cages cover it, by the docstring of sandbox/local.py: "all", "root" or "none".
    local: str = "all"
    limits: dict = field(default_factory=dict)  # besides the usual ones

    @property
    def statuses(self) -> set[ExecutionStatus]:
        return set(map(ExecutionStatus, self.ends.split()))

    @property
    def job_limits(self) -> Limits:
        usual = {
            "memory_bytes": 128 * MIB,
            "processes": 16,
            "output_bytes": 100_000,
            "file_bytes": 16 * MIB,
        }
        return Limits(wall_seconds=self.wall_seconds, **{**usual, **self.limits})

    @property
    def job_call(self) -> Call | None:
        return Call("solve") if self.call else None


TOOLS = """
import ctypes, errno, json, os, signal, socket, sys, time
host = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p

def breach(*what):
    os.write(1, ("BREACH " + " ".join(map(str, what)) + chr(10)).encode())

def attempt(what, action):
    try:
        result = action()
    except (OSError, ValueError, AttributeError):
        return
    if result != b"":  # what kernel threads have for memory
        breach(what, result)

def system_call(what, x86_64, aarch64, *arguments):
    number = aarch64 if os.uname().machine == "aarch64" else x86_64
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result >= 0:
        breach(what, result)

def others():
    pids = {host["pid"], host["parent"], os.getppid(), 1}
    return sorted(pids | set(map(int, filter(str.isdigit, os.listdir("/proc")))) - {os.getpid()})

def leave_main_thread():
    libc.syscall(ctypes.c_long(93 if os.uname().machine == "aarch64" else 60), 0)
"""

PROCESSES = [
    Attack(
        "fork_loop",
        "every process forks for ever",
        "timeout",
        """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        hogs=True,
    ),
    Attack(
        "fork_loop_with_output",
        "every process forks and floods both streams",
        "output_limit timeout",
        """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
    os.write(1, b"x" * 65536)
    os.write(2, b"y" * 65536)
""",
        hogs=True,
    ),
    Attack(
        "daemons",
        "leaves processes in sessions of their own that ignore every signal",
        "ok",
        """
import os, signal, time
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        os.closerange(0, 64)
        time.sleep(600)
time.sleep(0.1)
""",
    ),
    Attack(
        "comet",
        "a process that is always a new one: it forks and ends before it can be killed",
        "ok",
        """
import os, time
wait, start = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.read(wait, 1)  # for all: each leaves dead ones, which count, and a fork would fail
        while True:
            try:
                if os.fork():
                    os._exit(0)
                os.setsid()
            except OSError:
                pass
os.write(start, b"123")
time.sleep(0.1)
""",
        hogs=True,
    ),
    Attack(
        "thread_bomb",
        "starts threads for ever",
        "timeout",
        """
import threading, time
threading.stack_size(64 << 10)
while True:
    try:
        threading.Thread(target=time.sleep, args=(600,)).start()
    except RuntimeError:
        pass
""",
        hogs=True,
    ),
    Attack(
        "subprocess_bomb",
        "starts new programs for ever",
        "timeout memory",
        """
import subprocess, sys
started = []
while True:
    try:
        started.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
    except OSError:
        pass
""",
        hogs=True,
    ),
    Attack(
        "exec_loop",
        "replaces itself with itself for ever",
        "timeout",
        "import os, sys\nos.execv(sys.executable, [sys.executable, 'solution.py'])",
    ),
    Attack(
        "zombies",
        "leaves dead children that nobody waits for, and thousands of orphans to the runner",
        "ok",
        """
import os, time
until = time.time() + 0.3
while time.time() < until:
    try:
        if os.fork() == 0:
            try:
                os.fork()
            finally:
                os._exit(0)
        if os.times().elapsed % 2 < 1:
            os.waitpid(-1, os.WNOHANG)
    except OSError:
        pass
os._exit(0)
""",
        wall_seconds=2,
    ),
    Attack(
        "subreaper",
        "takes the orphans that should come to the runner",
        "ok timeout",
        TOOLS
        + """
libc.prctl(36, 1, 0, 0, 0)
for _ in range(4):
    if os.fork() == 0:
        libc.prctl(36, 1, 0, 0, 0)
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(600)
time.sleep(0.1)
""",
    ),
    Attack(
        "main_thread_leaves",
        "looks like a zombie: the main thread ends, another one spins",
        "timeout",
        TOOLS
        + """
import threading
def spin():
    while True:
        pass
threading.Thread(target=spin).start()
leave_main_thread()
""",
    ),
    Attack(
        "grandchildren_without_main_thread",
        "the same in orphans that the main process leaves behind",
        "ok",
        TOOLS
        + """
import threading
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        threading.Thread(target=time.sleep, args=(600,)).start()
        leave_main_thread()
time.sleep(0.2)
os._exit(0)
""",
    ),
    Attack(
        "vfork_sleeps",
        "a parent that waits uninterruptibly for a child which never execs",
        "timeout crash error ok",
        TOOLS
        + """
if libc.vfork() == 0:
    libc.sleep(600)
    libc._exit(0)
""",
    ),
]

MEMORY = [
    Attack("one_block", "one huge block", "memory", "bytearray(1 << 40)"),
    Attack(
        "many_blocks",
        "block after block, and holds on when one is refused",
        "timeout memory",
        """
blocks = []
while True:
    try:
        blocks.append(bytearray(b"x") * (4 << 20))
    except MemoryError:
        pass
""",
        hogs=True,
    ),
    Attack(
        "many_processes",
        "each process stays below the limit, all together far above",
        "memory",
        """
import os, time
for _ in range(11):
    if os.fork() == 0:
        break
block = bytearray(b"x") * (100 << 20)
time.sleep(600)
""",
        wall_seconds=5,
        hogs=True,
    ),
    Attack(
        "many_processes_without_main_thread",
        "the same, where /proc shows the memory of none: their main threads have left",
        "memory",
        TOOLS
        + """
import threading
def hold():
    time.sleep(0.1)
    block = bytearray(b"x") * (100 << 20)
    time.sleep(600)
for _ in range(7):
    if os.fork() == 0:
        break
threading.Thread(target=hold).start()
leave_main_thread()
""",
        wall_seconds=2,
        hogs=True,
    ),
    Attack(
        "odd_process_name",
        "a name that looks like the numbers of /proc/PID/stat hides what it uses",
        "memory",
        TOOLS
        + """
libc.prctl(15, b") R 1 1 (x\\n) 0 0", 0, 0, 0)
for _ in range(4):
    if os.fork() == 0:
        break
block = bytearray(b"x") * (100 << 20)
time.sleep(600)
""",
        wall_seconds=5,
        hogs=True,
    ),
    Attack(
        "shared_mapping",
        "shared memory without a name",
        "memory",
        """
import mmap, os, time
for _ in range(3):
    if os.fork() == 0:
        break
memory = mmap.mmap(-1, 200 << 20)
for at in range(0, len(memory), 4096):
    memory[at] = 1
time.sleep(600)
""",
        wall_seconds=5,
        hogs=True,
    ),
    Attack(
        "memory_files",
        "files in memory that belong to no directory, or to one that nobody empties",
        "ok",
        TOOLS
        + """
attempt("memfd_create", lambda: os.memfd_create("x"))
system_call("memfd_secret", 447, 447, 0)
for name in ("/run/x", "/run/lock/x", "/dev/x", "/dev/mqueue/x", "/var/tmp/x"):
    attempt(name, lambda: open(name, "wb").write(bytes(1 << 20)))
""",
        local="none",
    ),
    Attack(
        "shared_memory_files",
        "shared memory with names, until nothing is left, some of it locked away",
        "ok",
        """
import itertools, os
try:
    os.makedirs("/dev/shm/locked/deep")
    open("/dev/shm/locked/deep/file", "w").close()
    os.chmod("/dev/shm/locked/deep", 0)
    os.symlink("/", "/dev/shm/link")
    for number in itertools.count():
        with open(f"/dev/shm/{number}", "wb") as file:
            file.write(bytes(1 << 20))
except OSError:
    pass
""",
        wall_seconds=4,
        hogs=True,
        local="none",  # this directory is a public one
    ),
    Attack(
        "shared_memory_names",
        "empty files in shared memory without end",
        "timeout output_limit",
        """
import itertools, os
for number in itertools.count():
    try:
        open(f"/dev/shm/{number}", "w").close()
    except OSError:
        pass
""",
        wall_seconds=1,
        hogs=True,
        local="none",
    ),
    Attack(
        "system_v_and_posix_objects",
        "shared memory, semaphores and queues that outlive their process",
        "ok",
        TOOLS
        + """
system_call("shmget", 29, 194, 77, ctypes.c_size_t(1 << 20), 0o1666)
system_call("semget", 64, 190, 77, 1, 0o1666)
system_call("msgget", 68, 186, 77, 0o1666)
for name in (b"x", b"/x"):
    system_call("mq_open", 240, 180, name, 0o102, 0o666, None)
""",
    ),
    Attack("huge_integer", "an integer of 2 GB", "memory", "x = 1 << (1 << 34)", wall_seconds=5),
    Attack("huge_text", "a text of 20 GB", "memory", "x = 'abcdefghij' * 2_000_000_000"),
    Attack(
        "constant_folding",
        "makes the compiler compute something huge",
        "memory timeout",
        "x = ((1,) * 10**9, 'x' * 10**10, 1 << 10**11, 10 ** 10 ** 10)",
    ),
    Attack(
        "decompression_bomb",
        "1 MB that unpacks to 4 GB",
        "memory",
        """
import zlib
packer = zlib.compressobj(9)
bomb = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
part = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
zlib.decompressobj().decompress(bomb + part * 4095)
""",
        wall_seconds=5,
    ),
    Attack(
        "endless_device",
        "reads /dev/zero to its end",
        "memory",
        "open('/dev/zero', 'rb').read()",
        wall_seconds=5,
    ),
    Attack(
        "kernel_memory",
        "fills pipes and sockets, whose memory is no process's",
        "ok",
        TOOLS
        + """
import fcntl
for _ in range(10):
    if os.fork() == 0:
        break
held = []
try:
    while True:
        reader, writer = os.pipe()
        held += (reader, writer)
        try:
            fcntl.fcntl(writer, 1031, 1 << 20)
        except OSError:
            pass
        os.set_blocking(writer, False)
        try:
            while os.write(writer, bytes(65536)):
                pass
        except BlockingIOError:
            pass
except OSError:
    pass
time.sleep(0.3)
""",
        wall_seconds=4,
        hogs=True,
        limits={"open_files": 64},
    ),
    Attack(
        "full_sockets",
        "sends what nobody receives, through sockets that it closes while others hold them",
        "memory",
        """
import os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0held")
listener.listen(4096)
for _ in range(4):
    if os.fork() == 0:
        break
while True:
    sender = socket.socket(socket.AF_UNIX)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    sender.setblocking(False)
    try:
        sender.connect("\\0held")
        while True:
            sender.send(bytes(1 << 16))
    except BlockingIOError:
        pass
""",
        wall_seconds=10,
        hogs=True,
    ),
    Attack(
        "full_datagram_sockets",
        "the same without connections, where each message may be of another sender",
        "memory",
        """
import itertools, os, socket, time
receivers = []
for number in itertools.count():
    receivers.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    receivers[-1].bind(f"\\0{number}")
    for _ in range(10):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(bytes(200_000), f"\\0{number}")
""",
        wall_seconds=10,
    ),
    Attack(
        "abandoned_shared_memory",
        "fills shared mappings that no process shows as its own: each keeps one page of its own",
        "memory",
        """
import ctypes, mmap
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
size = 16 << 20
for _ in range(64):
    place = libc.mmap(None, size, 3, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0)
    ctypes.memset(place, 1, size)
    libc.munmap(place + 4096, size - 4096)
import time
time.sleep(600)
""",
        wall_seconds=10,
        hogs=True,
    ),
    Attack(
        "page_tables",
        "reads memory that nobody wrote, so that only the tables of its pages grow",
        "memory",
        """
import mmap, os
for _ in range(4):
    os.fork()
block = mmap.mmap(-1, 3 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
while True:
    for at in range(0, len(block), 4096):
        block[at]
""",
        wall_seconds=20,
        hogs=True,
        limits={"memory_bytes": 64 * MIB},
    ),
    Attack(
        "favored_by_the_oom_killer",
        "asks the kernel to kill others first when memory runs out",
        "ok",
        TOOLS
        + """
def ask(value):
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(value)
attempt("oom_score_adj", lambda: ask("-1000"))
attempt("oom_score_adj", lambda: ask("-1"))
""",
    ),
]

COMPILER = [
    Attack("nested_parentheses", "exhausts the parser", "error memory", "x = " + "(" * 10_000),
    Attack(
        "nested_signs", "exhausts the parser", "error memory crash", "x = " + "-" * 200_000 + "1"
    ),
    Attack(
        "long_sum", "exhausts the compiler", "error memory crash ok", "x = " + "1+" * 100_000 + "x"
    ),
    Attack(
        "many_blocks_of_code",
        "a tower of loops",
        "error",
        "".join(" " * depth + "for x in y:\n" for depth in range(90)) + " " * 90 + "pass",
    ),
    Attack(
        "slow_to_look_at",
        "a comment that keeps regular expressions busy which look for words before it runs",
        "ok",
        "# " + "from sys import " * 20_000 + "\n# " + "exit " * 50_000 + "raise " * 50_000,
        wall_seconds=5,
    ),
    Attack(
        "regular_expression",
        "a match that takes for ever inside one C function",
        "timeout",
        "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    ),
    Attack(
        "digits",
        "a conversion that takes for ever inside one C function",
        "timeout",
        "import sys\nsys.set_int_max_str_digits(0)\nint('9' * 10_000_000)",
    ),
]

DISK = [
    Attack(
        "one_file",
        "one file without end",
        "error",
        "with open('x', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 20))",
    ),
    Attack(
        "many_files",
        "files that are each within the limit, until nothing is left",
        "error",
        """
import itertools
for number in itertools.count():
    with open(f"../{number}", "wb") as file:
        file.write(bytes(16 << 20))
""",
        wall_seconds=4,
        hogs=True,
        local="none",
    ),
    Attack(
        "names",
        "empty files without end",
        "timeout output_limit",
        """
import itertools
for number in itertools.count():
    open(f"{number:0200}", "w").close()
""",
        hogs=True,
    ),
    Attack(
        "directories",
        "empty directories without end, from several processes: memory of the kernel's",
        "timeout output_limit",
        """
import itertools, os
os.fork()
os.fork()
os.mkdir(str(os.getpid()))
os.chdir(str(os.getpid()))
for number in itertools.count():
    os.mkdir(str(number))
""",
        wall_seconds=1,
        hogs=True,
        local="none",
        limits={"cpu_seconds": 10},
    ),
    Attack(
        "hard_links",
        "thousands of names of one file, and links to what it does not own",
        "ok",
        TOOLS
        + """
open("x", "w").close()
for number in range(3000):
    os.link("x", f"../link{number}")
for path in (host["file"], "/etc/passwd", os.__file__):
    attempt(path, lambda: os.link(path, "mine"))
""",
        wall_seconds=2,
        local="none",
    ),
    Attack(
        "sparse_file",
        "a file of one exabyte, without any block",
        "error",
        "with open('x', 'wb') as file:\n    file.truncate(1 << 60)",
    ),
    Attack(
        "deep_directories",
        "a path too long to name, in which everything is locked",
        "ok",
        """
import os
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
    open("file", "w").close()
    os.chmod(".", 0o500)
    os.chmod(".", 0o700)
os.chmod(".", 0)
os.chmod(os.environ["HOME"] + "/job/d/d", 0)
""",
        wall_seconds=3,
    ),
    Attack(
        "odd_names",
        "names that are hard to remove",
        "ok",
        """
import os
for name in (b"\\xff\\xfe", b"\\n", b" ", b"-rf", b"*", b"\\x1b[2J", b"~", b"x" * 255):
    os.mkdir(name)
    open(os.path.join(name, name), "w").close()
    os.chmod(os.path.join(name, name), 0)
    os.chmod(name, 0)
    os.symlink(b"/", b"../" + name)
os.symlink("loop", "loop")
os.mkfifo("pipe", 0)
""",
    ),
    Attack(
        "undeletable",
        "makes its files immutable",
        "ok",
        TOOLS
        + """
import fcntl, struct
with open("x", "w") as file:
    for flags in (0x10, 0x20):
        attempt("flags", lambda: fcntl.ioctl(file, 0x40086602, struct.pack("l", flags)))
attempt("setxattr", lambda: os.setxattr("x", "trusted.x", b""))
os.chmod(".", 0)
attempt("chown", lambda: os.chown(".", 0, 0))
""",
    ),
    Attack(
        "the_next_program",
        "lays links, pipes and directories where the files of the next job will be",
        "ok",
        TOOLS
        + """
os.unlink("solution.py")
os.symlink(host["file"], "solution.py")
os.rename("../job", "../elsewhere")
os.symlink("/etc", "../job")
for name in ("stdin", "boot", "solution.py", "0", "1"):
    os.mkfifo("../" + name)
""",
    ),
    Attack(
        "the_next_input",
        "a directory where the next input will be written",
        "ok",
        "import os\nos.makedirs('../stdin/deep')\nos.chmod('../stdin', 0)",
    ),
    Attack(
        "no_directory",
        "removes its own directory and puts a file in its place",
        "ok",
        """
import os
os.unlink("solution.py")
os.rmdir("../job")
open(os.environ["HOME"] + "/job", "w").close()
""",
    ),
    Attack(
        "modules_for_the_next_job",
        "leaves modules where the next interpreter or job might find them",
        "ok",
        """
import os, sys
names = ("sitecustomize", "usercustomize", "json", "os", "random", "encodings", "solution")
user = f".local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
home = os.environ["HOME"]
for place in (".", "..", home, "../boot", "../__pycache__", "/tmp/boot", os.path.join(home, user)):
    try:
        os.makedirs(place, exist_ok=True)
        for name in names:
            with open(f"{place}/{name}.py", "w") as file:
                file.write("import builtins; builtins.print = lambda *a, **k: None")
        with open(f"{place}/x.pth", "w") as file:
            file.write("import sys; sys.exit(3)")
    except OSError:
        pass
os.environ["PYTHONSTARTUP"] = os.environ["PYTHONPATH"] = home
""",
        local="none",  # it writes into the public /tmp, and says that jobs can
    ),
    Attack(
        "tamperer",
        "leaves a process that rewrites whatever program comes next",
        "ok",
        """
import os
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 64)
    root = os.path.dirname(os.getcwd())
    while True:
        if os.fork():
            os._exit(0)
        for name in ("job/solution.py", "stdin"):
            try:
                with open(os.path.join(root, name), "w") as file:
                    file.write("print('tampered')")
            except OSError:
                pass
""",
    ),
    Attack(
        "its_own_program",
        "rewrites its program and input while it runs",
        "ok",
        """
import os
with open("solution.py", "w") as file:
    file.write("raise SystemExit(9)")
with open("/proc/self/fd/0", "w") as file:
    file.write("other input")
os.fchmod(0, 0)
""",
    ),
]

OUTPUT = [
    Attack("endless_stdout", "prints for ever", "output_limit", "while True: print('x' * 9999)"),
    Attack(
        "endless_stderr",
        "complains for ever",
        "output_limit",
        "import sys\nwhile True: print('x' * 9999, file=sys.stderr)",
    ),
    Attack(
        "endless_line",
        "both streams, and never ends a line",
        "output_limit",
        "import os\nwhile True:\n    os.write(1, b'x' * 999)\n    os.write(2, b'x' * 999)",
    ),
    Attack(
        "output_of_an_orphan",
        "ends, and leaves the flood to a grandchild in another session",
        "ok output_limit",
        """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            os.write(1, b"x" * 65536)
    os._exit(0)
""",
    ),
    Attack(
        "held_pipes",
        "ends, while a grandchild keeps all its pipes open",
        "ok",
        """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
""",
    ),
    Attack(
        "tiny_pipes",
        "shrinks its pipes, makes them not block, reads them itself",
        "ok error",
        """
import fcntl, os
for fd in (1, 2):
    fcntl.fcntl(fd, 1031, 4096)
    os.set_blocking(fd, False)
    try:
        for _ in range(200):
            os.write(fd, b"x" * 100)
    except BlockingIOError:
        pass
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fd, False)
""",
    ),
    Attack(
        "terminal_and_frame_bytes",
        "bytes that could confuse a terminal, a decoder or the channel to the host",
        "ok",
        """
import os
os.write(1, b"\\x00\\x00\\x00\\x02{}\\xff\\xfe\\x1b]0;title\\x07\\x1b[2J\\x9b1m\\r\\xed\\xa0")
os.write(2, b'\\x00\\x00\\x00\\x0d{"sizes": []}' + bytes(range(256)))
""",
    ),
    Attack(
        "broken_pipe",
        "dies of writing into a pipe that nobody reads",
        "crash",
        """
import os, signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
reader, writer = os.pipe()
os.close(reader)
os.write(writer, b"x")
""",
    ),
]

TIME = [
    Attack("sleep", "sleeps and never reads its input", "timeout", "import time\ntime.sleep(600)"),
    Attack("spin", "spins", "timeout", "while True: pass", hogs=True),
    Attack(
        "deaf_spin",
        "blocks and ignores every signal and spins",
        "timeout",
        """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True:
    pass
""",
    ),
    Attack("stops_itself", "stops itself", "timeout", "import os\nos.kill(os.getpid(), 19)"),
    Attack(
        "stops_its_group",
        "stops its whole group, child and parent",
        "timeout",
        "import os\nos.fork()\nos.killpg(0, 19)",
    ),
    Attack(
        "endless_thread",
        "a thread that the interpreter waits for",
        "timeout",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()",
    ),
    Attack(
        "endless_atexit",
        "never gets through its exit handlers",
        "timeout",
        """
import atexit
@atexit.register
def again():
    atexit.register(again)
    while True:
        pass
""",
    ),
    Attack(
        "endless_finalizer",
        "an object that never goes",
        "timeout",
        """
class Staying:
    def __del__(self):
        while True:
            pass
staying = Staying()
""",
    ),
    Attack(
        "raises_its_limits",
        "raises every limit it has",
        "timeout",
        TOOLS
        + """
import resource
for name in dir(resource):
    if name.startswith("RLIMIT_"):
        which = getattr(resource, name)
        soft, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY:
            resource.setrlimit(which, (hard + 1, hard + 1))  # gives what is allowed
            resource.setrlimit(which, (-1, -1))
            attempt(name, lambda: resource.prlimit(0, which, (hard + 1, hard + 1)))
            if resource.getrlimit(which)[1] != hard:
                breach(name, resource.getrlimit(which))
        for pid in others():
            attempt(name, lambda: resource.prlimit(pid, which, (0, 0)))
while True:
    pass
""",
    ),
    Attack(
        "takes_precedence",
        "asks for more CPU time than others, or takes it from them",
        "ok",
        TOOLS
        + """
attempt("nice", lambda: os.nice(-5))
for pid in (0, *others()):
    attempt("setpriority", lambda: os.setpriority(os.PRIO_PROCESS, pid, -5))
    attempt("scheduler", lambda: os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1)))
for pid in others():
    attempt("affinity", lambda: os.sched_setaffinity(pid, {0}))
system_call("ioprio_set", 251, 30, 1, 0, 1 << 13)
""",
    ),
]

SIGNALS = [
    Attack(
        "kills_all",
        "kills everything that it may signal, and its own group",
        "crash",
        """
import os
try:
    os.kill(-1, 9)
finally:
    os.killpg(0, 9)
""",
        local="root",
    ),
    Attack(
        "kills_each",
        "finds processes in /proc, and stops and kills each",
        "ok",
        TOOLS
        + """
for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
    for pid in others():
        try:
            os.kill(pid, number)
        except OSError:
            pass
""",
        local="root",
    ),
    Attack(
        "signal_storm",
        "sends every signal to its ancestors, thousands of times",
        "ok",
        TOOLS
        + """
until = time.time() + 0.2
while time.time() < until:
    for number in range(1, 65):
        for pid in (1, os.getppid(), host["parent"]):
            try:
                os.kill(pid, number)
            except OSError:
                pass
""",
        wall_seconds=2,
        local="root",
    ),
    Attack(
        "signals_from_files_and_timers",
        "makes the kernel send signals to others on its behalf",
        "ok",
        TOOLS
        + """
import fcntl
reader, writer = os.pipe()
for pid in others():
    try:
        fcntl.fcntl(reader, fcntl.F_SETOWN, pid)
        fcntl.fcntl(reader, 10, signal.SIGKILL)
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
        os.write(writer, b"x")
    except OSError:
        pass
""",
        local="root",
    ),
]

READING = [
    Attack(
        "memory_of_others",
        "reads and writes the memory of its ancestors",
        "ok",
        TOOLS
        + """
for pid in others():
    for name in ("mem", "environ", "maps", "auxv", "syscall", "stack", "pagemap", "io"):
        attempt((pid, name), lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    attempt((pid, "clear_refs"), lambda: open(f"/proc/{pid}/mem", "r+b").close())
    attempt((pid, "coredump_filter"), lambda: open(f"/proc/{pid}/comm", "w").write("x"))
""",
        local="root",
    ),
    Attack(
        "descriptors_of_others",
        "steals the channel to the host from the runner's descriptors",
        "ok",
        TOOLS
        + """
for pid in others():
    for link in ("cwd", "root", "exe", "ns/user"):
        attempt((pid, link), lambda: os.readlink(f"/proc/{pid}/{link}"))
        attempt((pid, link), lambda: os.stat(f"/proc/{pid}/{link}"))
    for fd in range(8):
        attempt((pid, fd), lambda: os.readlink(f"/proc/{pid}/fd/{fd}"))
        attempt((pid, fd), lambda: open(f"/proc/{pid}/fd/{fd}", "r+b", 0))
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        system_call("pidfd_getfd", 438, 438, pidfd, fd, 0)
        os.close(pidfd)
""",
        local="root",
    ),
    Attack(
        "traces_others",
        "debugs its ancestors, and children that it makes for the purpose",
        "ok",
        TOOLS
        + """
child = os.fork()
if child == 0:
    time.sleep(600)
attach, seize = 16, 0x4206
buffer = ctypes.create_string_buffer(8)
vector = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 8)
for pid in (child, *others()):
    for request in (attach, seize):
        system_call("ptrace", 101, 117, request, pid, 0, 0)
    for number in ((310, 270), (311, 271)):
        system_call("process_vm", *number, pid, vector, 1, vector, 1, 0)
    system_call("kcmp", 312, 272, pid, os.getpid(), 0, 0, 0)
system_call("traceme", 101, 117, 0, 0, 0, 0)
os.kill(child, signal.SIGKILL)
""",
    ),
    Attack(
        "expected_outputs",
        "looks for expected outputs in frames, objects and files",
        "ok",
        """
import gc, os, sys
frame = sys._getframe()
assert frame.f_back is None
words = ("expected", "target", "private_tests")
for thing in gc.get_objects():
    if type(thing) is dict and thing is not globals():
        for word in words:
            if word in thing and "__name__" not in thing and isinstance(thing[word], (list, str)):
                os.write(1, f"BREACH {thing[word]!r:.200}".encode())
""",
    ),
    Attack(
        "files_of_the_host",
        "reads and writes files of the host by path, link and descriptor",
        "ok",
        TOOLS
        + """
os.symlink(host["file"], "link")
for path in ("link", host["file"], f"/proc/{host['pid']}/root{host['file']}",
        "/proc/1/root" + host["file"], "/../" + host["file"], "/proc/self/cwd/" + "../" * 9 +
        host["file"]):
    attempt(path, lambda: open(path).read())
    attempt(path, lambda: open(path, "a").write("changed"))
    attempt(path, lambda: os.unlink(path) if path != "link" else os.stat(path))
for path in ("/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/tty"):
    attempt(path, lambda: open(path, "rb").read(1))
    attempt("mknod", lambda: os.mknod("device", 0o60666, os.makedev(254, 0)))
""",
        local="none",
    ),
    Attack(
        "settings_of_the_kernel",
        "changes the machine: its name, clock, settings, control groups",
        "ok",
        TOOLS
        + """
attempt("hostname", lambda: socket.sethostname("x"))
attempt("clock", lambda: time.clock_settime(time.CLOCK_REALTIME, 0))
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/proc/self/setgroups", "/proc/self/uid_map", "/etc/passwd", "/etc/ld.so.preload"):
    attempt(path, lambda: open(path, "r+b", 0).write(b"0"))
system_call("reboot", 169, 142, 0xFEE1DEAD, 672274793, 0, 0)
system_call("syslog", 103, 116, 3, ctypes.create_string_buffer(16), 16)
""",
    ),
]

KERNEL = [
    Attack(
        "namespaces",
        "makes or enters namespaces, mounts, changes the root",
        "ok",
        TOOLS
        + """
for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
    system_call("unshare", 272, 97, flag)
    if flag > 0xFF:  # below are bits of the signal that clone sends
        system_call("clone", 56, 220, flag | signal.SIGCHLD, 0, 0, 0, 0)
    clone3 = (ctypes.c_uint64 * 11)(flag, 0, 0, 0, signal.SIGCHLD)
    system_call("clone3", 435, 435, clone3, ctypes.sizeof(clone3))
for name in os.listdir("/proc/self/ns"):
    namespace = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    system_call("setns", 308, 268, namespace, 0)
    os.close(namespace)
system_call("mount", 165, 40, b"none", os.getcwd().encode(), b"tmpfs", 0, None)
system_call("mount", 165, 40, b"/", os.getcwd().encode(), None, 4096, None)
system_call("umount", 166, 39, b"/tmp", 2)
system_call("pivot_root", 155, 41, b".", b".")
system_call("open_tree", 428, 428, -100, b"/", 1)
system_call("fsopen", 430, 430, b"tmpfs", 0)
attempt("chroot", lambda: os.chroot("."))
""",
    ),
    Attack(
        "privileges",
        "becomes root, directly or through programs that are root's",
        "ok",
        TOOLS
        + """
import glob, shutil, stat, subprocess
for change in (os.setuid, os.setgid, os.seteuid, os.setegid):
    attempt(change.__name__, lambda: change(0))
attempt("setgroups", lambda: os.setgroups([0]))
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
if libc.capset(header, data) == 0:
    breach("capset")
if libc.prctl(8, 1, 0, 0, 0) == 0 and libc.setresuid(0, 0, 0) == 0:
    breach("keepcaps")
for program in glob.glob("/usr/bin/*") + glob.glob("/usr/sbin/*") + glob.glob("/usr/lib/*/*"):
    try:
        is_roots = os.stat(program).st_mode & (stat.S_ISUID | stat.S_ISGID)
    except OSError:
        continue
    if is_roots and os.path.basename(program) in ("su", "newgrp", "mount", "umount"):
        subprocess.run([program, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        status = subprocess.run(
            [program, "-c", "id -u"], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if status.stdout.strip() == "0":
            breach(program)
""",
        wall_seconds=5,
        local="root",
    ),
    Attack(
        "doors_of_the_kernel",
        "parts of the kernel that no contest program needs and exploits start from",
        "ok",
        TOOLS
        + """
room = ctypes.create_string_buffer(256)
system_call("io_uring_setup", 425, 425, 1, room)
system_call("bpf", 321, 280, 0, room, 64)
system_call("perf_event_open", 298, 241, room, 0, -1, -1, 0)
system_call("userfaultfd", 323, 282, 1)
system_call("keyctl", 250, 219, 0, -3, 1)
system_call("add_key", 248, 217, b"user", b"name", b"x", 1, -3)
system_call("request_key", 249, 218, b"user", b"name", None, -3)
system_call("personality", 135, 92, 0x0040000)
system_call("init_module", 175, 105, room, 8, b"")
system_call("kexec_load", 246, 104, 0, 0, None, 0)
system_call("open_by_handle_at", 304, 265, -100, room, 0)
system_call("fanotify_init", 300, 262, 0, 0)
system_call("quotactl", 179, 60, 0x80000700, None, 0, None)
if os.uname().machine == "x86_64":
    x32 = 0x40000000
    system_call("x32 getpid", x32 | 39, 0)
    system_call("x32 ptrace", x32 | 521, 0, 0, 0, 0, 0)
""",
    ),
    Attack(
        "calls_of_another_architecture",
        "32-bit system calls, whose numbers mean other things to a filter",
        "crash",
        """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # getpid of i386; on other machines no code at all
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
""",
    ),
    Attack(
        "network",
        "reaches listeners of the host, the network, a name server",
        "ok",
        TOOLS
        + """
for address in ("127.0.0.1", "::1", "localhost", "host.docker.internal", "172.17.0.1", "192.0.2.1"):
    attempt(address, lambda: socket.create_connection((address, host["tcp"]), timeout=0.2))
try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"x", ("127.0.0.1", host["udp"]))  # nobody says where that arrives
except OSError:
    pass
attempt("example.org", lambda: socket.getaddrinfo("example.org", 80))
""",
        wall_seconds=5,
    ),
    Attack(
        "raw_sockets",
        "sockets that no network namespace holds back",
        "ok",
        TOOLS
        + """
for family in range(1, 46):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        for protocol in (0, 1, 17, 255):
            plain = family in (1, 2, 10) and kind != socket.SOCK_RAW
            if not plain and not (family == 1):
                attempt((family, kind), lambda: socket.socket(family, kind, protocol))
""",
    ),
    Attack(
        "unix_sockets",
        "reaches services of the host over Unix sockets, with and without a path, and Docker",
        "ok",
        TOOLS
        + """
for path in (host["socket"], chr(0) + host["abstract"], "/var/run/docker.sock", "/run/docker.sock",
        "/run/dbus/system_bus_socket", "/run/systemd/private", "/tmp/.X11-unix/X0"):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        attempt(repr(path), lambda: socket.socket(socket.AF_UNIX, kind).connect(path))
""",
        local="none",
    ),
    Attack(
        "descriptors",
        "uses up descriptors of every kind, here and in children",
        "ok",
        TOOLS
        + """
import select
for _ in range(8):
    if os.fork() == 0:
        break
held = []
for make in (lambda: libc.inotify_init1(0), lambda: libc.eventfd(0, 0), select.epoll, os.pipe,
        lambda: socket.socketpair(), lambda: libc.timerfd_create(0, 0), lambda: os.open(".", 0)):
    try:
        for _ in range(8):
            made = make()
            if made == -1:
                break
            held.append(made)
    except OSError:
        pass
time.sleep(0.1)
""",
        wall_seconds=2,
    ),
    Attack(
        "locks",
        "locks every file that it can open, and keeps the locks in an orphan",
        "ok",
        TOOLS
        + """
import fcntl
held = []
for path in ("/", "/tmp", "..", ".", "solution.py", "/dev/null", os.__file__, sys.executable):
    try:
        held.append(os.open(path, os.O_RDONLY))
        fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
""",
    ),
    Attack(
        "huge_arguments",
        "a new program with more arguments and variables than fit",
        "error memory",
        """
import os, sys
os.execve(sys.executable, ["x" * 100_000] * 500, {str(i): "y" * 100_000 for i in range(500)})
""",
        wall_seconds=2,
    ),
]

CRASHES = [
    Attack("null_pointer", "reads address 0", "crash", "import ctypes\nctypes.string_at(0)"),
    Attack(
        "null_pointer_with_a_handler",
        "writes address 0, with handlers for that which return",
        "crash timeout",
        """
import ctypes, faulthandler, signal
faulthandler.enable()
signal.signal(signal.SIGSEGV, lambda *_: None)
ctypes.memset(0, 1, 1)
""",
    ),
    Attack("abort", "aborts", "crash", "import os\nos.abort()"),
    Attack(
        "deep_recursion",
        "recursion until the stack is full",
        "crash memory error",
        "import sys\nsys.setrecursionlimit(2**31 - 1)\ndef f(): f()\nf()",
        wall_seconds=3,
    ),
    Attack(
        "deep_structure",
        "a structure whose removal needs a deep stack in C",
        "ok crash",
        "x = None\nfor _ in range(500_000): x = [x]\ny = x\nrepr\ndel x, y",
        wall_seconds=3,
    ),
    Attack(
        "corrupted_heap",
        "overwrites objects and the heap of the interpreter",
        "crash error ok timeout",
        """
import ctypes
things = [object() for _ in range(1000)]
ctypes.memset(id(things[500]), 0x41, 4096)
ctypes.memset(id(None), 0x41, 16)
""",
    ),
    Attack(
        "writes_its_own_memory",
        "overwrites its code and data through /proc/self/mem",
        "crash error",
        """
import re
with open("/proc/self/maps") as file, open("/proc/self/mem", "r+b", 0) as memory:
    for line in file.readlines():
        start, end = (int(text, 16) for text in line.split()[0].split("-"))
        if " r-x" in line and "libc" not in line or " rw" in line and "heap" in line:
            memory.seek(start)
            try:
                memory.write(b"\\xcc" * (end - start))
            except OSError:
                pass
""",
        wall_seconds=2,
    ),
]

FORGERY = [
    Attack(
        "equal_to_everything",
        "returns an object that says it equals whatever it is compared with",
        "error",
        """
class Right:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __repr__(self): return "7"
    __str__ = __repr__
def solve(): return Right()
""",
        call=True,
    ),
    Attack(
        "subclasses",
        "returns a number that behaves like every number",
        "ok",
        """
class Right(int):
    def __eq__(self, other): return True
    def __repr__(self): return "8"
    __str__ = __int__ = __index__ = __repr__
    __hash__ = int.__hash__
def solve(): return Right(7)
""",
        call=True,
        value="7",
    ),
    Attack(
        "not_a_number",
        "returns what compares in odd ways",
        "error",
        "def solve(): return [float('nan'), float('inf')]",
        call=True,
    ),
    Attack(
        "forged_frames",
        "writes what the runner would send into every descriptor there could be",
        "error",
        TOOLS
        + """
header = {"exit_code": 0, "signal": None, "reason": None, "seconds": 0, "cpu_seconds": 0,
    "memory_bytes": 0, "stdout_bytes": 1, "stderr_bytes": 0, "tainted": False, "sizes": [1, 0, 1]}
text = json.dumps(header).encode()
frame = len(text).to_bytes(4, "big") + text + b"77"
for fd in range(3, 1024):
    try:
        os.write(fd, frame)
    except OSError:
        pass
for pid in others():
    for fd in range(8):
        try:
            with open(f"/proc/{pid}/fd/{fd}", "wb", 0) as file:
                file.write(frame)
        except OSError:
            pass
raise SystemExit(5)
""",
        local="root",
    ),
    Attack(
        "a_value_without_a_call",
        "prints a value and ends before the call could give another one",
        "error",
        "import os\nprint(7, flush=True)\nos._exit(0)",
        call=True,
    ),
    Attack(
        "half_a_value",
        "writes something into the value's pipe and ends as if all were well",
        "error",
        """
import os
def solve():
    os.write(3, b'{"value": 7')
    os._exit(0)
""",
        call=True,
    ),
    Attack(
        "two_values",
        "writes a second value after the first",
        "error",
        """
import atexit, os
def solve():
    atexit.register(os.write, 3, b" 8")
    return 7
""",
        call=True,
    ),
    Attack(
        "a_deep_value",
        "a value that breaks the parser which reads it",
        "error",
        "import os\ndef solve():\n    os.write(3, b'[' * 60_000 + b']' * 60_000)\n    os._exit(0)",
        call=True,
        limits={"output_bytes": 200_000},
    ),
    Attack(
        "an_endless_value",
        "a value without end",
        "output_limit memory",
        "import os\ndef solve():\n    while True: os.write(3, b'7' * 4096)",
        call=True,
    ),
    Attack(
        "patched_library",
        "replaces what the runner itself might call after the program",
        "ok error",
        """
import builtins, json, os, sys, threading, atexit
def forged(*_, **__): return '"forged"'
json.dumps = json.encoder.JSONEncoder.encode = json.JSONEncoder.iterencode = forged
os.write = os._exit = os.close = sys.exit = forged
threading._shutdown = atexit._run_exitfuncs = forged
def solve():
    for name in ("open", "print", "len", "type", "isinstance", "hasattr", "getattr", "repr"):
        setattr(builtins, name, forged)
    return 7
""",
        call=True,
        value='"forged"',  # what it could as well have returned
    ),
    Attack(
        "no_library",
        "removes what the runner itself might call after the program",
        "ok error crash",
        """
import builtins, gc, sys
def solve():
    sys.modules.clear()
    for module in list(gc.get_objects()):
        if type(module) is type(sys) and module.__name__ in ("os", "json", "json.encoder"):
            module.__dict__.clear()
    builtins.__dict__.clear()
    return 7
""",
        call=True,
        value="7",
    ),
    Attack(
        "functions_of_the_runner",
        "walks up to the frames of the runner and calls what it finds there",
        "ok error",
        """
import sys
def solve():
    frame = sys._getframe().f_back
    found = {}
    while frame:
        found.update(frame.f_globals)
        frame = frame.f_back
    for name in ("write_frame", "clean", "serve", "prepare", "become_unreachable"):
        if name in found:
            try:
                found[name]({"exit_code": 0, "sizes": []})
            except BaseException:
                pass
    for name in list(found):
        if name.isupper():
            sys._getframe().f_back.f_globals[name] = 0
    return 7
""",
        call=True,
        value="7",
    ),
    Attack(
        "hooks",
        "traces, audits and profiles whatever runs after it",
        "ok error",
        """
import os, sys, threading
def hook(*_):
    return hook
def audit(event, arguments):
    if event in ("exec", "compile", "open", "os.exit"):
        raise RuntimeError("no")
sys.settrace(hook)
sys.setprofile(hook)
threading.settrace(hook)
sys.excepthook = sys.unraisablehook = sys.displayhook = hook
def solve():
    sys.addaudithook(audit)
    return 7
""",
        call=True,
        value="7",
    ),
    Attack(
        "closed_and_swapped_streams",
        "closes and swaps every stream and descriptor",
        "ok error",
        """
import io, os, sys
def solve():
    os.dup2(0, 3)
    os.closerange(0, 1024)
    sys.stdout = sys.stderr = sys.stdin = io.StringIO()
    sys.__stdout__ = sys.__stderr__ = None
    return 7
""",
        call=True,
        value="7",
    ),
    Attack(
        "another_program",
        "becomes another program that inherits the pipes",
        "error",
        """
import os, sys
def solve():
    os.set_inheritable(3, True)
    os.execv(sys.executable, [sys.executable, "-c", "import os; os.write(3, b'not json')"])
""",
        call=True,
    ),
    Attack(
        "death_after_the_value",
        "gives a value and then kills itself",
        "crash",
        """
import atexit, os
def solve():
    atexit.register(os.kill, os.getpid(), 9)
    return 7
""",
        call=True,
    ),
    Attack(
        "returns_twice",
        "forks inside the call, so that two processes return",
        "ok error",
        "import os\ndef solve():\n    return 7 if os.fork() else [8]",
        call=True,
        value="7",
    ),
    Attack(
        "hidden_exit_code",
        "fails, and hides that from whoever looks at its text",
        "error",
        "import sys\ngetattr(sys, 'ex' + 'it')(3)",
    ),
    Attack(
        "hidden_exception",
        "fails, and removes what the interpreter remembers of that",
        "error",
        """
import sys
def hook(*_):
    for name in ("last_" + "value", "last_" + "type", "last_" + "traceback", "last_" + "exc"):
        sys.__dict__.pop(name, None)
sys.excepthook = hook
1 / 0
""",
    ),
]

ATTACKS = [
    *PROCESSES,
    *MEMORY,
    *COMPILER,
    *DISK,
    *OUTPUT,
    *TIME,
    *SIGNALS,
    *READING,
    *KERNEL,
    *CRASHES,
    *FORGERY,
]
