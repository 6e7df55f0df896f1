"""The program inside the cage for tests that are Python code; `judge.AssertTest` sends it.

Data sets such as HumanEval and MBPP test a function with asserts. Where these run in the program's
own process, the program decides: it passes with `os._exit(0)`, with a patched builtin, or with a
value whose `==` says yes. Here two processes share the cage:

- this one, the examiner, runs the tests, and it alone says how they went;
- its child runs the program. It is forked before the examiner reads the tests, so nothing of them
  is in its memory, and the two share no descriptor but two pipes and the output streams. The
  examiner is not dumpable: the kernel lets no process of the same user trace it, read its memory or
  open its files.

Values cross the pipes as data: numbers, texts, containers, dates, paths and the like become equal
objects of Python's own types on the other side. Everything else (functions, classes and their
objects, generators, ...) stays where it is, and the other side gets a mirror of it, whose class is
a mirror of its class: to use the mirror is to ask the other side. This goes both ways, so the
program can call a function that the tests pass, and the tests can derive from the program's class.
What the program can do to an object of the tests is to call it and to use its methods and
attributes, as far as it was given the object; nothing else of the examiner can be reached by that.

What the tests compare as data was built here, of Python's own types. Where an operator has data of
the tests on its other side (`f(3) == 7`, `f(3) - 7`, `7 in f(3)`), an object of the program is not
asked: it equals no data, and other operators raise TypeError. Only objects that the tests make
themselves, of a class that they name (`Money(5) == 5`), are asked; for all others of such a class
(`wallet.total() * 2`) the result must be an object, too, and is no number. Two objects of the
program are compared as the program says, as in one process.

What is left to the program is to end, stop or hang the examiner, and then the tests have not
passed. What differs from one process: coroutines of the program run to their end when they are
first awaited, and what is patched in one process is not patched in the other (`judge.AssertTest`
refuses such tests), except that `redirect_stdout` of the tests catches what the program prints, and
that SETTINGS reach the program, too.

Like the runner, this runs on any CPython >= 3.9 and needs nothing but the standard library.
"""

# ruff: noqa: B905, PTH100, PTH109, SIM105

import array
import ast
import builtins
import copy
import ctypes
import datetime
import io
import json
import operator
import os
import re
import reprlib
import signal
import sys
import threading
import time
import traceback
import types
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction

PR_SET_DUMPABLE = 4
SHOWN_CHARACTERS = 500  # of each text in a report
PROGRAM, TESTS = "solution", "__main__"  # the names of the two modules
SHORT_NAMES = {"np": "numpy"}
SETTINGS = (
    ("random", "seed"),
    ("numpy.random", "seed"),
    ("sys", "setrecursionlimit"),
    ("os", "chdir"),
)


def examine(program, functions, classes):
    """Run `program` in a child, and the tests on standard input here.

    functions, classes: see `judge.AssertTest`.

    Returns {"passed": True}; or {"passed": False} with the texts "error", "statement" (the line of
    the tests that failed) and "call" (the last one before); or {"unfit": error} for tests that
    cannot run here, whatever the program is. If the program raises or ends, this process does so,
    too.
    """
    set_dumpable(False)
    questions, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            close_all_but(questions[0], answers[1])
            set_dumpable(True)
            Program(questions[0], answers[1]).run(program)
        finally:
            os._exit(0)
    os.close(questions[0])
    os.close(answers[1])
    # The program can write there, and the tests import modules.
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.getcwd()]
    examiner = become(Examiner(answers[0], questions[1], classes))
    try:
        tests = sys.stdin.buffer.read().decode()
        code = prepared(tests)
        share_settings(examiner)
        examiner.ask("load")  # only now does the program run
        report = run(code, tests, Names(functions, examiner))
        if not examiner.ended:
            return report
    except Unfit as error:
        return {"unfit": short(str(error))}
    except ProgramEnded:
        pass
    except BaseException as error:
        if not is_of_program(error):
            raise
        sys.stderr.write(vars(error)["program_traceback"])
        raise SystemExit(1) from None
    return end_like(pid)


