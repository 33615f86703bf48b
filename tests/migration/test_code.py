"""The Python that is written: it means what was defined, and is laid out as ruff would."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from bedplate.migration.code import Variables, layout, python_file, text_literal
from bedplate.migration.definitions import (
    Call,
    ContextDefinition,
    Definitions,
    EntityDefinition,
    Expression,
    FeatureList,
    SourceDefinition,
    Symbol,
    ViewDefinition,
    call,
)

texts = st.text(max_size=12) | st.sampled_from(
    ["price", "a 'b'", 'a "b"', "back\\slash", "new\nline", "é" * 30, "'" * 3]
)
names = st.sampled_from(["Last", "Sum", "a_longer_name_of_a_function", "x"])


def calls(inside: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    arguments = st.lists(st.tuples(st.just(""), inside), max_size=3)
    return st.builds(Call, names, arguments.map(tuple))


expressions: st.SearchStrategy[Expression] = st.recursive(
    texts | names.map(Symbol),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(texts, inside, max_size=4) | calls(inside),
    max_leaves=12,
)


def meaning(node: ast.expr) -> Expression:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return Symbol(name)
        case ast.List(elts=elements):
            return [meaning(e) for e in elements]
        case ast.Dict(keys=keys, values=values):
            return {str(ast.literal_eval(k)): meaning(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return Call(name, tuple(("", meaning(a)) for a in arguments))
        case _:
            raise AssertionError(ast.dump(node))


@given(expressions)
@example(["x" * 90])
@example({'"': Symbol("x"), "\\": "'"})
def test_code_means_what_it_was_made_of(expression: Expression) -> None:
    statement = ast.parse(layout("x = ", expression)).body[0]
    assert isinstance(statement, ast.Assign)
    assert meaning(statement.value) == expression


@given(st.text())
@example("\\'")
@example("\\\\'\"")
def test_a_text_is_read_back_as_it_was(text: str) -> None:
    assert ast.literal_eval(text_literal(text)) == text


@given(st.lists(st.text(max_size=4) | st.sampled_from(["class", "Entity", "a b", "a_b", "1"])))
def test_variables_are_python_s_and_differ(wanted: list[str]) -> None:
    variables = Variables(["Entity"])
    made = [variables.new(name) for name in wanted]
    assert len(set(made)) == len(made)
    assert "Entity" not in made
    assert all(name.isidentifier() for name in made)
    ast.parse("".join(f"{name} = 1\n" for name in made))


@st.composite
def definitions(draw: DrawFn) -> Definitions:
    """A project: the names are awkward, the numbers of things anything from none."""
    wide = st.sampled_from(["a", "user", "a_name_that_is_rather_long_for_a_variable_of_a_program"])
    variables = Variables()
    comments = st.lists(st.sampled_from(["Short.", "word " * 40, "two\nlines"]), max_size=2).map(tuple)
    made = Definitions()
    for _ in range(draw(st.integers(0, 2))):
        made.entities.append(EntityDefinition(variables.new(draw(wide)), draw(wide), draw(texts), draw(comments)))
    for _ in range(draw(st.integers(0, 3))):
        rename = draw(st.dictionaries(wide, wide, max_size=3))
        sequence = draw(st.none() | wide)
        name = variables.new(draw(wide))
        made.sources.append(
            SourceDefinition(name, draw(texts), draw(texts), draw(texts), rename, sequence, draw(comments))
        )
    for _ in range(draw(st.integers(0, 3)) if made.sources and made.entities else 0):
        features = draw(st.dictionaries(texts, st.builds(call, st.sampled_from(["Last", "Max"]), texts), max_size=4))
        entities = tuple(e.variable for e in made.entities)
        ttl = draw(st.sampled_from([None, "1d"]))
        source = made.sources[0].variable
        made.views.append(
            ViewDefinition(variables.new(draw(wide)), draw(texts), entities, source, features, ttl, draw(comments))
        )
    for _ in range(draw(st.integers(0, 1))):
        kind = draw(st.sampled_from([Symbol("int"), "timestamp"]))
        made.contexts.append(ContextDefinition(variables.new(draw(wide)), draw(wide), kind, draw(comments)))
    for _ in range(draw(st.integers(0, 2))):
        listed = tuple(draw(st.lists(texts, max_size=4)))
        made.lists.append(FeatureList(variables.new(draw(wide)).upper(), listed, draw(comments)))
    return made


def test_files_are_laid_out_as_ruff_would(tmp_path: Path) -> None:
    """Many projects in one go of ruff, which takes longer to start than to format."""
    written: list[Definitions] = []

    @given(definitions())
    def write(made: Definitions) -> None:
        (tmp_path / f"project_{len(written)}.py").write_text(python_file("A project.\n\nSaid more of.", made))
        written.append(made)

    write()
    assert any(s.rename and s.sequence for made in written for s in made.sources)
    assert any(len(made.views) > 1 for made in written)
    assert any(not made.entities and made.lists for made in written)
    command = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", "--no-cache", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
