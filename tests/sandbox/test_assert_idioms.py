"""Idioms of tests that are code: the verdict is that of plain Python, where all is one process.

Each case is a program and tests; they pass or fail here as they do where `exec` runs both in one
namespace. The examiner is the same in all cages, so these run in one kind of them.
"""

# ruff: noqa: E501

import contextlib
import io
import sys
import types

import pytest

import sandbox
from sandbox.judge import AssertTest, judge

STACK = """
class Stack:
    def __init__(self, items=()):
        self.items = list(items)
    def push(self, item):
        self.items.append(item)
        return self
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]
    def __setitem__(self, i, value): self.items[i] = value
    def __delitem__(self, i): del self.items[i]
    def __contains__(self, item): return item in self.items
    def __iter__(self): return iter(self.items)
    def __reversed__(self): return reversed(self.items)
    def __repr__(self): return f"Stack({self.items})"
    def __bool__(self): return bool(self.items)
    def __call__(self, n): return self.items[n]
    def __eq__(self, other): return isinstance(other, Stack) and self.items == other.items
"""
VECTOR = """
import functools
@functools.total_ordering
class Vector:
    def __init__(self, x, y=0): self.x, self.y = x, y
    def __add__(self, o): return Vector(self.x + o.x, self.y + o.y)
    def __radd__(self, o): return self if o == 0 else NotImplemented
    def __sub__(self, o): return Vector(self.x - o, self.y)
    def __mul__(self, k):
        if isinstance(k, Vector): return self.x * k.x + self.y * k.y
        return Vector(self.x * k, self.y * k)
    __rmul__ = __mul__
    def __neg__(self): return Vector(-self.x, -self.y)
    def __abs__(self): return (self.x ** 2 + self.y ** 2) ** 0.5
    def __iadd__(self, o): self.x += o.x; return self
    def __eq__(self, o):
        if isinstance(o, Vector): return (self.x, self.y) == (o.x, o.y)
        return (self.x, self.y) == o
    def __lt__(self, o): return abs(self) < abs(o)
    def __hash__(self): return hash((self.x, self.y))
    def __str__(self): return f"<{self.x}, {self.y}>"
    def __format__(self, spec): return format(self.x, spec)
    def __float__(self): return float(self.x)
    def __int__(self): return int(self.x)
    def __index__(self): return int(self.x)
    def __round__(self, n=0): return round(self.x, n)
    def doubled(self): return self * 2
"""
ERRORS = """
class Low(ValueError):
    def __init__(self, n, limit=0):
        super().__init__(f"{n} < {limit}")
        self.n = n
class Lower(Low): pass
def check(n):
    if n < -9: raise Lower(n)
    if n < 0: raise Low(n, limit=0)
    if n == 0: raise KeyError("zero")
    return n
def chained():
    try:
        {}["k"]
    except KeyError as error:
        raise RuntimeError("outer", 2) from error
def group(): raise ExceptionGroup("g", [ValueError(1), TypeError("t")])
def read(): open("/nonesuch/file")
def parse(text):
    import json
    return json.loads(text)
"""
BASE = """
import abc
class Shape(abc.ABC):
    count = 0
    def __init__(self, name="shape"):
        self.name = name
        Shape.count += 1
    @abc.abstractmethod
    def area(self): ...
    def describe(self): return f"{self.name}: {self.area()}"
    @property
    def double(self): return 2 * self.area()
    @classmethod
    def made(cls, *a): return cls(*a)
    @staticmethod
    def unit(): return "m"
class Square(Shape):
    def __init__(self, side):
        super().__init__("square")
        self.side = side
    def area(self): return self.side ** 2
"""
DATA = """
import collections, dataclasses, enum, typing
@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0
    tags: list = dataclasses.field(default_factory=list)
@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int
class Color(enum.Enum):
    RED = 1
    BLUE = "b"
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2
class Bits(enum.Flag):
    A = 1
    B = 2
class Pair(typing.NamedTuple):
    a: int
    b: int = 2
Row = collections.namedtuple("Row", "id name")
class Numbers(list):
    def total(self): return sum(self)
class Table(dict):
    def __missing__(self, key): return key * 2
class Name(str):
    def shout(self): return self.upper() + "!"
class Money(int):
    def __add__(self, o): return Money(int(self) + int(o))
def make(kind, *a): return globals()[kind](*a)
"""
FUNCTIONS = """
import asyncio, contextlib, functools, itertools, math, re
def twice(f):
    @functools.wraps(f)
    def inner(*a, **k): return f(f(*a, **k))
    return inner
def apply(f, *a, **k): return f(*a, **k)
def gen(n):
    got = []
    try:
        for i in range(n):
            got.append((yield i))
    finally:
        got.append("end")
    return got
def counter():
    n = 0
    def step(by=1):
        nonlocal n
        n += by
        return n
    return step
@functools.lru_cache(maxsize=None)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
async def slow(x, pause=0):
    await asyncio.sleep(pause)
    if x < 0: raise ValueError(x)
    return x + 1
async def ticks(n):
    for i in range(n):
        yield i
class Ctx:
    async def __aenter__(self): return "in"
    async def __aexit__(self, *a): return False
    log = []
    def __enter__(self): self.log.append("in"); return self
    def __exit__(self, kind, error, trace): self.log.append(kind and kind.__name__); return kind is KeyError
@contextlib.contextmanager
def managed(x):
    yield x * 2
def kwargs(a, /, b, *rest, c=3, **more): "Adds."; return (a, b, rest, c, more)
def annotated(x: int, y: str = "a") -> bool: return True
def say(*a): print(*a)
def walk(node): return [] if node is None else walk(node.left) + [node.value] + walk(node.right)
def sort_by(items, key): items.sort(key=key); return items
def match(s): return re.match(r"(\\d+)-(?P<w>\\w+)", s)
def evens(): return (n for n in itertools.count() if n % 2 == 0)
total = 0
def add(n):
    global total
    total += n
"""
VALUES = """
import array, collections, datetime, decimal, fractions, ipaddress, pathlib, re, types, uuid, zoneinfo
def value(name): return eval(name)
"""