def prepared(tests):
    """The compiled tests. Raises Unfit if they are no Python or import what is not here.

    Later, a failing import is no more than a test that does not pass: the program could cause it,
    with prlimit for one.
    """
    try:
        tree = ast.parse(tests, "tests.py")
        imports: list[ast.stmt] = [
            node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        exec(compile(ast.Module(imports, []), "tests.py", "exec", dont_inherit=True), {})
        return compile(tree, "tests.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, ImportError) as error:
        raise Unfit(repr(error)) from None


def share_settings(examiner):
    """Let the program's process follow where the tests set something that one process shares."""

    def shared(module, name):
        own = getattr(sys.modules[module], name)

        def here_and_there(*arguments):
            result = own(*arguments)
            examiner.ask("setting", module, name, arguments)
            return result

        return here_and_there

    for module, name in SETTINGS:
        if module in sys.modules:
            setattr(sys.modules[module], name, shared(module, name))


def run(code, tests, names):
    """The report on the tests. Raises ProgramEnded, and what the program raised."""
    try:
        exec(code, names)
    except (ProgramEnded, MemoryError):
        raise
    except BaseException as error:
        if is_of_program(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [each.lineno for each in frames if each.lineno and each.filename == "tests.py"]
        return {
            "passed": False,
            "error": short("".join(traceback.format_exception_only(type(error), error)).strip()),
            "statement": short(tests.split("\n")[lines[-1] - 1].strip()) if lines else "",
            "call": names.examiner.last_call(),
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


class ProgramEnded(BaseException):
    """No `except Exception` of the tests can take it for an error of the program's function."""


class Unfit(Exception):
    """The tests cannot run here."""


class Names(dict):
    """The global names of the tests: their own, Python's, and those of the program.

    Only functions and classes of the program are kept: its other names may get new values.
    """

    def __init__(self, functions, examiner):
        super().__init__(__name__=TESTS, __builtins__=builtins)
        self.functions, self.examiner = functions, examiner

    def __missing__(self, name):
        wanted = not hasattr(builtins, name) if self.functions is None else name in self.functions
        value = self.examiner.ask("name", name) if wanted else MISSING
        if value is MISSING:
            # In one process, the tests could use what the program imported.
            if name not in (*LIBRARY, *SHORT_NAMES):
                raise KeyError(name)
            value = __import__(SHORT_NAMES.get(name, name))  # type: ignore
        elif type(value) is not Mirrored and id(value) not in self.examiner.labels:
            return value
        self[name] = value
        return value


# The connection -----------------------------------------------------------------------------------


class Peer:
    """One end of the connection: it asks the other, and answers what the other asks meanwhile.

    A question is ["ask", operation, nodes, table, streams]. Its answer is ["value", node, table,
    texts], ["raised", node, table, texts, traceback] or ["missing"]. For nodes and tables see
    `pack`. The table of an answer begins with the entries of the question's, with their new
    contents, or null for those that have not changed. The texts are what was written to the streams
    that the question names.

    An object that is no data stays where it is. Each side gives numbers to those of its objects
    that the other knows. What an entry says of an object, it says once; later it is ["known",
    number], and ["yours", number] where it goes home.
    """

    def __init__(self, reading, writing):
        self.reading, self.writing = os.fdopen(reading, "rb"), writing
        self.lock = threading.RLock()
        self.held, self.place = [], {}  # own objects by number; the numbers, by the objects' ids
        self.mirrors, self.theirs = {}, {}  # mirrors by number; the numbers, by the mirrors' ids
        self.class_wrappers = {}  # see class_of
        self.labels = {}  # names of functions, by their mirrors' ids
        self.local = set()  # classes of this side that derive from mirrors
        self.data = {}  # list, dict, ... by the mirrors of classes that derive from them

    def ask(self, operation, *values):
        """What the other side answers. Raises what was raised there."""
        nodes, table, objects = pack(values, self.described)
        with self.lock:
            question = ["ask", operation, nodes, table, self.replaced_streams()]
            write_line(self.writing, question)
            while True:
                kind, *parts = self.read()
                if kind != "ask":
                    break
                self.serve(*parts)
        if kind == "missing":
            return MISSING
        value, texts = self.understood(objects, kind, *parts)
        for name, text in texts:
            getattr(sys, name).write(text)
        if kind == "raised":
            raise value
        return value

    def read(self):
        return json.loads(self.reading.readline())

    def understood(self, objects, kind, node, table, texts, program_traceback=None):
        value = Unpacker(table, self.object_of, objects).value(node)
        if kind == "raised":
            if not isinstance(value, BaseException):
                raise ValueError("this is no exception")
            if id(value) in self.theirs:
                vars(value)["program_traceback"] = str(program_traceback)
        return value, [(name, str(text)) for name, text in texts if name in STREAMS]

    def serve(self, operation, nodes, table, streams):
        unpacker = Unpacker(table, self.object_of)
        values = [unpacker.value(node) for node in nodes]
        own = {name: getattr(sys, name) for name in streams}
        captured = {name: io.StringIO() for name in streams}
        for name, stream in captured.items():
            setattr(sys, name, stream)
        try:
            value = getattr(self, f"do_{operation}")(*values)
            answer = self.answer("value", value, unpacker.objects, table)
        except self.NOT_ANSWERED:
            raise
        except BaseException as error:
            answer = self.raised(error, unpacker.objects, table)
        for name, stream in own.items():
            answer[3].append([name, captured[name].getvalue()])
            setattr(sys, name, stream)
        self.flush()
        write_line(self.writing, answer)

    NOT_ANSWERED = ()

    def replaced_streams(self):
        return ()

    def flush(self):
        pass

    def answer(self, kind, value, objects, sent):
        if value is MISSING:
            return ["missing", None, None, []]
        settled = [i for i, (sent_kind, *_) in enumerate(sent) if sent_kind not in MUTABLE]
        (node,), table, _ = pack([value], self.described, objects, settled)
        for i, entry in enumerate(sent):
            if repr(table[i]) == repr(entry):  # True == 1, but not as text
                table[i] = None
        return [kind, node, table, []]

    def raised(self, error, objects, sent):
        text = traceback_of(error)
        try:
            return [*self.answer("raised", error, objects, sent), text]
        except Exception:  # it cannot be taken apart
            plain = next(base for base in type(error).__mro__ if is_builtin(base))
            return [*self.answer("raised", plain(repr(type(error))), (), ()), text]

    def call(self, function, arguments, keywords):
        return self.ask("call", function, arguments, keywords)

    def special(self, owner, name, this, arguments, keywords):
        """What a special method gives, the one that the mirrored class `owner` has."""
        return self.ask("special", owner, name, this, arguments, keywords)

    # What is no data ------------------------------------------------------------------------------

    def common(self, value):
        """The entry of what both sides have, or None."""
        raise NotImplementedError

    def described(self, value, node):
        """The entry of what is no plain data."""
        if type(value) is Handle:
            return ["yours", value.number]
        if id(value) in self.theirs:
            return ["yours", self.theirs[id(value)]]
        if type(value) is ClassOf:
            return self.described_class(value.class_, node)
        common = self.common(value)
        if common is not None:
            return common
        if isinstance_of(value, type):
            return self.described_class(value, node)
        if id(value) in self.place:
            return ["known", self.place[id(value)]]
        number = self.hold(value)
        class_ = node(self.class_of(type(value)))
        if isinstance_of(value, BaseException):
            return ["error", number, class_, *error_parts(value, node)]
        if type(value) is types.CoroutineType:
            return ["coroutine", number]
        label = value.__name__ if isinstance(value, FUNCTIONS) else None
        return ["object", number, class_, node(plain_part(value)), label]

    def described_class(self, class_, node):
        if id(class_) in self.theirs:
            return ["yours", self.theirs[id(class_)]]
        if id(class_) in self.place:
            return ["known", self.place[id(class_)]]
        own = vars(class_)
        special = [name for name in own if name in SPECIAL]
        library = next((base for base in class_.__mro__ if is_of_library(base)), object)
        return [
            "class",
            self.hold(class_),
            [text_or_none(getattr(class_, name, None)) for name in CLASS_TEXTS],
            [node(self.class_of(base)) for base in class_.__bases__ if base is not object],
            [name for name in special if own[name] is not None],
            [name for name in special if own[name] is None],
            [name for name in own if is_member(class_, name)],
            [library.__module__, library.__qualname__],
            [str(name) for name in getattr(class_, "__dataclass_fields__", ())],
        ]

    def class_of(self, class_):
        """What stands for it as the class of something: a mirror, unless its objects are data."""
        if class_ in DATA_CLASSES or is_library_exception(class_):
            return class_
        return self.class_wrappers.setdefault(class_, ClassOf(class_))

    def hold(self, value):
        number = self.place[id(value)] = len(self.held)
        self.held.append(value)
        return number

    def object_of(self, unpacker, kind, *parts):
        """What an entry of `described` stands for."""
        if kind in ("yours", "type", "function", "module"):
            return getattr(self, f"find_{kind}")(*parts)
        number, *parts = parts
        if kind == "known" and number not in self.mirrors:
            return unpacker.described_as(number)
        if number in self.mirrors:
            return self.met_again(number)
        mirror = MIRRORS[kind](self, unpacker.value, number, *parts)
        self.mirrors[number] = mirror
        self.theirs[id(mirror)] = number
        return mirror

    def met_again(self, number):
        return self.mirrors[number]

    def find_yours(self, number):
        return self.held[number]

    def subclass(self, meta, name, bases, names, keywords):
        """A class statement of this side with a mirror among its bases: the other side makes the
        class, and its methods ask here."""
        made = type.__new__(meta, name, bases, names)
        mixed_in = [base for base in made.__mro__[1:-1] if not isinstance(base, Mirrored)]
        own = {}
        for class_ in (*reversed(mixed_in), made):
            own.update(
                (each, packed_member(vars(class_)[each]))
                for each in vars(class_)
                if each not in OF_ANY_CLASS
            )
        mirrors = tuple(base for base in bases if isinstance(base, Mirrored))
        number = self.ask("subclass", name, mirrors, own, keywords)
        self.mirrors[number] = made
        self.theirs[id(made)] = number
        self.local.add(made)
        return made

    def defines(self, class_, name):
        """Whether a class of this side, among the bases of a mirror's class, has that name."""
        return bool(self.local) and any(
            name in vars(base) for base in class_.__mro__ if base in self.local
        )

    # What either side can be asked for ------------------------------------------------------------

    def do_call(self, function, arguments, keywords):
        return function(*arguments, **keywords)

    def do_special(self, owner, name, this, arguments, keywords):
        return bound(owner, name, this)(*arguments, **keywords)

    def do_member(self, owner, name, this):
        return bound(owner, name, this)

    do_get = staticmethod(getattr)
    do_set = staticmethod(setattr)
    do_delete = staticmethod(delattr)

    def do_signature(self, this):
        import inspect

        signature = inspect.signature(this)
        empty = inspect.Signature.empty
        parts = [
            (
                each.name,
                int(each.kind),
                *((part, part is empty) for part in (each.default, each.annotation)),
            )
            for each in signature.parameters.values()
        ]
        return parts, (signature.return_annotation, signature.return_annotation is empty)

    def do_copy(self, this, deep):
        return (copy.deepcopy if deep else copy.copy)(this)

    def do_names(self, this):
        return dir(this)

    def do_operate(self, operation, class_, *operands):
        return CLASS_OPERATIONS[operation](class_, *operands)


class Examiner(Peer):
    """The tests' end. What the program says is taken for no more than data and names."""

    def __init__(self, reading, writing, classes=()):
        super().__init__(reading, writing)
        self.classes = classes
        self.ended = False
        self.latest = None  # a function, its arguments, and what came of the call
        self.believed = None  # those classes, once they are needed
        self.lent = []
        self.standing = {}  # BUILT or MIXED, by number: see `special`
        self.born = {}  # how many mirrors were there before, by number
        self.streams = {name: getattr(sys, name) for name in STREAMS}

    NOT_ANSWERED = (ProgramEnded, MemoryError)

    def replaced_streams(self):
        """Those that the tests replaced, to read what is printed."""
        return [name for name, own in self.streams.items() if getattr(sys, name) is not own]

    def read(self):
        return self.checked(lambda: [*super(Examiner, self).read()])

    def understood(self, *answer):
        return self.checked(lambda: super(Examiner, self).understood(*answer))

    def serve(self, operation, nodes, table, streams):
        self.checked(lambda: [operation[0], nodes[0], table[:0]])
        super().serve(operation, nodes, table, ())

    def checked(self, read):
        try:
            return read()
        except (ProgramEnded, MemoryError):
            raise
        except BaseException:  # it hung up, or its answer makes no sense
            self.ended = True
            raise ProgramEnded from None

    def ask(self, operation, *values):
        """As the other's. What the tests did to a container that they have from an attribute is
        done there before, and what the program did to it is done to theirs afterwards."""
        if not self.lent and operation != "get":
            return super().ask(operation, *values)
        lent, self.lent = self.lent, []
        for each in lent:
            if each.has_changed():
                super().ask("refill", each.owner, each.name, each.value)
        kept = [each for each in lent if each.is_kept()]
        try:
            value = super().ask(operation, *values)
        finally:
            for each in kept if not self.ended else ():
                each.renew(super().ask("get", each.owner, each.name))
        if operation == "get" and type(value) in REFILLED:
            known = (each.value for each in kept if (each.owner, each.name) == values)
            value = next(known, value)
            kept = [each for each in kept if each.value is not value]
            owner, name = values
            kept.append(Lent(owner, name, value))
        self.lent = kept
        return value

    def call(self, function, arguments, keywords):
        self.latest = (function, arguments, keywords, None)
        before = len(self.mirrors)
        value = super().call(function, arguments, keywords)
        self.latest = (function, arguments, keywords, [value])
        number = self.theirs.get(id(value))
        is_new = self.born.get(number, -1) >= before
        if is_new and type(value) is function and self.is_believed(function):
            self.standing[number] = BUILT
        return value

    def object_of(self, unpacker, kind, *parts):
        before = len(self.mirrors)
        made = super().object_of(unpacker, kind, *parts)
        if len(self.mirrors) > before:
            self.born.setdefault(self.theirs.get(id(made)), before)
        return made

    def met_again(self, number):
        """What the tests made, and got back from the program, may stand for a result."""
        self.standing.pop(number, None)
        return super().met_again(number)

    def is_believed(self, class_):
        if self.believed is None:
            self.believed = {self.ask("name", name) for name in self.classes}
        return any(base in self.believed for base in class_.__mro__)

    def special(self, owner, name, this, arguments, keywords):
        """As the other's, but the program is not asked to decide on data of the tests.

        Except for an object that the tests have BUILT themselves, of a class that they name. Others
        of that class can be calculated with, but the result, MIXED, must be an object and gives no
        plain value of itself, as a difference that is compared with a tolerance would.
        """
        standing = self.standing.get(self.theirs[id(this)])
        if standing == MIXED and name in CONVERSIONS:
            raise TypeError(f"{name} of a result of data and an object of the program")
        if name not in DECISIONS or all(map(is_mirror, arguments)):
            value = super().special(owner, name, this, arguments, keywords)
            if name in OPERATORS and standing == MIXED:
                return self.mixed(value)
            return value
        if standing == BUILT:
            value = super().special(owner, name, this, arguments, keywords)
            if is_mirror(value):
                self.standing[self.theirs[id(value)]] = BUILT
            return value
        if type(this) in self.data and name not in IN_PLACE:
            kind = self.data[type(this)]
            return getattr(kind, name)(self.ask("data", this, kind), *arguments)
        if name == "__contains__":
            (wanted,) = arguments
            return any(each is wanted or each == wanted for each in this)
        if name in COMPARISONS or not self.is_believed(type(this)):
            return NotImplemented
        return self.mixed(super().special(owner, name, this, arguments, keywords))

    def mixed(self, value):
        if value is not NotImplemented:
            if not is_mirror(value):
                raise TypeError("data and an object of the program gave no object")
            self.standing[self.theirs[id(value)]] = MIXED
        return value

    def common(self, value):
        """The entry of something that the program has, too."""
        if type(value) is types.ModuleType:
            return ["module", value.__name__]
        if type(value) is types.BuiltinFunctionType and is_builtin(value):
            return ["function", value.__name__]
        if isinstance_of(value, type) and is_of_library(value) and is_found_by_name(value):
            return ["type", value.__module__, value.__qualname__]
        return None

    def find_type(self, module, name):
        if (module, name) in DATA_CLASSES_BY_NAME:
            return DATA_CLASSES_BY_NAME[module, name]
        package = module.partition(".")[0]
        if package in LIBRARY and package not in LOUD_MODULES:
            __import__(module)
        found = getattr(sys.modules[module], name)
        if not (found in DATA_CLASSES or is_builtin(found) or is_library_exception(found)):
            raise ValueError(f"the class {name}")
        return found

    def last_call(self):
        """As text: "f(1, n=2) gave 3"."""
        if self.latest is None:
            return ""
        function, arguments, keywords, gave = self.latest
        shown = [REPR.repr(value) for value in arguments]
        shown += [f"{name}={REPR.repr(value)}" for name, value in keywords.items()]
        ending = f" gave {REPR.repr(gave[0])}" if gave else ""
        name = REPR.repr(function).strip("<>")
        return short(f"{name}({', '.join(shown)}){ending}")

    # What the program may ask for: as little as a function needs of its arguments.

    def do_call(self, function, arguments, keywords):
        if isinstance(function, type) and function.__module__ != TESTS:
            raise TypeError(f"{function} cannot be called from the program")
        return super().do_call(function, arguments, keywords)

    def do_special(self, owner, name, this, arguments, keywords):
        if name not in SPECIAL or owner not in type(this).__mro__:
            raise TypeError(f"{name} cannot be called from the program")
        return super().do_special(owner, name, this, arguments, keywords)

    def do_member(self, owner, name, this):
        if not may_read(this, name) or owner not in type(this).__mro__:
            raise AttributeError(name)
        return super().do_member(owner, name, this)

    def do_get(self, this, name):
        if not may_read(this, name):
            raise AttributeError(f"{type(this).__name__!r} object has no attribute {name!r}")
        return super().do_get(this, name)

    def do_set(self, this, name, value):
        if is_private(name) or type(this).__module__ != TESTS:
            raise AttributeError(f"the attribute {name!r} cannot be set from the program")
        super().do_set(this, name, value)

    def do_delete(self, this, name):
        if is_private(name) or type(this).__module__ != TESTS:
            raise AttributeError(f"the attribute {name!r} cannot be deleted from the program")
        super().do_delete(this, name)

    def do_wait(self, coroutine):
        while True:
            try:
                if coroutine.send(None) is not None:
                    raise TypeError("a coroutine of the tests waits for what is not the program's")
            except StopIteration as end:
                return end.value

    def do_subclass(self, *_):
        raise TypeError("a program cannot derive from a class of the tests")


class Program(Peer):
    """The program's end."""

    def run(self, text):
        self.text, self.loop = text, None
        become(self)
        sys.setrecursionlimit(1000 + 20)  # CPython's; our frames are not its depth
        for line in self.reading:
            _, *question = json.loads(line)
            self.serve(*question)

    def flush(self):
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # closed, or replaced by something else: as it likes
                pass

    def common(self, value):
        """The entry of a class that the tests have, too."""
        if isinstance_of(value, type) and (
            value in DATA_CLASSES or is_builtin(value) or is_library_exception(value)
        ):
            return ["type", value.__module__, value.__qualname__]
        return None

    def find_type(self, module, name):
        data = DATA_CLASSES_BY_NAME.get((module, name))
        return data or getattr(self.find_module(module), name)

    def find_function(self, name):
        return getattr(builtins, name)

    def find_module(self, name):
        __import__(name)
        return sys.modules[name]

    def do_load(self):
        path = os.path.abspath("solution.py")
        with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(self.text)  # for tracebacks, and for programs that read themselves
        module = sys.modules["__main__"] = sys.modules[PROGRAM] = types.ModuleType(PROGRAM)
        module.__file__ = path
        self.names = vars(module)
        exec(compile(self.text, path, "exec", dont_inherit=True), self.names)

    def do_name(self, name):
        value = self.names.get(name, MISSING)
        return MISSING if isinstance(value, types.ModuleType) else value

    def do_setting(self, module, name, arguments):
        getattr(self.find_module(module), name)(*arguments)

    def do_data(self, this, kind):
        """A copy as Python's own type `kind`, made without the methods of a derived class."""
        if KINDS[kind] in ATOMS:
            _, parts, make = ATOMS[KINDS[kind]]
            return make(*parts(this))
        return kind(dict(dict.items(this)) if issubclass(kind, dict) else kind.__iter__(this))

    def do_refill(self, this, name, value):
        refill(getattr(this, name), value)

    def do_wait(self, awaitable):
        import asyncio

        async def wait():
            return await awaitable

        if self.loop is None:
            self.loop = asyncio.new_event_loop()
        return self.loop.run_until_complete(wait())

    def do_subclass(self, name, bases, members, keywords):
        names = {each: unpacked_member(*member) for each, member in members.items()}
        made = types.new_class(name, bases, keywords, lambda own: own.update(names))
        return self.hold(made)

    def do_define(self, class_, name, member):
        setattr(class_, name, unpacked_member(*member))


def become(peer):
    """Let the mirrors of this process ask it."""
    global PEER
    PEER = peer
    return peer


def may_read(this, name):
    """Whether the program may read that attribute of an object of the tests."""
    if name in HARMLESS or (name == "__dict__" and type(this).__module__ == TESTS):
        return True
    if is_private(name):
        return False
    if isinstance(this, OPAQUE):
        return name in ("send", "throw", "close")
    return not isinstance(this, type) or this.__module__ == TESTS


def traceback_of(error):
    """The text of an exception's traceback, without our own frames."""
    if isinstance(error, SystemExit):
        return f"The program ended itself (SystemExit: {error}) before its tests ended.\n"
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def is_of_program(error):
    return "program_traceback" in vars(error)


# Mirrors ------------------------------------------------------------------------------------------


class Lent:
    """The tests' copy of a container that is an attribute of an object of the program."""

    def __init__(self, owner, name, value):
        self.owner, self.name, self.value = owner, name, value
        self.before = picture(value)

    def has_changed(self):
        return picture(self.value) != self.before

    def is_kept(self):
        return sys.getrefcount(self.value) > 2  # ours, and the one of this call

    def renew(self, value):
        if type(value) is type(self.value) and picture(value) != picture(self.value):
            refill(self.value, value)
        self.before = picture(self.value)


def picture(value):
    """Something that differs after a change of a container, or of those in it."""
    if type(value) in (dict, OrderedDict):
        return [(key, picture(each)) for key, each in value.items()]
    if type(value) in (list, deque):
        return [picture(each) for each in value]
    if type(value) is set:
        return set(value)
    return (type(value), value if type(value) in SCALARS or type(value) is int else id(value))


def refill(container, value):
    container.clear()
    (container.update if hasattr(container, "update") else container.extend)(value)


def signature_of(mirror):
    import inspect

    def stated(part):
        value, is_empty = part
        return inspect.Signature.empty if is_empty else value

    parts, returned = PEER.ask("signature", mirror)  # type: ignore
    parameters = [
        inspect.Parameter(
            name,
            list(inspect._ParameterKind)[kind],
            default=stated(default),
            annotation=stated(annotation),
        )
        for name, kind, default, annotation in parts
    ]
    return inspect.Signature(parameters, return_annotation=stated(returned))


class Mirrored(type):
    """The class of the mirrors of classes."""

    def __new__(mcs, name, bases, names, **keywords):
        if not any(
            type(base) is Mirrored and base not in (Mirror, MirroredError) for base in bases
        ):
            return type.__new__(mcs, name, bases, names)
        return PEER.subclass(mcs, name, bases, names, keywords)

    def __init__(cls, *_, **__):
        pass

    def __call__(cls, *arguments, **keywords):
        return PEER.call(cls, arguments, keywords)

    def __getattribute__(cls, name):
        if (is_private(name) and name != "__annotations__") or PEER.defines(cls, name):
            return type.__getattribute__(cls, name)
        return PEER.ask("get", cls, name)

    def __getattr__(cls, name):
        if name == "__signature__":
            return signature_of(cls)
        if name in NEVER_ASKED or name.startswith("__array"):
            raise AttributeError(name)
        return PEER.ask("get", cls, name)

    def __setattr__(cls, name, value):
        if cls in PEER.local:
            type.__setattr__(cls, name, value)
            PEER.ask("define", cls, name, packed_member(value))
        else:
            PEER.ask("set", cls, name, value)

    def __delattr__(cls, name):
        PEER.ask("delete", cls, name)

    def __iter__(cls):
        return PEER.ask("operate", "iter", cls)

    def __len__(cls):
        return PEER.ask("operate", "len", cls)

    def __bool__(cls):
        return True

    def __instancecheck__(cls, value):
        is_instance = type.__instancecheck__(cls, value)
        return is_instance or (is_mirror(value) and PEER.ask("operate", "isinstance", value, cls))

    def __subclasscheck__(cls, class_):
        is_subclass = type.__subclasscheck__(cls, class_)
        return is_subclass or (
            type(class_) is Mirrored and PEER.ask("operate", "issubclass", class_, cls)
        )

    def __contains__(cls, value):
        return PEER.ask("operate", "contains", cls, value)

    def __getitem__(cls, key):
        return PEER.ask("operate", "getitem", cls, key)


class Mirror(metaclass=Mirrored):
    """What mirrors of objects have besides the special methods of their classes."""

    def __getattribute__(self, name):
        kind = type(self)
        if name == "__class__":
            return stated_class(kind)
        if name in NEVER_ASKED or name.startswith("__array") or PEER.defines(kind, name):
            return object.__getattribute__(self, name)
        if name == "__signature__":
            return signature_of(self)
        return PEER.ask("get", self, name)

    def __setattr__(self, name, value):
        PEER.ask("set", self, name, value)

    def __delattr__(self, name):
        PEER.ask("delete", self, name)

    def __dir__(self):
        return PEER.ask("names", self)

    def __copy__(self):
        return PEER.ask("copy", self, False)

    def __deepcopy__(self, _):
        return PEER.ask("copy", self, True)

    def __reduce_ex__(self, _):
        raise TypeError(f"cannot pickle {type(self).__name__!r} objects of the other process")


class MirroredError(metaclass=Mirrored):
    """What mirrors of exceptions have: they are raised here, and so are exceptions of this side."""

    def __getattr__(self, name):
        if is_private(name):
            raise AttributeError(name)
        return PEER.ask("get", self, name)


class Handle:
    """Stands for an object of the other side."""

    def __init__(self, number):
        self.number = number


class ClassOf:
    """Stands for a class where it is wanted as the class of something, even if it is common."""

    def __init__(self, class_):
        self.class_ = class_


class Member:
    """A method or property of a mirrored class, for `super()` and for `Class.method(object)`."""

    def __init__(self, name, owner):
        self.name, self.owner = name, owner

    def __get__(self, this, _=None):
        if this is None:
            return PEER.ask("get", self.owner[0], self.name)
        return PEER.ask("member", self.owner[0], self.name, this)


def special_method(name, owner):
    if name == "__await__":
        return lambda this: wait_for(this).__await__()

    def method(this, /, *arguments, **keywords):
        return PEER.special(owner[0], name, this, arguments, keywords)

    def call(this, /, *arguments, **keywords):
        if type(this) in PEER.local:
            return method(this, *arguments, **keywords)
        return PEER.call(this, arguments, keywords)

    return call if name == "__call__" else method


async def wait_for(awaitable):
    return PEER.ask("wait", awaitable)


def mirror_of_object(peer, value, number, class_, data, label):
    class_ = value(class_)
    if type(class_) is not Mirrored:
        raise ValueError(f"{class_} is no mirror")
    base = next((base for base in IMMUTABLE if issubclass(class_, base)), None)
    if base is None:
        mirror = object.__new__(class_)
    else:
        mirror = base.__new__(class_, IMMUTABLE[base](value(data)))
    if isinstance(label, str):
        peer.labels[id(mirror)] = label
    return mirror


def mirror_of_error(peer, value, number, class_, arguments, state, cause, context, suppressed):
    class_ = value(class_)
    arguments = [value(argument) for argument in arguments]
    builtin = next(base for base in class_.__mro__ if is_builtin(base))
    if not issubclass(builtin, BaseException):
        raise ValueError("this is no exception")
    error = builtin.__new__(class_, *arguments)
    try:
        builtin.__init__(error, *arguments)
    except TypeError:
        error.args = tuple(arguments)
    for name, each in state:
        try:
            BaseException.__setattr__(error, name, value(each))
        except (AttributeError, TypeError):  # no such attribute here
            pass
    error.__cause__, error.__context__ = value(cause), value(context)
    error.__suppress_context__ = bool(suppressed)
    return error


def mirror_of_class(peer, value, number, texts, bases, special, disabled, members, library, fields):
    bases = [value(base) for base in bases]
    data = [peer.data.get(base, base) for base in bases]
    data = next((base for base in data if base in DATA_CLASSES and base not in IMMUTABLE), None)
    bases = [base for base in bases if base not in DATA_CLASSES or base in IMMUTABLE]
    is_error = any(issubclass(base, BaseException) for base in bases)
    special = {name for name in special if name in SPECIAL}
    if data is not None:
        special.update(name for base in data.__mro__[:-1] for name in vars(base) if name in SPECIAL)
    owner = []
    names: dict[str, object] = dict(zip(CLASS_TEXTS[1:], texts[1:]))
    names.update((name, Member(name, owner)) for name in members if name not in NEVER_ASKED)
    names.update((name, special_method(name, owner)) for name in special)
    names.update((name, None) for name in disabled if name in SPECIAL)
    if any(base in IMMUTABLE for base in bases):  # which have their own
        names.update((name, vars(Mirror)[name]) for name in vars(Mirror) if name in NEVER_ASKED)
    if fields:
        names["__dataclass_fields__"] = dataclass_fields(fields)
    real = getattr(sys.modules.get(library[0]), library[1], None) or UNNAMED.get(library[1])
    names["__mirrored_class__"] = (real, library == [texts[2], texts[1]])
    made = new_class(texts[0], bases, MirroredError if is_error else Mirror, names)
    if data is not None:
        peer.data[made] = dict if data is defaultdict else data
    owner.append(made)
    return made


def new_class(name, bases, root, names):
    if not any(type(base) is Mirrored for base in bases):
        bases = [*bases, root]
    try:
        return type.__new__(Mirrored, name, tuple(bases), names)
    except TypeError:  # without some bases, the others may have no consistent order
        return type.__new__(Mirrored, name, (root,), names)


MIRRORS = {
    "object": mirror_of_object,
    "error": mirror_of_error,
    "class": mirror_of_class,
    "coroutine": lambda peer, value, number: wait_for(Handle(number)),
}


def stated_class(kind):
    """What `__class__` says, which is what `isinstance` goes by besides the type itself.

    A mirror of a generator says that it is one, and a mirror of a list's subclass that it is a
    list; mirrors of other objects have the class that they have.
    """
    real, is_exact = type.__getattribute__(kind, "__mirrored_class__")
    if not isinstance(real, type) or real is object or kind in PEER.local:
        return kind
    if is_exact:
        return real
    try:
        return types.new_class(kind.__name__, (real,))
    except TypeError:  # it is final
        return kind


def dataclass_fields(names):
    import dataclasses

    return dataclasses.make_dataclass("Fields", names).__dataclass_fields__


def packed_member(value):
    """A member of a class, for the other side."""
    if isinstance(value, property):
        return ["property", value.fget, value.fset, value.fdel]
    if isinstance(value, (staticmethod, classmethod)):
        return [type(value).__name__, value.__func__]
    return ["function" if isinstance(value, types.FunctionType) else "value", value]


def unpacked_member(kind, value, *more):
    if kind == "value":
        return value
    if kind == "property":
        functions = (each and unpacked_member("function", each) for each in (value, *more))
        return property(*functions)  # type: ignore

    def method(*arguments, **keywords):
        return value(*arguments, **keywords)

    return method if kind == "function" else getattr(builtins, kind)(method)


def is_member(class_, name):
    value = vars(class_)[name]
    is_written = class_.__flags__ & HEAP_TYPE
    if not is_written or name in SPECIAL or (is_private(name) and name != "__init__"):
        return False
    return callable(value) or hasattr(type(value), "__get__")


def bound(owner, name, this):
    """The method that `super()` finds in `owner`."""
    value = next(vars(base)[name] for base in owner.__mro__ if name in vars(base))
    get = getattr(type(value), "__get__", None)
    return value if get is None else get(value, this, type(this))


def error_parts(error, node):
    state = {name: each for name, each in vars(error).items() if name != "program_traceback"}
    for name in ("name", "path", "filename"):
        if isinstance(getattr(error, name, None), str):
            state[name] = getattr(error, name)
    arguments = error.args
    if hasattr(builtins, "BaseExceptionGroup") and isinstance_of(error, BaseExceptionGroup):
        arguments = (error.message, error.exceptions)  # a tuple is there when they are needed
    return [
        [node(each) for each in arguments],
        [[name, node(each)] for name, each in state.items()],
        node(error.__cause__),
        node(error.__context__),
        error.__suppress_context__,
    ]


def plain_part(value):
    """Of an object whose class derives from int, str, ...: that part of it. Else None."""
    return next(
        (copy(value) for base, copy in IMMUTABLE.items() if isinstance_of(value, base)), None
    )


def isinstance_of(value, class_):
    return class_ in type(value).__mro__  # without asking the value for its __class__


def is_private(name):
    return name.startswith("__") and name.endswith("__")


def is_mirror(value):
    return type(value) is Mirrored or type(type(value)) is Mirrored


def is_builtin(value):
    return getattr(builtins, getattr(value, "__name__", ""), None) is value


def is_of_library(class_):
    module = class_.__module__
    return isinstance(module, str) and module.partition(".")[0] in LIBRARY


def is_library_exception(class_):
    if not issubclass(class_, BaseException):
        return False
    return is_builtin(class_) or (is_of_library(class_) and is_found_by_name(class_))


def is_found_by_name(class_):
    return getattr(sys.modules.get(class_.__module__), class_.__qualname__, None) is class_


def text_or_none(value):
    return value if isinstance(value, str) else None


class Repr(reprlib.Repr):
    """Of mirrors, no more than a name: the program's own words may be endless."""

    def repr1(self, value, level):
        if type(value) is Mirrored:
            return value.__name__
        if is_mirror(value):
            return PEER.labels.get(id(value), f"<{type(value).__name__}>")
        return super().repr1(value, level)

    def repr_int(self, value, level):
        bits = value.bit_length()  # Python refuses to print long ones, which takes long
        return repr(value) if bits < 1000 else f"<int of {bits} bits>"


MISSING = object()
PEER: "Peer"  # see become
REPR = Repr()
REPR.maxstring = REPR.maxother = 200
REPR.maxlist = REPR.maxtuple = REPR.maxset = REPR.maxfrozenset = REPR.maxdict = 20
STREAMS = ("stdout", "stderr")
BUILT, MIXED = "built", "mixed"
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
LIBRARY = getattr(sys, "stdlib_module_names", frozenset())
LOUD_MODULES = ("antigravity", "this", "idlelib", "test", "turtledemo")  # when imported
CLASS_TEXTS = ("__name__", "__qualname__", "__module__", "__doc__")
CLASS_OPERATIONS = {
    each.__name__: each
    for each in (iter, len, operator.contains, operator.getitem, isinstance, issubclass)
}
FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
UNNAMED = {each.__qualname__: each for each in vars(types).values() if isinstance(each, type)}


def private_names(text):
    return frozenset(f"__{name}__" for name in text.split())


OF_ANY_CLASS = private_names(
    "module qualname doc dict weakref annotations classcell slots mirrored_class firstlineno "
    "static_attributes parameters orig_bases annotate annotate_func annotations_cache"
)
COMPARISONS = private_names("eq ne lt le gt ge")
IN_PLACE = private_names("iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift") | (
    private_names("iand ixor ior")
)
OPERATORS = IN_PLACE | private_names(
    "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or "
    "radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand rxor ror"
)
DECISIONS = COMPARISONS | OPERATORS | private_names("contains")
CONVERSIONS = private_names("bool len abs int float complex index round trunc floor ceil")
SPECIAL = (
    DECISIONS
    | CONVERSIONS
    | private_names(
        "length_hint iter next reversed getitem setitem delitem missing call enter exit aenter "
        "aexit aiter anext await hash str repr format bytes fspath neg pos invert"
    )
)
NEVER_ASKED = private_names(
    "class getattribute setattr delattr dir copy deepcopy reduce_ex reduce getstate init_subclass "
    "subclasshook mirrored_class abstractmethods dataclass_fields del"
)
# Of the tests' objects: what tells a program how to call a function.
HARMLESS = private_names("name qualname doc code") | {
    *("co_flags", "co_argcount", "co_varnames", "co_kwonlyargcount", "co_posonlyargcount")
}
OPAQUE = (
    *FUNCTIONS,
    types.GeneratorType,
    types.CoroutineType,
    types.AsyncGeneratorType,
    types.FrameType,
    types.TracebackType,
    types.CodeType,
    types.ModuleType,
)


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
    "memoryview": (
        memoryview,
        lambda value: [value.tobytes().hex(), value.format],
        lambda text, format_: memoryview(bytes.fromhex(text)).cast(format_),
    ),
    "array": (
        array.array,
        lambda value: [value.typecode, tuple(value)],
        lambda typecode, values: array.array(typecode, values),
    ),
    "complex": (complex, lambda value: [value.real, value.imag], complex),
    "range": (range, lambda value: [value.start, value.stop, value.step], range),
    "slice": (slice, lambda value: [value.start, value.stop, value.step], slice),
    "ellipsis": (type(...), lambda value: [], lambda: ...),
    "NotImplemented": (type(NotImplemented), lambda value: [], lambda: NotImplemented),
    "dict_keys": (type({}.keys()), list, lambda *keys: dict.fromkeys(keys).keys()),
    "dict_values": (type({}.values()), list, lambda *values: dict(enumerate(values)).values()),
    "dict_items": (type({}.items()), list, lambda *items: dict(items).items()),
    "Decimal": (Decimal, lambda value: [str(value)], Decimal),
    "Fraction": (Fraction, lambda value: [value.numerator, value.denominator], Fraction),
    "SimpleNamespace": (
        types.SimpleNamespace,
        lambda value: [part for item in vars(value).items() for part in item],
        lambda *parts: types.SimpleNamespace(**dict(zip(parts[::2], parts[1::2]))),
    ),
    "datetime": (
        datetime.datetime,
        lambda value: [*value.timetuple()[:6], value.microsecond, value.tzinfo, value.fold],
        lambda *parts: datetime.datetime(*parts[:8], fold=parts[8]),
    ),
    "date": (datetime.date, lambda value: [value.isoformat()], datetime.date.fromisoformat),
    "time": (
        datetime.time,
        lambda value: [
            *(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, value.fold)
        ],
        lambda *parts: datetime.time(*parts[:5], fold=parts[5]),
    ),
    "timezone": (datetime.timezone, lambda value: [*value.__getinitargs__()], datetime.timezone),
    "timedelta": (
        datetime.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        datetime.timedelta,
    ),
}
TEXTS = {  # classes whose objects are made of their texts, with their modules
    "PosixPath": "pathlib",
    "PurePosixPath": "pathlib",
    "PureWindowsPath": "pathlib",
    "UUID": "uuid",
    "ZoneInfo": "zoneinfo",
    "IPv4Address": "ipaddress",
    "IPv6Address": "ipaddress",
}
KINDS = {
    **{container: kind for kind, container in CONTAINERS.items()},
    **{atom: kind for kind, (atom, _, _) in ATOMS.items()},
    defaultdict: "defaultdict",
}
IMMUTABLE = {  # base classes of objects that are data, too, with what makes that data
    int: int.__index__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: bytes(memoryview(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    complex: lambda value: complex(value.real, value.imag),
}
DATA_CLASSES = frozenset([*KINDS, *IMMUTABLE, bool, type(None)])
REFILLED = (list, dict, set, deque, OrderedDict)  # see Examiner.ask
DATA_CLASSES_BY_NAME = {(each.__module__, each.__qualname__): each for each in DATA_CLASSES}
MUTABLE = frozenset([*MAPPINGS, *SEQUENCES, "defaultdict", "bytearray", "array", "numpy"])
SCALARS = (str, float, bool, type(None))
NUMPY_DATA = re.compile(r"[<>|=][biufU]\d+")  # dtypes whose values are JSON


def pack(roots, described, objects=(), settled=()):
    """(nodes of the roots, table, the objects of its entries). The first entries are of `objects`,
    and null for those that are `settled`, by their numbers.

    `described(value, node)` gives the entry of what is not among the kinds here.
    """
    objects = list(objects)
    place = {id(each): i for i, each in enumerate(objects)}

    def node(value):
        kind = type(value)
        if kind in SCALARS or (kind is int and -(1 << 63) <= value < 1 << 63):
            return value
        if id(value) not in place:
            place[id(value)] = len(objects)
            objects.append(value)
        return [place[id(value)]]

    nodes = [node(root) for root in roots]
    table = []
    for each in objects:  # which grows
        entry = None if len(table) in settled else entry_of(each, node, described)
        table.append(entry)
    return nodes, table, objects


def entry_of(value, node, described):
    class_ = type(value)
    kind = KINDS.get(class_)
    if kind in MAPPINGS:
        return [kind, *(node(part) for item in value.items() for part in item)]
    if kind in CONTAINERS:
        return [kind, *map(node, value)]
    if kind in ATOMS:
        return [kind, *map(node, ATOMS[kind][1](value))]
    if kind == "defaultdict":
        return [kind, node(value.default_factory), *map(node, sum(value.items(), ()))]
    numpy = sys.modules.get("numpy")
    if class_ is getattr(numpy, "float64", None):
        return ["float", float(value)]
    scalar, array_ = getattr(numpy, "generic", None), getattr(numpy, "ndarray", None)
    is_numpy = numpy is not None and (class_ is array_ or scalar in class_.__mro__)
    if is_numpy and NUMPY_DATA.fullmatch(getattr(getattr(value, "dtype", None), "str", "")):
        return ["numpy", value.dtype.str, value.tolist()]
    name = class_.__name__
    if name in TEXTS and getattr(sys.modules.get(TEXTS[name]), name, None) is class_:
        return ["text", name, str(value)]
    return described(value, node)


class Unpacker:
    """Builds the objects of a table. The first ones may exist: these get new contents.

    `object_of(self, kind, ...)` makes what `described` gave the entry for. Raises whatever comes of
    a table that makes no sense.
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
            self.built[i] = self.made(*self.table[i])
        return self.built[i]

    def made(self, kind, *parts):
        if kind in FROZEN:
            return FROZEN[kind](map(self.value, parts))
        if kind in CONTAINERS:
            return CONTAINERS[kind]()
        if kind in ATOMS:
            return ATOMS[kind][2](*map(self.value, parts))
        if kind == "defaultdict":
            return defaultdict(self.value(parts[0]))
        if kind == "float":
            return float(*parts)
        if kind == "numpy":
            return numpy_data(*parts)
        if kind == "text":
            name, text = parts
            return getattr(__import__(TEXTS[name]), name)(text)
        return self.object_of(self, kind, *parts)

    def described_as(self, number):
        """The object that another entry of the table describes."""
        for i, entry in enumerate(self.table):
            if entry and entry[0] in MIRRORS and entry[1] == number:
                return self.value([i])
        raise ValueError(f"nothing says what the object {number} is")

    def fill(self, each, kind, *parts):
        if kind == "defaultdict":
            _, *parts = parts
        elif kind in ("bytearray", "array"):
            each[:] = self.made(kind, *parts)
        elif kind == "numpy" and type(each) is sys.modules["numpy"].ndarray:
            each[...] = numpy_data(*parts)
        if kind not in MAPPINGS and kind not in SEQUENCES and kind != "defaultdict":
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


def write_line(fd, value):
    data = memoryview(json.dumps(value).encode() + b"\n")
    while data:
        data = data[os.write(fd, data) :]
