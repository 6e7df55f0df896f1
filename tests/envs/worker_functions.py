"""What the workers of the tests are asked to do. Imported by worker processes: keep it light."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

hoard = []


def same(*arguments):
    return list(arguments)


def slowly(seconds, value):
    time.sleep(seconds)
    return [value, os.getpid()]


def process():
    return os.getpid()


def tower(exponent):
    """Within one operation in C, which no signal handler of Python interrupts."""
    return 9 ** (9**exponent) % 10


def allocate(size):
    return len(bytearray(size))


def keep(size):
    hoard.append(bytes(bytearray(size)))
    return len(hoard)


def end(code):
    os._exit(code)


def end_unless(path):
    """Ends the process if there is no such file."""
    if not Path(path).exists():
        os._exit(1)
    return "it is there"


def divide(a, b):
    return a // b


def chatty(value):
    print("noise", flush=True)
    print("noise", file=sys.stderr, flush=True)
    os.write(1, b"\x00\x00\x00\x02{}")
    return value


def not_json():
    return {1, 2}


def variables():
    return dict(os.environ)


def working_directory():
    return [str(Path.cwd()), sys.path]


def write(path):
    Path(path).write_text("x")


def remove(path):
    Path(path).unlink()


def rename(path):
    Path(path).rename(f"{path}.new")


def make_directory(path):
    Path(path).mkdir()


def change_mode(path):
    Path(path).chmod(0o777)


def fork(_path):
    if os.fork() == 0:
        os._exit(0)


def run_a_program(path):
    subprocess.run(["touch", path], check=True)


def start_a_thread(_path):
    threading.Thread(target=time.sleep, args=(0,)).start()


def connect(_path):
    socket.create_connection(("127.0.0.1", 1), timeout=1)


def kill_the_host(_path):
    os.kill(os.getppid(), 0)