CASES = {
    STACK: """
s = Stack(); s.push(1).push(2); assert len(s) == 2 and s[0] == 1 and s[-1] == 2
s = Stack([1, 2]); s[0] = 5; del s[1]; assert list(s) == [5]
s = Stack([1]); assert 1 in s and 2 not in s and s and not Stack()
assert repr(Stack([1])) == "Stack([1])" and str([Stack()]) == "[Stack([])]"
assert list(reversed(Stack([1, 2]))) == [2, 1] and sorted(Stack([2, 1])) == [1, 2]
assert Stack([1]) == Stack([1]) and Stack([1]) != Stack([2])
assert Stack([1]) == [1]
assert Stack([7])(0) == 7 and [*Stack([1])] == [1]
a, b = Stack([1, 2]); assert (a, b) == (1, 2)
assert Stack([3, 4])[1:] == [4] and sum(Stack([3, 4])) == 7 and max(Stack([3, 4])) == 4
s = Stack(); assert s.push(1) is s and isinstance(s, Stack) and type(s) is Stack
assert Stack.__name__ == "Stack" and Stack().__class__ is Stack and hasattr(Stack, "push")
assert {1: Stack([1])}[1] == Stack([1]) and Stack([1]) in [Stack([1])]
hash(Stack())
Stack().pop()
Stack([1])[4]
s = Stack([1]); s.items.append(2); assert len(s) in (1, 2)
s = Stack(); s.extra = {"a": [1]}; assert s.extra == {"a": [1]} and vars(s)["items"] == []
s = Stack(); del s.items; assert not hasattr(s, "items")
import copy; s = Stack([[1]]); t = copy.deepcopy(s); t[0].append(2); assert s[0] == [1]
f = Stack.push; s = Stack(); f(s, 3); assert s[0] == 3
assert Stack([1, 2]).items is not None and len(Stack([1, 2]).items) == 3
""",
    VECTOR: """
assert (Vector(1, 2) + Vector(3, 4)).x == 4 and Vector(1, 2) + Vector(3, 4) == Vector(4, 6)
assert Vector(1, 2) * 2 == Vector(2, 4) and 3 * Vector(1) == Vector(3)
assert Vector(1, 2) * Vector(3, 4) == 11
assert sum([Vector(1), Vector(2)]) == Vector(3) and sum([Vector(1)]).x == 1
assert abs(Vector(3, 4)) == 5 and -Vector(1) == Vector(-1)
v = Vector(1); w = v; v += Vector(2); assert w.x == 3 and v is w
assert Vector(1, 2) == (1, 2) and (1, 2) == Vector(1, 2)
assert Vector(1, 2) != (1, 3) and not Vector(1) == 5
assert Vector(1) < Vector(2) <= Vector(2) and Vector(3) > Vector(2)
assert sorted([Vector(2), Vector(1)])[0].x == 1 and max(Vector(1), Vector(5)).x == 5
assert len({Vector(1), Vector(1), Vector(2)}) == 2 and {Vector(1): "a"}[Vector(1)] == "a"
assert str(Vector(1, 2)) == "<1, 2>" and f"{Vector(3):03d}" == "003"
assert float(Vector(2)) == 2.0 and int(Vector(2)) == 2 and [10, 20, 30][Vector(1)] == 20
assert round(Vector(1.26), 1) == 1.3
assert (Vector(5) - 2).x == 3 and Vector(5) - 2 == Vector(3)
assert Vector(2).doubled() * 2 == Vector(8) and (2 * Vector(2).doubled()).x == 8
Vector(1) + 1
Vector(1) < 3
assert Vector(1) + Vector(2) == Vector(4)
assert (Vector(1) + Vector(2)).z == 3
""",
    ERRORS: """
try: check(-1); assert False
except Low as e: assert e.n == -1 and str(e) == "-1 < 0" and e.args == ("-1 < 0",)
---
try: check(-10)
except Low as e: assert isinstance(e, Lower) and isinstance(e, ValueError) and type(e) is Lower
---
try: check(-10)
except Lower: pass
---
try: check(-1)
except Lower: pass
---
try: check(0)
except KeyError as e: assert e.args == ("zero",) and str(e) == "'zero'" and repr(e) == "KeyError('zero')"
---
try: chained()
except RuntimeError as e: assert e.args == ("outer", 2) and isinstance(e.__cause__, KeyError)
---
try: group()
except* ValueError as g: assert g.exceptions[0].args == (1,)
except* TypeError as g: assert str(g.exceptions[0]) == "t"
---
try: read()
except FileNotFoundError as e: assert e.errno == 2 and e.filename == "/nonesuch/file"
---
import json
try: parse("[")
except json.JSONDecodeError as e: assert e.pos == 1 and e.doc == "["
---
import unittest
class T(unittest.TestCase):
    def test(self):
        with self.assertRaises(Low) as caught: check(-2)
        self.assertEqual(caught.exception.n, -2)
        self.assertRaises(KeyError, check, 0)
        with self.assertRaisesRegex(ValueError, "-3 <"): check(-3)
r = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))
assert r.wasSuccessful()
---
assert issubclass(Lower, Low) and issubclass(Low, Exception) and Low.__mro__[1] is ValueError
---
try: raise Low(3, limit=4)
except ValueError as e: assert str(e) == "3 < 4"
---
assert isinstance(Low(1), Exception) and str(Low(1)) == "1 < 0"
---
check(-1)
---
try: check(-1)
except TypeError: pass
""",
    BASE: """
class Circle(Shape):
    def __init__(self, r):
        super().__init__("circle")
        self.r = r
    def area(self): return 3 * self.r ** 2
c = Circle(2)
assert c.describe() == "circle: 12" and c.double == 24 and isinstance(c, Shape) and c.r == 2
---
class Half(Square):
    def area(self): return super().area() / 2
assert Half(2).describe() == "square: 2.0" and issubclass(Half, Square)
---
class Odd(Square): pass
assert Odd(3).area() == 9 and Odd.made(2).side == 2
---
class Odd(Square):
    tag = "odd"
    @property
    def double(self): return -1
    def __len__(self): return self.side
o = Odd(3)
assert o.tag == "odd" and Odd.tag == "odd" and o.double == -1 and len(o) == 3
---
Shape()
---
try: Shape()
except TypeError: pass
else: assert False
---
assert Square(3).area() == 9 and Square.made(2).side == 2 and Square.unit() == "m"
---
n = Shape.count; Square(1); Square(2); assert Shape.count == n + 2
---
Shape.count = 10; Square(1); assert Square(1).count == 12
---
class Bad(Square):
    def area(self): return "no"
assert Bad(1).area() == 1
---
import inspect; assert inspect.isclass(Square) and not inspect.isfunction(Square) and Square.__doc__ is None
---
assert callable(Square) and [cls.__name__ for cls in Square.__mro__][:2] == ["Square", "Shape"]
---
assert isinstance(Square(1), (int, Shape)) and not isinstance(Square(1), (int, str))
""",
    DATA: """
assert Point(1) == Point(1, 0) and Point(1) != Point(2) and make("Point", 1) == Point(1)
assert repr(Point(1)) == "Point(x=1, y=0, tags=[])" and Point(1) < Point(2)
import dataclasses; assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 0, "tags": []}
import dataclasses; assert dataclasses.is_dataclass(Point) and [f.name for f in dataclasses.fields(Point)] == ["x", "y", "tags"]
import dataclasses; assert dataclasses.replace(Point(1), x=5).x == 5 and dataclasses.astuple(Frozen(1)) == (1,)
Frozen(1).x = 2
assert len({Frozen(1), Frozen(1)}) == 1
assert Color.RED.name == "RED" and Color.RED.value == 1 and Color("b") is Color.BLUE and Color["RED"] is Color.RED
assert list(Color) == [Color.RED, Color.BLUE] and len(Color) == 2 and Color.RED in Color and Color.RED != 1
import enum; assert isinstance(Color.RED, enum.Enum) and isinstance(Color.RED, Color) and str(Color.RED) == "Color.RED"
assert Level.LOW == 1 and Level.LOW < Level.HIGH and Level.LOW + 1 == 2 and Level(2) is Level.HIGH and [5, 6][Level.LOW] == 6
assert (Bits.A | Bits.B) & Bits.B == Bits.B and Bits.A in (Bits.A | Bits.B)
assert Pair(1) == (1, 2) and Pair(1).b == 2 and Pair(1)._replace(a=3) == Pair(3) and Pair(1)[0] == 1
a, b = Pair(1); assert (a, b) == (1, 2) and Pair(1)._asdict() == {"a": 1, "b": 2} and isinstance(Pair(1), tuple)
assert Row(1, "x").name == "x" and Row._fields == ("id", "name") and repr(Row(1, 2)) == "Row(id=1, name=2)"
n = Numbers([1, 2]); n.append(3); assert n.total() == 6 and n == [1, 2, 3] and len(n) == 3 and n[1:] == [2, 3]
assert isinstance(Numbers(), list) and make("Numbers", [1]) == [1] and [1] == Numbers([1]) and Numbers([1]) + [2] == [1, 2]
t = Table(a=1); t["b"] = 2; assert t == {"a": 1, "b": 2} and t["c"] == "cc" and sorted(t) == ["a", "b"] and "a" in t
assert Name("a") == "a" and Name("a").shout() == "A!" and Name("ab")[0] == "a" and "x" + Name("a") == "xa"
assert make("Money", 3) + Money(4) == 7 and isinstance(Money(1) + Money(1), Money) and Money(3) > 2
assert make("Numbers", [1]) == [2]
assert make("Color", 1) == Color.BLUE
---
match Point(1, 2):
    case Point(x=1, y=y): assert y == 2
    case _: assert False
---
import pprint; assert pprint.pformat(make("Pair", 1)) and make("Row", 1, 2) in [(1, 2)]
""",
    FUNCTIONS: """
assert twice(lambda x: x + 1)(0) == 2 and twice(str.upper)("a") == "A"
@twice
def inc(n): return n + 1
assert inc(1) == 3 and inc.__name__ == "inc"
---
assert apply(max, [1, 2], key=lambda n: -n) == 1 and apply(len, "ab") == 2 and apply(int, "5") == 5
g = gen(2); assert next(g) == 0 and g.send("a") == 1
try: g.send("b")
except StopIteration as e: assert e.value == ["a", "b", "end"]
---
g = gen(3); next(g); g.close(); assert list(g) == []
try:
    g = gen(1); next(g); g.throw(KeyError("x"))
except KeyError as e: assert e.args == ("x",)
---
import types; assert isinstance(gen(1), types.GeneratorType) and not isinstance(gen(1), list)
c = counter(); assert (c(), c(2), c(by=3)) == (1, 3, 6) and counter()() == 1
assert fib(30) == 832040 and fib.cache_info().misses == 31 and fib.__wrapped__(1) == 1
import asyncio; assert asyncio.run(slow(1)) == 2
import asyncio
async def main():
    assert await slow(1) == 2 and await asyncio.gather(slow(1), slow(2, 0.01)) == [2, 3]
    assert [i async for i in ticks(3)] == [0, 1, 2]
    async with Ctx() as c: assert c == "in"
    try: await slow(-1)
    except ValueError as e: assert e.args == (-1,)
    return "done"
assert asyncio.run(main()) == "done"
---
import asyncio; asyncio.run(slow(-1))
with Ctx() as c: pass
assert c.log == ["in", None]
---
with Ctx(): {}["k"]
assert Ctx.log == ["in", "KeyError"]
---
with managed(2) as m: assert m == 4
assert kwargs(1, 2, 5, c=4, d=6) == (1, 2, (5,), 4, {"d": 6}) and kwargs.__doc__ == "Adds."
import inspect; assert str(inspect.signature(kwargs)) == "(a, /, b, *rest, c=3, **more)"
import inspect; assert inspect.isgeneratorfunction(gen) and inspect.iscoroutinefunction(slow) and inspect.isfunction(apply)
import typing; assert annotated.__annotations__ == {"x": int, "y": str, "return": bool} and annotated.__defaults__ == ("a",)
import io, contextlib; b = io.StringIO()
with contextlib.redirect_stdout(b):
    say("a", 1); print("mine")
assert b.getvalue() == "a 1\\nmine\\n"
---
import io, sys; old, sys.stdout = sys.stdout, io.StringIO(); say("x"); text = sys.stdout.getvalue(); sys.stdout = old
assert text == "x\\n"
---
class Node:
    def __init__(self, value, left=None, right=None): self.value, self.left, self.right = value, left, right
    def __eq__(self, o): return self.value == o.value
tree = Node(2, Node(1), Node(3))
assert walk(tree) == [1, 2, 3] and walk(None) == []
---
xs = ["bb", "a"]; assert sort_by(xs, len) is xs and xs == ["a", "bb"] and sort_by(xs, key=lambda s: -len(s)) == ["bb", "a"]
def fails(x): raise LookupError("mine")
try: apply(fails, 1)
except LookupError as e: assert e.args == ("mine",)
---
def fails(x): assert x == 2
apply(fails, 1)
---
assert match("12-ab").group("w") == "ab" and match("12-ab")[1] == "12" and match("x") is None and match("1-a").groups() == ("1", "a")
import itertools; assert list(itertools.islice(evens(), 3)) == [0, 2, 4]
assert total == 0; add(3); assert total == 3
import functools; assert functools.partial(apply, len)("abc") == 3 and list(map(fib, [1, 2])) == [1, 1]
import threading; r = []; t = threading.Thread(target=lambda: r.append(fib(10))); t.start(); t.join(); assert r == [55]
import random; random.seed(5); a = apply(random.random); random.seed(5); assert apply(random.random) == a
assert apply(lambda *a: list(a), 1, [2]) == [1, [2]]
out = []; apply(out.append, 4); assert out == [4]
assert callable(apply) and not callable(total) and apply.__module__ != "" and apply is apply
assert fib(10) == 54
""",
    VALUES: """
import pathlib; assert value("pathlib.Path('a') / 'b'") == pathlib.Path("a/b")
import uuid; assert value("uuid.UUID(int=7)") == uuid.UUID(int=7)
import datetime; assert value("datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)").tzinfo is datetime.timezone.utc
import datetime; assert value("datetime.time(1, 2, fold=1)") == datetime.time(1, 2)
import datetime; assert value("datetime.datetime(2024, 1, 1, 5)") - datetime.datetime(2024, 1, 1) == datetime.timedelta(hours=5)
import zoneinfo, datetime; assert value("datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo('UTC'))").utcoffset() == datetime.timedelta(0)
import decimal, fractions; assert value("decimal.Decimal('1.10')") == decimal.Decimal("1.1") and value("fractions.Fraction(1, 3)") * 3 == 1
assert value("slice(1, 2)") == slice(1, 2) and value("...") is ... and value("NotImplemented") is NotImplemented
assert value("{'a': 1}.keys()") == {"a"} and list(value("{'a': 1}.items()")) == [("a", 1)] and 1 in value("{'a': 1}.values()")
assert value("memoryview(b'ab')") == b"ab" and value("array.array('i', [1])")[0] == 1 and value("bytearray(b'x')") == b"x"
assert value("collections.defaultdict(list, {1: [2]})")[9] == [] and value("collections.defaultdict(lambda: 5)")[0] == 5
assert value("collections.deque([1], 3)") == __import__("collections").deque([1]) and value("collections.Counter('aa')")["b"] == 0
assert value("collections.ChainMap({'a': 1})")["a"] == 1 and value("types.SimpleNamespace(a=1)").a == 1
import types; assert value("types.SimpleNamespace(a=1)") == types.SimpleNamespace(a=1)
assert list(value("map(str, [1])")) == ["1"] and list(value("zip('ab', [1, 2])")) == [("a", 1), ("b", 2)] and next(value("iter([4])")) == 4
assert value("int") is int and value("type(1.5)") is float and value("type(None)") is type(None) and value("Exception") is Exception
assert value("ipaddress.ip_address('10.0.0.1')").is_private and value("ValueError('x')").args == ("x",)
assert value("re.compile('a+')").match("aa").end() == 2 and value("range(3)")[1] == 1 and value("(1, [2, {3}])") == (1, [2, {3}])
assert value("frozenset({1}) | {2}") == {1, 2} and value("3 + 4j").imag == 4 and value("10 ** 30") == 10 ** 30
assert value("float('nan')") != value("float('nan')") and value("-0.0") == 0 and value("b'a'")[0] == 97
assert value("object()") != value("object()") and value("print") is not None and value("len")("ab") == 2
assert value("pathlib.Path('a')") == pathlib.Path("b")
assert value("{1: 'a'}") == {"1": "a"}
assert value("1") is True
""",
}

