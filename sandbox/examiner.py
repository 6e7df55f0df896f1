"""The program inside the cage for tests that are Python code; `judge.AssertTest` sends it.

Data sets such as HumanEval and MBPP test a function with asserts. Where these run in the program's
own process, the program decides: it passes with `os._exit(0)`, with a patched builtin, or with a
value whose `==` says yes. Here two processes share the cage:

- this one, the examiner, runs the tests, and it alone says how they went;
- its child runs the program. It is forked before the examiner reads the tests, so nothing of them
  is in its memory, and the two share no descriptor but two pipes and the output streams. The
  examiner is not dumpable: the kernel lets no process of the same user trace it, read its memory or
  open its files.

A call of the program's function goes over one pipe as data, and its value comes back over the other
as data: numbers, texts, containers, and objects of the tests' own classes as their attributes. What
the tests compare was built here, of Python's own types. What is no data (a generator, an object of
a class of the program) stays there; the tests get a `Remote`, which can be called, iterated and
asked for attributes, and which equals nothing but itself.

What is left to the program is to end, stop or hang the examiner, and then the tests have not
passed. What differs from one process: a value of a subclass (a named tuple, an IntEnum) arrives as
its base class, functions of the tests cannot be passed to the program, and of objects of the tests'
own classes it sees no methods.

Like the runner, this runs on any CPython >= 3.9 and needs nothing but the standard library.
"""

# ruff: noqa: B905, PTH100, PTH109, SIM105

import ast
import builtins
import ctypes
import datetime
import json
import os
import re
import reprlib
import signal
import sys
import time
import traceback
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction

PR_SET_DUMPABLE = 4
SHOWN_CHARACTERS = 500  # of each text in a report


def examine(program, functions):
    """Run `program` in a child, and the tests on standard input here.

    functions: see `judge.AssertTest`.

    Returns {"passed": True}; or {"passed": False} with the texts "error", "statement" (the line of
    the tests that failed) and "call" (the last one before); or {"unfit": error} for tests that
    cannot run here. If the program raises or ends, this process does so, too.
    """
    set_dumpable(False)
    questions, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            close_all_but(questions[0], answers[1])
            set_dumpable(True)
            Program(questions[0], answers[1]).serve(program)
        finally:
            os._exit(0)
    os.close(questions[0])
    os.close(answers[1])
    # The program can write there, and the tests import modules.
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.getcwd()]
    connection = Connection(questions[1], answers[0])
    try:
        tests = sys.stdin.buffer.read().decode()
        code = prepared(tests)
        connection.ask("load")  # only now does the program run
        report = run(code, tests, functions, connection)
        if not connection.ended:
            return report
    except Unfit as error:
        return {"unfit": short(str(error))}
    except ProgramEnded:
        pass
    except BaseException as error:
        if not hasattr(error, "program_traceback"):
            raise
        sys.stderr.write(error.program_traceback)
        raise SystemExit(1) from None
    return end_like(pid)


