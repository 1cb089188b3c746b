"""Every small mistake that could stand in a file of maths: its source again and again, with one thing changed.

An operator takes a node of the syntax tree and yields what could stand there by mistake.
"""

import ast
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.Is: (ast.IsNot,),
}
EXTREMES = {"min": "max", "max": "min", "maximum": "minimum", "minimum": "maximum"}
SYMMETRIC = EXTREMES.keys()  # exchanging their two arguments changes nothing
MODULES = {"torch", "F"}
MASKS = {"mask", "counted", "is_last"}
PROSE = {"annotation", "returns", "decorator_list"}  # no mistake of maths stands there

Operator = Callable[[ast.AST], Iterator[ast.AST]]


@dataclass(frozen=True)
class Mutant:
    """A source with one thing changed; `before` and `after` are the lines that differ, as `ast.unparse` writes them."""

    operator: str
    before: str
    after: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a module's functions, none twice."""
    tree = ast.parse(source)
    original = ast.unparse(tree)
    seen = {original}
    places = [place for part in tree.body if isinstance(part, ast.FunctionDef) for place in _places(part)]
    changes = ((node, put, name, x) for node, put in places for name in OPERATORS for x in OPERATORS[name](node))
    for node, put, name, replacement in changes:
        put(replacement)
        mutated = ast.unparse(tree)
        put(node)
        if mutated not in seen:
            seen.add(mutated)
            yield Mutant(name, *_difference(original, mutated), mutated)


def arithmetic(node: ast.AST) -> Iterator[ast.AST]:
    """Plus for minus, times for divided by, a union for an intersection."""
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)


def terms(node: ast.AST) -> Iterator[ast.AST]:
    """One side of an operation alone."""
    if isinstance(node, ast.BinOp):
        yield from (node.left, node.right)


def signs(node: ast.AST) -> Iterator[ast.AST]:
    """A minus, a `~` or a `not` forgotten."""
    if isinstance(node, ast.UnaryOp):
        yield node.operand


def comparisons(node: ast.AST) -> Iterator[ast.AST]:
    """The bound included, or the direction turned."""
    if isinstance(node, ast.Compare):
        for flipped in COMPARISONS.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [flipped()], node.comparators)


def extremes(node: ast.AST) -> Iterator[ast.AST]:
    """The minimum for the maximum."""
    match node:
        case ast.Name(name) if name in EXTREMES:
            yield ast.Name(EXTREMES[name])
        case ast.Attribute(value, name) if name in EXTREMES:
            yield ast.Attribute(value, EXTREMES[name])
        case ast.keyword(str(name), value) if name in EXTREMES:
            yield ast.keyword(EXTREMES[name], value)


def masks(node: ast.AST) -> Iterator[ast.AST]:
    """Everything counted; or what a mask chooses between, chosen for all or the other way round."""
    match node:
        case ast.Name(name, ast.Load()) if name in MASKS:
            yield ast.BinOp(node, ast.BitOr(), ast.Constant(value=True))
        case ast.Call(ast.Attribute(ast.Name("torch"), "where"), [chosen, one, other]):
            yield from (one, other, ast.Call(node.func, [chosen, other, one], []))


def branches(node: ast.AST) -> Iterator[ast.AST]:
    """One branch for all, or the two exchanged."""
    match node:
        case ast.IfExp(test, body, orelse):
            yield from (body, orelse, ast.IfExp(test, orelse, body))
        case ast.If(test, body, orelse):
            for always in (ast.Constant(value=True), ast.Constant(value=False), ast.UnaryOp(ast.Not(), test)):
                yield ast.If(always, body, orelse)