PAIRS = [  # a program, its tests
    (
        "def f(xs):\n    xs.append(1)\nclass Q:\n    def __init__(self): self.q=[]\n    def put(self,x): self.q.append(x)\n    def get(self): return self.q.pop(0)",
        "q=Q(); l=[1]; q.put(l); assert q.get() == [1]",
    ),
    (
        "class Q:\n    def __init__(self): self.q=[]\n    def put(self,x): self.q.append(x)\n    def get(self): return self.q.pop(0)",
        "q=Q(); o=object(); q.put(o); assert q.get() is o",
    ),
    (
        "def memo(f):\n    c={}\n    def g(*a):\n        if a not in c: c[a]=f(*a)\n        return c[a]\n    return g",
        "calls=[]\n@memo\ndef h(x): calls.append(x); return x*2\nassert h(2)==4 and h(2)==4 and calls==[2]",
    ),
    (
        "def retry(n):\n    def d(f):\n        def g(*a,**k):\n            for i in range(n):\n                try: return f(*a,**k)\n                except ValueError: pass\n            raise RuntimeError('no')\n        return g\n    return d",
        "n=0\n@retry(3)\ndef h():\n    global n\n    n+=1\n    if n<3: raise ValueError\n    return n\nassert h()==3",
    ),
    (
        "class Node:\n    def __init__(self,v): self.v=v; self.next=None\nclass LL:\n    def __init__(self): self.head=None\n    def add(self,v):\n        n=Node(v); n.next=self.head; self.head=n\n    def __iter__(self):\n        n=self.head\n        while n: yield n.v; n=n.next",
        "l=LL(); l.add(1); l.add(2); assert list(l)==[2,1] and l.head.next.next is None\nl.head.next=None\nassert [x for x in l]==[2]",
    ),
    (
        "import threading\nclass C:\n    def __init__(self): self.n=0; self.l=threading.Lock()\n    def inc(self):\n        with self.l: self.n+=1",
        "import threading\nc=C()\nts=[threading.Thread(target=lambda:[c.inc() for _ in range(20)]) for _ in range(4)]\n[t.start() for t in ts]; [t.join() for t in ts]\nassert c.n==80",
    ),
    (
        "from concurrent.futures import ThreadPoolExecutor\ndef pmap(f,xs):\n    with ThreadPoolExecutor(4) as e: return list(e.map(f,xs))",
        "assert pmap(lambda x:x*x,range(10))==[x*x for x in range(10)]",
    ),
    (
        "class P:\n    __slots__=('x',)\n    def __init__(self): self.x=1",
        "p=P()\ntry:\n    p.y=1\n    assert False\nexcept AttributeError: pass\nassert p.x==1",
    ),
    (
        "class T:\n    def __init__(self): self._c=0\n    @property\n    def c(self): return self._c\n    @c.setter\n    def c(self,v):\n        if v<0: raise ValueError('neg')\n        self._c=v",
        "t=T(); t.c=5; assert t.c==5\ntry: t.c=-1\nexcept ValueError as e: assert 'neg' in str(e)\nelse: assert False",
    ),
    (
        "class M(type):\n    def __call__(c,*a): \n        o=super().__call__(*a); o.tag=1; return o\nclass A(metaclass=M): pass",
        "assert A().tag==1 and isinstance(A(),A)",
    ),
    (
        "class A:\n    def __init_subclass__(cls,**k): cls.reg=k.get('n',0)",
        "class B(A,n=3): pass\nassert B.reg==3",
    ),
    ("class A:\n    def __getattr__(self,n): return n.upper()", "a=A(); assert a.foo=='FOO'"),
    ("class A:\n    def __eq__(self,o): return isinstance(o,int)", "assert A()==3"),
    (
        "class Temp:\n    def __init__(self,c): self.c=c\n    def __eq__(self,o): return self.c==o.c\n    def __lt__(self,o): return self.c<o.c",
        "import bisect\nl=[Temp(1),Temp(3)]; bisect.insort(l,Temp(2)); assert [t.c for t in l]==[1,2,3]\nimport heapq\nh=[]\nfor c in (3,1,2): heapq.heappush(h,Temp(c))\nassert heapq.heappop(h).c==1",
    ),
    ("import sys\ndef f(): sys.exit(3)", "try: f()\nexcept SystemExit as e: assert e.code==3"),
    ("def f(): raise KeyboardInterrupt", "try: f()\nexcept KeyboardInterrupt: pass"),
    ("def f(n): return f(n+1)", "try: f(0)\nexcept RecursionError: pass"),
    (
        "def f(): return float('inf'), -0.0, 1e400",
        "import math\nassert f()[0]==math.inf and math.copysign(1,f()[1])==-1",
    ),
    (
        "from typing import List\ndef f(x: List[int]) -> List[int]: return x",
        "assert f([1])==[1]\nimport typing\nassert typing.get_type_hints(f)['x'].__args__[0] is int",
    ),
    (
        "def f(): return {(1,2):[3], frozenset([1]):{1}}",
        "assert f()=={(1,2):[3], frozenset([1]):{1}}",
    ),
    (
        "def outer():\n    class Inner:\n        x=1\n    return Inner",
        "I=outer(); assert I.x==1 and I().x==1",
    ),
    ("class A:\n    class B:\n        v=2", "assert A.B.v==2 and A.B().v==2"),
    (
        "class A:\n    def m(self): return 1",
        "import types\na=A(); assert isinstance(a.m, types.MethodType) and a.m()==1 and a.m.__self__ is a and A.m(a)==1",
    ),
    ("class A:\n    x=1", "a=A(); b=A(); A.x=2; assert a.x==2 and b.x==2; a.x=3; assert b.x==2"),
    (
        "class Acc:\n    def __init__(self,b): self.b=b\n    def __enter__(self): return self\n    def __exit__(self,*a): self.b=0",
        "with Acc(3) as a: assert a.b==3\nassert a.b==0",
    ),
    (
        "class It:\n    def __init__(self,n): self.n=n\n    def __iter__(self): return self\n    def __next__(self):\n        if self.n<=0: raise StopIteration\n        self.n-=1; return self.n",
        "assert list(It(3))==[2,1,0] and sum(It(4))==6 and dict(zip('ab',It(2)))=={'a':1,'b':0}",
    ),
    ("def f(*, a, **k): return a", "try: f(1)\nexcept TypeError: pass\nassert f(a=2)==2"),
    (
        "class A:\n    def __str__(self): return 'A!'",
        "assert str(A())=='A!' and f'{A()}'=='A!' and '%s'%A()=='A!' and 'x{}'.format(A())=='xA!' and ''.join(map(str,[A()]))=='A!'",
    ),
    (
        "class A:\n    def __bytes__(self): return b'q'\n    def __fspath__(self): return '/x'",
        "import os\nassert bytes(A())==b'q' and os.fspath(A())=='/x'",
    ),
    (
        "class Mat:\n    def __init__(s,r): s.r=r\n    def __matmul__(s,o): return Mat([[sum(a*b for a,b in zip(x,y)) for y in zip(*o.r)] for x in s.r])\n    def __getitem__(s,ij): i,j=ij; return s.r[i][j]\n    def __pow__(s,n): return s if n==1 else s@(s**(n-1))",
        "m=Mat([[1,1],[1,0]]); assert (m@m)[0,0]==2 and (m**5)[0,1]==5",
    ),
    (
        "from functools import singledispatch\n@singledispatch\ndef f(x): return 'o'\n@f.register\ndef _(x:int): return 'i'",
        "assert f(1)=='i' and f('a')=='o'\n@f.register(list)\ndef g(x): return 'l'\nassert f([])=='l'",
    ),
    (
        "from contextlib import ExitStack, suppress\ndef f(cb):\n    with ExitStack() as s:\n        s.callback(cb); return 1",
        "r=[]; assert f(lambda:r.append(1))==1 and r==[1]",
    ),
    (
        "import json\ndef dump(o): return json.dumps(o)\n",
        "assert dump({'a':[1,None]})=='{\"a\": [1, null]}'",
    ),
    (
        "class E(Exception):\n    code=5\n    def __init__(self,a,b): self.a=a; self.b=b\n    def __str__(self): return f'{self.a}-{self.b}'\ndef f(): raise E(1,[2])",
        "try: f()\nexcept E as e: assert str(e)=='1-[2]' and e.code==5 and e.b==[2] and e.args==(1,[2])",
    ),
    (
        "def f(cb):\n    try: cb()\n    except ZeroDivisionError as e: return str(e)",
        "assert f(lambda: 1/0)=='division by zero'",
    ),
    (
        "class MyErr(Exception): pass\ndef f(cb):\n    try: cb()\n    except MyErr: return 'mine'",
        "def cb(): raise MyErr('x')\nassert f(cb)=='mine'",
    ),
    ("def f(cls): return cls(3).v", "class K:\n    def __init__(self,v): self.v=v\nassert f(K)==3"),
    (
        "def f(o): return sorted(o, key=lambda n:n.v)[0].v",
        "class K:\n    def __init__(self,v): self.v=v\nassert f([K(3),K(1)])==1",
    ),
    (
        "def f(o): return max(o).v, len({*o}), str(o[0]), o[0]==o[1], isinstance(o[0],type(o[1]))",
        "class K:\n    def __init__(self,v): self.v=v\n    def __lt__(self,x): return self.v<x.v\n    def __gt__(self,x): return self.v>x.v\n    def __str__(self): return 's'\nassert f([K(3),K(1)])==(3,2,'s',False,True)",
    ),
    (
        "import copy\ndef f(n): m=copy.deepcopy(n); m.v=9; return m",
        "class K:\n    def __init__(self,v): self.v=v\nk=K(1); m=f(k); assert k.v==1 and m.v==9 and isinstance(m,K)",
    ),
    (
        "import dataclasses\ndef f(p): return dataclasses.replace(p,x=5), dataclasses.asdict(p)",
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x:int=1\nassert f(P())==(P(5),{'x':1})",
    ),
    (
        "from enum import Enum\ndef f(c): return c.name, c.value, c is type(c).R",
        "from enum import Enum\nclass C(Enum):\n    R=1\nassert f(C.R)==('R',1,True)",
    ),
    (
        "def f(p): return p.x + p[1], len(p)",
        "from collections import namedtuple\nP=namedtuple('P','x y')\nassert f(P(1,2))==(3,2)",
    ),
    (
        "def f(it): return [x for x in it]",
        "assert f(iter([1,2]))==[1,2] and f(x for x in 'ab')==['a','b'] and f(map(str,[1]))==['1'] and f({'a':1}.items())==[('a',1)]",
    ),
    (
        "def f(fh): return fh.read().upper()",
        "import io\nassert f(io.StringIO('ab'))=='AB'\nwith open('t.txt','w') as h: h.write('x')\nassert f(open('t.txt'))=='X'",
    ),
    ("def f(m): return m.sqrt(4)", "import math\nassert f(math)==2"),
    (
        "class A:\n    def __hash__(self): return 1\n    def __eq__(self,o): return True",
        "assert {A():1}[A()]==1 and A() in {A()}",
    ),
    (
        "class Money:\n    def __init__(s,a): s.a=a\n    def __sub__(s,o): return Money(s.a-(o.a if isinstance(o,Money) else o))\n    def __eq__(s,o): return s.a==(o.a if isinstance(o,Money) else o)\nclass W:\n    def total(self): return Money(7)",
        "assert W().total()-2==Money(5)",
    ),
    (
        "class W:\n    def __init__(s): s.l=[]\n    def __len__(s): return len(s.l)\n    def __iadd__(s,x): s.l.append(x); return s",
        "w=W(); w+=3; w+=4; assert len(w)==2 and w.l==[3,4]",
    ),
    (
        "import abc\nclass S(abc.ABC):\n    @abc.abstractmethod\n    def a(self): ...",
        "class T(S): pass\ntry: T()\nexcept TypeError: pass\nelse: assert False",
    ),
    (
        "from typing import Protocol, runtime_checkable, Generic, TypeVar\n@runtime_checkable\nclass P(Protocol):\n    def go(self): ...\nclass A:\n    def go(self): return 1",
        "assert isinstance(A(), P)",
    ),
    (
        "from typing import Generic, TypeVar\nT=TypeVar('T')\nclass Box(Generic[T]):\n    def __init__(s,v): s.v=v",
        "assert Box[int](3).v==3 and Box(2).v==2",
    ),
    (
        "class A:\n    def f(self): return 1\nclass B(A):\n    def f(self): return super().f()+1",
        "class C(B):\n    def f(self): return super().f()+1\nassert C().f()==3",
    ),
    (
        "class V:\n    def __init__(self,*c): self.c=c\n    def __iter__(self): return iter(self.c)\n    def __eq__(self,o): return tuple(self)==tuple(o)",
        "assert V(1,2)==V(1,2) and V(1,2)==(1,2) and [1,2]==list(V(1,2))",
    ),
    ("def f(): return (i for i in range(3))", "g=f(); assert 1 in g and list(g)==[2]"),
    ("def f(d): return d['k']()", "assert f({'k':lambda:3})==3"),
    ("def f(): return lambda x: x+1, [lambda: 2]", "a,b=f(); assert a(1)==2 and b[0]()==2"),
    ("x = [1]\ndef f(): return x", "f().append(2); assert f() == [1] or f() == [1, 2]"),
    (
        "import time\ndef f(): time.sleep(0.05); return 1",
        "import time\nt=time.time(); f(); assert time.time()-t>=0.04",
    ),
    ("def f(s): return s.encode('utf-16'), s[::-1]", "assert f('é😀\\ud800'[:2])[1]=='😀é'"),
    ("class A: pass", "import weakref\na=A(); r=weakref.ref(a); assert r() is a"),
    (
        "def f(a,b=1): pass",
        "import inspect\nassert inspect.signature(f).parameters['b'].default==1 and inspect.getfullargspec(f).args==['a','b']",
    ),
    ("class A:\n    n: int = 3", "assert A.__annotations__=={'n':int} and A().n==3"),
    ("def f(): return type('X',(),{'a':1})()", "assert f().a==1 and type(f()).__name__=='X'"),
    (
        "import collections\nclass L(collections.UserList): pass\nclass D(collections.OrderedDict): pass",
        "assert L([1,2])[0]==1 and len(L([1]))==1 and L([1])==[1] and list(D(a=1))==['a'] and D(a=1)=={'a':1}",
    ),
    (
        "import datetime\nclass Day(datetime.date): pass\ndef f(): return Day(2024,1,1)",
        "import datetime\nassert f()==datetime.date(2024,1,1) and f().year==2024 and f()<datetime.date(2025,1,1)",
    ),
    ("def f(x): return x is None, x == [], x", "assert f(None)==(True,False,None)"),
    (
        "class S(set):\n    def both(self,o): return self & o",
        "assert S({1,2}).both({2})=={2} and S({1})=={1} and S({1})|{2}=={1,2} and 1 in S({1})",
    ),
    (
        "def f(): print('a', end=''); return 1",
        "import io\nfrom contextlib import redirect_stdout\nout=io.StringIO()\nwith redirect_stdout(out): r=f()\nassert (r,out.getvalue())==(1,'a')",
    ),
    (
        "class Logger:\n    def __init__(self): self.lines=[]\n    def log(self,m): self.lines.append(m)",
        "l=Logger(); l.log('x'); assert l.lines==['x'] and len(l.lines)==1; l.lines.clear(); assert l.lines==[]",
    ),
]