def prepared(tests):
    """The compiled tests. Raises Unfit if they are no Python or import what is not here.

    Later, a failing import is no more than a test that does not pass: the program could cause it,
    with prlimit for one.
    """
    try:
        tree = ast.parse(tests, "tests.py")
        imports = [
            node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        exec(compile(ast.Module(imports, []), "tests.py", "exec", dont_inherit=True), {})
        return compile(tree, "tests.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, ImportError) as error:
        raise Unfit(repr(error)) from None


def run(code, tests, functions, connection):
    """The report on the tests. Raises ProgramEnded, Unfit, and what the program raised."""
    try:
        exec(code, Names(functions, connection))
    except (ProgramEnded, Unfit, MemoryError):
        raise
    except BaseException as error:
        if hasattr(error, "program_traceback"):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == "tests.py"]
        return {
            "passed": False,
            "error": short("".join(traceback.format_exception_only(type(error), error)).strip()),
            "statement": short(tests.split("\n")[lines[-1] - 1].strip()),
            "call": connection.last_call(),
        }
    return {"passed": True}


def end_like(pid):
    """End this process as the program ended."""
    for _ in range(100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        raise SystemExit("The program closed or garbled its connection to the tests.")
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    raise SystemExit(f"The program ended (exit code {code}) before its tests did.")


def set_dumpable(dumpable):
    arguments = map(ctypes.c_ulong, (dumpable, 0, 0, 0))
    if ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, *arguments) != 0:
        raise OSError("the kernel refused prctl(PR_SET_DUMPABLE)")


def close_all_but(*kept):
    first = 3
    for fd in (*sorted(kept), 4096):
        os.closerange(first, fd)
        first = fd + 1


def short(text):
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


# The tests' side ----------------------------------------------------------------------------------


class ProgramEnded(BaseException):
    """No `except Exception` of the tests can take it for an error of the program's function."""


class Unfit(Exception):
    """The tests cannot run here, or cannot run across two processes."""


class Names(dict):
    """The global names of the tests: their own, Python's, and those of the program."""

    def __init__(self, functions, connection):
        super().__init__(__name__="__main__", __builtins__=builtins)
        self.of_any_name, self.connection = functions is None, connection
        for name in functions or ():
            value = connection.ask("name", name)
            if value is not MISSING:
                self[name] = value

    def __missing__(self, name):
        if hasattr(builtins, name):  # the program does not replace these
            raise KeyError(name)
        value = self.connection.ask("name", name) if self.of_any_name else MISSING
        if value is MISSING:
            if name not in getattr(sys, "stdlib_module_names", ()):
                raise KeyError(name)
            value = __import__(name)  # in one process, the tests could use the program's imports
        self[name] = value
        return value


class Remote:
    """Something of the program that is no data.

    It is asked for values, but never whether it equals, holds or exceeds something: that would be
    the program's word on the test.
    """

    __slots__ = ("_connection", "_held", "_name")

    def __init__(self, connection, held, name):
        for attribute, value in (("_connection", connection), ("_held", held), ("_name", name)):
            object.__setattr__(self, attribute, value)

    def __call__(self, *arguments, **keywords):
        return self._connection.call(self, arguments, keywords)

    def __iter__(self):
        return self._connection.ask("iterate", self._held)

    def __next__(self):
        return self._connection.ask("next", self._held)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(f"{self!r} has no attribute {name!r} for the tests")
        return self._connection.ask("get", self._held, name)

    def __setattr__(self, name, value):
        (node,), table, _ = pack([value], self._connection.described)
        self._connection.ask("set", self._held, name, node, table)

    def __repr__(self):
        return self._name


class Connection:
    """Asks the program, one question at a time. What it answers is taken for nothing but data."""

    def __init__(self, questions, answers):
        self.questions, self.answers = questions, os.fdopen(answers, "rb")
        self.ended = False
        self.remotes = {}
        self.classes = {}  # of the tests, by name: those of objects that the program has seen
        self.latest = None  # a Remote, its arguments, and what came of the call

    def call(self, remote, arguments, keywords):
        nodes, table, objects = pack([*arguments, *keywords.values()], self.described)
        named = dict(zip(keywords, nodes[len(arguments) :]))
        self.latest = (remote, arguments, keywords, None)
        question = ("call", remote._held, nodes[: len(arguments)], named, table)
        value = self.ask(*question, objects=objects)
        self.latest = (remote, arguments, keywords, [value])
        return value

    def ask(self, *question, objects=()):
        """The answer's value. Containers in `objects` get the contents that the program left.

        Raises an exception of the builtin class that the program raised, or ProgramEnded.
        """
        try:
            write_line(self.questions, question)
            kind, *answer = json.loads(self.answers.readline())
            if kind == "value":
                node, table = answer
                return Unpacker(table, self.object_of, objects).value(node)
            if kind == "missing":
                return MISSING
            error = exception_of(*answer)
        except MemoryError:
            raise
        except Exception:  # it hung up, or its answer makes no sense
            self.ended = True
            raise ProgramEnded from None
        raise error

    def described(self, value, node):
        """The entry of what is no plain data."""
        if isinstance(value, Remote):
            return ["remote", value._held]
        if is_builtin(value):
            return ["builtin", value.__name__]
        if type(value).__module__ == "__main__" and hasattr(value, "__dict__"):
            self.classes[type(value).__name__] = type(value)
            return entry_of_object(value, node)
        raise Unfit(f"a {type(value).__name__} cannot be passed to the program")

    def object_of(self, kind, name, *more):
        if kind == "remote":
            if name not in self.remotes:
                self.remotes[name] = Remote(self, name, str(*more))
            return self.remotes[name]
        if kind == "builtin" and isinstance(getattr(builtins, name), type):
            return getattr(builtins, name)
        return object.__new__(self.classes[name])

    def last_call(self):
        """As text: "f(1, n=2) gave 3"."""
        if self.latest is None:
            return ""
        remote, arguments, keywords, gave = self.latest
        shown = [REPR.repr(value) for value in arguments]
        shown += [f"{name}={REPR.repr(value)}" for name, value in keywords.items()]
        ending = f" gave {REPR.repr(gave[0])}" if gave else ""
        return short(f"{remote!r}({', '.join(shown)}){ending}")


def exception_of(name, message, program_traceback):
    kind = getattr(builtins, name)
    try:
        error = kind.__new__(kind, message)  # __init__ may want other arguments
    except TypeError:  # an ExceptionGroup wants the exceptions in it, too, which are no data
        error = type(name, (Exception,), {})(message)
    if not isinstance(error, BaseException) or not isinstance(program_traceback, str):
        raise ValueError("this is no exception")
    error.program_traceback = program_traceback
    return error


class Repr(reprlib.Repr):
    def repr_int(self, value, level):
        bits = value.bit_length()  # Python refuses to print long ones, which takes long
        return repr(value) if bits < 1000 else f"<int of {bits} bits>"


MISSING = object()
REPR = Repr()
REPR.maxstring = REPR.maxother = 200
REPR.maxlist = REPR.maxtuple = REPR.maxset = REPR.maxfrozenset = REPR.maxdict = 20


# The program's side -------------------------------------------------------------------------------


class Program:
    """Answers the questions of a Connection: one method for each."""

    def __init__(self, questions, answers):
        self.questions, self.answers = os.fdopen(questions, "rb"), answers
        self.held, self.place = [], {}  # what the tests have a Remote of, and where it is, by id
        self.classes = {}  # stand-ins for those of the tests, by name

    def serve(self, text):
        self.text = text
        sys.setrecursionlimit(1000 + 20)  # CPython's; our frames are not its depth
        for line in self.questions:
            name, *question = json.loads(line)
            try:
                answer = getattr(self, name)(*question)
            except BaseException as error:
                answer = raised(error)
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except Exception:  # closed, or replaced by something else: as it likes
                    pass
            write_line(self.answers, answer)

    def load(self):
        path = os.path.abspath("solution.py")
        with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(self.text)  # for tracebacks, and for programs that read themselves
        main = sys.modules["__main__"] = type(sys)("__main__")
        main.__file__ = path
        self.names = vars(main)
        exec(compile(self.text, path, "exec", dont_inherit=True), self.names)
        return self.value(None)

    def name(self, name):
        if name not in self.names or isinstance(self.names[name], type(sys)):
            return ["missing"]
        return self.value(self.names[name])

    def call(self, held, arguments, keywords, table):
        unpacker = Unpacker(table, self.object_of)
        arguments = [unpacker.value(node) for node in arguments]
        keywords = {name: unpacker.value(node) for name, node in keywords.items()}
        result = self.held[held](*arguments, **keywords)
        return self.value(result, unpacker.objects, table)

    def get(self, held, name):
        return self.value(getattr(self.held[held], name))

    def set(self, held, name, node, table):
        setattr(self.held[held], name, Unpacker(table, self.object_of).value(node))
        return self.value(None)

    def iterate(self, held):
        return self.value(iter(self.held[held]))

    def next(self, held):
        return self.value(next(self.held[held]))

    def value(self, value, objects=(), sent=()):
        """The answer with a value. Of the entries that came, those that changed go back."""
        (node,), table, _ = pack([value], self.described, objects)
        for i, entry in enumerate(sent):
            if repr(table[i]) == repr(entry):  # True == 1, but not as text
                table[i] = None
        return ["value", node, table]

    def described(self, value, node):
        if isinstance(value, type) and is_builtin(value):
            return ["builtin", value.__name__]
        if self.classes.get(type(value).__name__) is type(value):
            return entry_of_object(value, node)
        if id(value) not in self.place:
            self.place[id(value)] = len(self.held)
            self.held.append(value)
        name = getattr(value, "__name__", f"<{type(value).__name__}>")
        return ["remote", self.place[id(value)], name]

    def object_of(self, kind, name, *_):
        if kind == "remote":
            return self.held[name]
        if kind == "builtin":
            return getattr(builtins, name)
        return object.__new__(self.classes.setdefault(name, type(name, (), {})))


def raised(error):
    """The answer to a question that ended in an exception: its nearest builtin class, and texts."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    if isinstance(error, SystemExit):
        text = f"The program ended itself (SystemExit: {error}) before its tests ended.\n"
    bases = (base for base in type(error).__mro__ if is_builtin(base))
    return ["raised", next(bases).__name__, str(error), text]


# Values as JSON -----------------------------------------------------------------------------------
#
# A node is a JSON scalar, or [i] for the i-th entry of a table, so that what is shared, or holds
# itself, stays so. An entry is [kind, ...] with the nodes of what it holds.

MAPPINGS = {"OrderedDict": OrderedDict, "Counter": Counter, "dict": dict}
SEQUENCES = {"list": list, "set": set, "deque": deque}
FROZEN = {"tuple": tuple, "frozenset": frozenset}
CONTAINERS = {**MAPPINGS, **SEQUENCES, **FROZEN}
ATOMS = {  # kind: (class, its parts, what makes it of them)
    "int": (int, lambda value: [hex(value)], lambda text: int(text, 16)),  # a long one
    "bytes": (bytes, lambda value: [value.hex()], bytes.fromhex),
    "bytearray": (bytearray, lambda value: [value.hex()], bytearray.fromhex),
    "complex": (complex, lambda value: [value.real, value.imag], complex),
    "range": (range, lambda value: [value.start, value.stop, value.step], range),
    "Decimal": (Decimal, lambda value: [str(value)], Decimal),
    "Fraction": (Fraction, lambda value: [value.numerator, value.denominator], Fraction),
    "datetime": (
        datetime.datetime,
        lambda value: [value.isoformat()],
        datetime.datetime.fromisoformat,
    ),
    "date": (datetime.date, lambda value: [value.isoformat()], datetime.date.fromisoformat),
    "timedelta": (
        datetime.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        datetime.timedelta,
    ),
}
NUMPY_DATA = re.compile(r"[<>|=][biufU]\d+")  # dtypes whose values are JSON


def pack(roots, described, objects=()):
    """(nodes of the roots, table, the objects of its entries). The first entries are of `objects`.

    `described(value, node)` gives the entry of what is not among the kinds here.
    """
    objects = list(objects)
    place = {id(each): i for i, each in enumerate(objects)}

    def node(value):
        if value is None or value is True or value is False:
            return value
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            value = int.__index__(value)
            if -(1 << 63) <= value < 1 << 63:
                return value
        if id(value) not in place:
            place[id(value)] = len(objects)
            objects.append(value)
        return [place[id(value)]]

    nodes = [node(root) for root in roots]
    table = []
    for each in objects:  # which grows
        table.append(entry_of(each, node, described))
    return nodes, table, objects


def entry_of(value, node, described):
    for kind, container in CONTAINERS.items():
        if isinstance(value, container):
            if kind in MAPPINGS:
                return [kind, *(node(part) for item in value.items() for part in item)]
            return [kind, *map(node, value)]
    for kind, (atom, parts, _) in ATOMS.items():
        if isinstance(value, atom):
            return [kind, *map(node, parts(value))]
    if type(value).__module__ == "numpy" and NUMPY_DATA.fullmatch(
        getattr(getattr(value, "dtype", None), "str", "")
    ):
        return ["numpy", value.dtype.str, value.tolist()]
    return described(value, node)


def entry_of_object(value, node):
    attributes = vars(value).items()
    return ["object", type(value).__name__, *(node(part) for item in attributes for part in item)]


class Unpacker:
    """Builds the objects of a table. The first ones may exist: these get new contents.

    `object_of(kind, ...)` makes what `described` gave the entry for. Raises whatever comes of a
    table that makes no sense.
    """

    def __init__(self, table, object_of, existing=()):
        self.table, self.object_of = table, object_of
        self.built = dict(enumerate(existing))
        for i in range(len(table)):
            self.value([i])
        self.objects = [self.built[i] for i in range(len(table))]
        for entry, each in zip(table, self.objects):
            if entry is not None:
                self.fill(each, *entry)

    def value(self, node):
        if not isinstance(node, list):
            return node
        (i,) = node
        if i not in self.built:
            kind, *parts = self.table[i]
            if kind in FROZEN:
                self.built[i] = FROZEN[kind](map(self.value, parts))
            elif kind in CONTAINERS:
                self.built[i] = CONTAINERS[kind]()
            elif kind in ATOMS:
                self.built[i] = ATOMS[kind][2](*map(self.value, parts))
            elif kind == "numpy":
                self.built[i] = numpy_data(*parts)
            else:
                self.built[i] = self.object_of(kind, *parts)
        return self.built[i]

    def fill(self, each, kind, *parts):
        if kind == "object":
            _, *parts = parts
            each = vars(each)
        elif kind not in MAPPINGS and kind not in SEQUENCES:
            return
        values = [self.value(part) for part in parts]
        each.clear()
        if kind == "set":
            each.update(values)
        elif kind in SEQUENCES:
            each.extend(values)
        else:
            for key, value in zip(values[::2], values[1::2]):
                each[key] = value


def numpy_data(dtype, values):
    import numpy

    if not NUMPY_DATA.fullmatch(dtype):
        raise ValueError(f"the dtype {dtype}")
    return numpy.array(values, dtype)[()]  # a scalar if it was one


def is_builtin(value):
    return getattr(builtins, getattr(value, "__name__", ""), None) is value


def write_line(fd, value):
    data = memoryview(json.dumps(value).encode() + b"\n")
    while data:
        data = data[os.write(fd, data) :]