def constants(node: ast.AST) -> Iterator[ast.AST]:
    """A number that is a little off, its double or 0; True for False; a name misspelt."""
    match node:
        case ast.Constant(bool(value)):
            yield ast.Constant(value=not value)
        case ast.Constant(int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(float(value)):
            yield from (ast.Constant(x) for x in (2 * value, value / 2, 0.0, value + 1))
        case ast.Constant(str(value)):
            yield ast.Constant(f"{value}_")


def defaults(node: ast.AST) -> Iterator[ast.AST]:
    """Another of the strings that an option may be; 1 where nothing is given."""
    if not isinstance(node, ast.arguments):
        return
    for i, (argument, default) in enumerate(zip(node.kwonlyargs, node.kw_defaults, strict=True)):
        if isinstance(default, ast.Constant) and (default.value is None or isinstance(default.value, str)):
            allowed = [x.value for x in ast.walk(argument) if isinstance(x, ast.Constant) and isinstance(x.value, str)]
            for other in [x for x in allowed if x != default.value] if default.value else [1]:
                changed = [*node.kw_defaults[:i], ast.Constant(other), *node.kw_defaults[i + 1 :]]
                yield ast.arguments([], node.args, None, node.kwonlyargs, changed, None, node.defaults)


def indices(node: ast.AST) -> Iterator[ast.AST]:
    """One too early, one too few."""
    match node:
        case ast.Subscript(value, ast.Name() as index):
            yield ast.Subscript(value, ast.BinOp(index, ast.Sub(), ast.Constant(1)))
        case ast.Subscript(value, ast.Tuple(parts)):
            for i, part in enumerate(parts):
                if isinstance(part, ast.Name):
                    one_off: ast.expr = ast.BinOp(part, ast.Sub(), ast.Constant(1))
                elif isinstance(part, ast.Slice):
                    one_off = ast.Slice(ast.Constant(1))
                else:
                    continue
                yield ast.Subscript(value, ast.Tuple([*parts[:i], one_off, *parts[i + 1 :]]))
        case ast.Call(ast.Name("range") as name, [end]):
            yield ast.Call(name, [ast.BinOp(end, ast.Sub(), ast.Constant(1))], [])
            yield ast.Call(name, [ast.Constant(1), end], [])


def calls(node: ast.AST) -> Iterator[ast.AST]:
    """What goes into a function, for what comes out of it."""
    match node:
        case ast.Call(ast.Attribute(ast.Name(name)), [first, *_]) if name in MODULES:
            yield first
        case ast.Call(ast.Attribute(value)) if not (isinstance(value, ast.Name) and value.id in MODULES):
            yield value
        case ast.Call(ast.Name(), [first, *_]):
            yield first
        case ast.Attribute(value, "no_grad"):
            yield ast.Attribute(value, "enable_grad")


def arguments(node: ast.AST) -> Iterator[ast.AST]:
    """A keyword argument forgotten, or the first two arguments exchanged."""
    if not isinstance(node, ast.Call):
        return
    for i in range(len(node.keywords)):
        yield ast.Call(node.func, node.args, [*node.keywords[:i], *node.keywords[i + 1 :]])
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    if len(node.args) > 1 and name not in SYMMETRIC:
        yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """A line left out."""
    if isinstance(node, ast.Assign | ast.Raise | ast.Return):
        yield ast.Pass()


_ALL = [arithmetic, terms, signs, comparisons, extremes, masks, branches]
_ALL += [constants, defaults, indices, calls, arguments, statements]
OPERATORS: dict[str, Operator] = {operator.__name__: operator for operator in _ALL}


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, Callable[[ast.AST], None]]]:
    """The nodes below `node` with a way to put another in their place; no prose, and nothing inside an error."""
    for field, value in ast.iter_fields(node):
        if field in PROSE:
            continue
        if isinstance(value, ast.AST):
            yield from _below(value, partial(setattr, node, field))
        nodes = [(i, x) for i, x in enumerate(value) if isinstance(x, ast.AST)] if isinstance(value, list) else []
        for i, child in nodes:
            yield from _below(child, partial(value.__setitem__, i))


def _below(child: ast.AST, put: Callable[[ast.AST], None]) -> Iterator[tuple[ast.AST, Callable[[ast.AST], None]]]:
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return  # a docstring
    yield child, put
    if not isinstance(child, ast.Raise):
        yield from _places(child)


def _difference(original: str, mutated: str) -> tuple[str, str]:
    """The lines that were, and those that came for them."""
    lines = [x for x in difflib.ndiff(original.splitlines(), mutated.splitlines()) if x[0] in "-+"]
    before, after = ("\n".join(x[2:].strip() for x in lines if x[0] == mark) for mark in "-+")
    return before, after