def cases():
    """Sections between `---` are cases; where each line is code by itself, each line is one."""
    for code, text in CASES.items():
        for section in text.strip("\n").split("\n---\n"):
            lines = section.split("\n")
            yield from ((code, each) for each in (lines if all(map(is_code, lines)) else [section]))
    yield from PAIRS


def is_code(line):
    try:
        compile(line, "line", "exec")
    except SyntaxError:
        return False
    return True


def passes_in_one_process(code, tests):
    names = {"__name__": "solution"}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            sys.modules["solution"] = module = types.ModuleType("solution")
            module.__dict__.update(names)
            exec(code, module.__dict__)
            exec(tests, module.__dict__)
        except Exception:
            return False
        finally:
            del sys.modules["solution"]
    return True


@pytest.fixture(scope="module")
def one_box():
    with sandbox.make("local", cages=1) as box:
        yield box


@pytest.mark.parametrize(
    ("code", "tests"), [pytest.param(*case, id=case[1][:70]) for case in cases()]
)
def test_the_verdict_is_that_of_one_process(one_box, code, tests, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write a file
    test = AssertTest(tests)
    result = judge(one_box, code, [test]).results[0]
    told = f"{test.failure(result.execution)}\n{result.execution.stderr}"
    assert (result.outcome == "passed") is passes_in_one_process(code, tests), told
