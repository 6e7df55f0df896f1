"""The limit that judge.py measures against: a bare fork from a warm interpreter, and nothing else.

This is the least that running a program in a process of its own can cost. The interpreter has
imported what the sandbox's runner has. Per test it

1. writes the test's standard input to a file in memory (a memfd, made once),
2. forks; the child takes three such files as its descriptors 0, 1 and 2, closes all others, makes a
   new `__main__` module, compiles the program and executes it there,
3. the child ends: with ENDING `exit` it flushes stdout and stderr and calls os._exit (no atexit
   handlers, no joining of threads, no finalizers); with `finalize` CPython ends as it always does,
4. waits for the child, which reaps it, and reads stdout and stderr to their end.

The seconds it reports are those of steps 1 to 4, taken here: receiving the test and sending the
answer do not count. There is no isolation, no limit, no accounting and no clean-up; a program that
never ends is waited for; one that writes to files, kills processes or leaves some does just that.

    python -I bare_fork.py ENDING MODULES PRELUDE

MODULES and PRELUDE are source texts: imports, and the names that programs with a function get.
Requests come on standard input and answers go to standard output: 4 bytes of big-endian length,
then marshal. Request: (code, function or None, input). Answer: (seconds, exit status as os.waitpid
gives it, stdout, stderr). With a function, input holds one JSON value per line, its arguments, and
the last line of stdout is its value as JSON.
"""

import gc
import json
import marshal
import os
import sys
import time

REQUESTS, ANSWERS, STDIN, STDOUT, STDERR = range(3, 8)


def main(ending, modules, prelude):
    os.dup2(0, REQUESTS)
    os.dup2(1, ANSWERS)
    for fd in (STDIN, STDOUT, STDERR):
        os.dup2(os.memfd_create("test"), fd)
    os.closerange(STDERR + 1, 64)
    names = {}
    exec(modules, {})
    exec(prelude, names)
    gc.disable()
    gc.collect()
    gc.freeze()  # so that a child's collections do not copy our pages
    while True:
        code, function, data = receive()
        started = time.perf_counter()
        os.ftruncate(STDIN, 0)
        os.pwrite(STDIN, data, 0)
        os.lseek(STDIN, 0, os.SEEK_SET)
        child = os.fork()
        if child == 0:
            for fd in range(3):
                os.dup2(STDIN + fd, fd)
            os.closerange(3, STDERR + 1)
            gc.enable()
            exit_code = run(code, function, names)
            if ending == "exit":
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(exit_code)
            sys.exit(exit_code)
        _, status = os.waitpid(child, 0)
        answer = status, contents(STDOUT), contents(STDERR)
        send((time.perf_counter() - started, *answer))


def run(code, function, names):
    """Execute the program as `__main__`, in this child. Returns its exit code."""
    main = sys.modules["__main__"] = type(sys)("__main__")
    try:
        if function is None:
            exec(compile(code, "solution.py", "exec"), main.__dict__)
            return 0
        main.__dict__.update(names)
        exec(compile(code, "solution.py", "exec"), main.__dict__)
        owner = main.Solution() if hasattr(main, "Solution") else main
        arguments = [json.loads(line) for line in sys.stdin.read().splitlines() if line.strip()]
        print("\n" + json.dumps(getattr(owner, function)(*arguments)))
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1


def contents(fd):
    """What the child wrote. Leaves the file empty."""
    size = os.fstat(fd).st_size
    if size == 0:
        return b""
    data = os.pread(fd, size, 0)
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    return data


def receive():
    size = int.from_bytes(exactly(4), "big")
    return marshal.loads(exactly(size))


def exactly(size):
    data = b""
    while len(data) < size:
        part = os.read(REQUESTS, size - len(data))
        if not part:
            os._exit(0)  # the benchmark is gone
        data += part
    return data


def send(answer):
    data = marshal.dumps(answer)
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(ANSWERS, data) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
