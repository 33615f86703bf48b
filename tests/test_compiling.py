"""What is compiled is remembered on disk, and forgotten when anything changes that went into it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from bedplate.compiling import code_id
from bedplate.offline import seek
from bedplate.online import compiled as online_compiled
from bedplate.online import kernels as online_kernels

PACKAGE = Path(__file__).parents[1] / "bedplate"

CALLED = """
from bedplate.compiling import compiled

@compiled
def answer():
    return {answer}
"""
CALLER = """
from bedplate.compiling import compiled
from bedplate.called import answer

@compiled
def doubled():
    return 2 * answer()
"""
PROGRAM = """
from bedplate.caller import doubled
print(doubled(), sum(doubled.stats.cache_hits.values()))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `bedplate` of two files with loops, one of which calls the other."""
    made = tmp_path / "bedplate"
    made.mkdir()
    for name in ("__init__.py", "compiling.py", "canonical.py", "errors.py", "files.py", "process.py"):
        (made / name).write_text("" if name == "__init__.py" else (PACKAGE / name).read_text())
    (made / "caller.py").write_text(CALLER)
    (made / "called.py").write_text(CALLED.format(answer=21))
    return made


def start(package: Path, program: str) -> subprocess.Popen[str]:
    here = {"PYTHONPATH": str(package.parent), "NUMBA_CACHE_DIR": str(package.parent / "cache")}
    # -B: a file that changes within a second to one of its size would be run from the bytecode of the old one.
    command, pipe = [sys.executable, "-B", "-c", program], subprocess.PIPE
    return subprocess.Popen(command, cwd=package.parent, env=os.environ | here, stdin=pipe, stdout=pipe, text=True)


def run(package: Path, program: str = PROGRAM) -> list[str]:
    """What a program prints in a process of its own: what `doubled` gives, and how often it was found on disk."""
    with start(package, program) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    return printed.split()


def test_a_second_process_compiles_nothing(package):
    assert run(package) == ["42", "0"]
    assert run(package) == ["42", "1"]


SORTING = """
import sys
import numpy as np
from numba.core.runtime import rtsys
from bedplate import compiling

@compiling.compiled
def sorted_sum(values):
    return np.sort(np.concatenate((values, np.zeros(1))))[-1] + np.sin(0.0)

print(sorted_sum(np.arange(5.0)), sum(sorted_sum.stats.cache_hits.values()),
    "numba.np.linalg" in sys.modules, "numpy.ma" in sys.modules, rtsys._init)
"""
LINKED = """
import llvmlite.binding, sys
parsed = []
parse = llvmlite.binding.parse_bitcode
llvmlite.binding.parse_bitcode = lambda code: parsed.append(len(code)) or parse(code)
from bedplate.caller import doubled
from bedplate.called import answer
print(doubled(), sum(doubled.stats.cache_hits.values()), sum(answer.stats.cache_hits.values()), len(set(parsed)) > 1)
"""


def test_a_remembered_function_is_read_for_the_compiler_only_where_one_that_takes_it_in_is_compiled(package):
    """What other functions take in is ten times as large in memory as on disk."""
    assert run(package, LINKED)[:3] == ["42", "0", "0"]
    (package / "caller.py").write_text(CALLER.replace("2 *", "3 *"))
    assert run(package, LINKED) == ["63", "0", "1", "True"]
    assert run(package, LINKED) == ["63", "1", "0", "False"]


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "bool", "complex128", "datetime64[us]", "S4", "U3"])
def test_the_types_of_arrays_are_those_of_numba(dtype):
    """They are found without `numpy.ma`, which Numba asks about each array."""
    values = np.zeros((4, 6), dtype)
    fixed = values.copy()
    fixed.setflags(write=False)
    for array in (values, fixed, values.T, values[::2], values[0], values[:0], np.zeros((), dtype)):
        assert online_kernels.read_rows.typeof_pyval(array) == numba.typeof(array)
    with pytest.raises(numba.core.errors.NumbaTypeError, match="MaskedArray"):
        online_kernels.read_rows.typeof_pyval(np.ma.array(values))


NOT_THERE = "from bedplate import compiling; compiling._binding.address_of_symbol = lambda name: None\n"


def test_what_is_remembered_runs_without_preparing_for_compiling_unless_something_is_not_there(package):
    """The modules that Numba compiles with are not loaded: half a second and much memory. A name that machine code
    calls and nobody has would be a crash."""

    (package / "sorting.py").write_text(SORTING)
    assert run(package, "import bedplate.sorting") == ["4.0", "0", "True", "True", "True"]
    assert run(package, "import bedplate.sorting") == ["4.0", "1", "False", "False", "False"]
    assert run(package, NOT_THERE + "import bedplate.sorting") == ["4.0", "1", "True", "True", "True"]


def test_of_processes_that_start_together_one_compiles(package):
    """Each says that it has the function, and calls it when it is told to."""
    program = "from bedplate.caller import doubled\nprint(flush=True)\ninput()\n" + PROGRAM.splitlines()[-1]
    started = [start(package, program) for _ in range(3)]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(process.communicate()[0].split() for process in started) == [["42", "0"], ["42", "1"], ["42", "1"]]


def test_what_fails_to_compile_is_no_ones_turn(package):
    """The process that failed goes on, and another one fails in its place and does not wait for it."""
    (package / "called.py").write_text(CALLED.format(answer="1 + 'a'"))
    program = (
        PROGRAM.replace("print(", "try:\n    print(")
        + "except Exception as e:\n    print(type(e).__name__, flush=True)\n"
    )
    first = start(package, program + "input()")
    assert first.stdout is not None
    assert first.stdout.readline() == "TypingError\n"
    assert run(package, program) == ["TypingError"]
    assert first.communicate("\n") == ("", None)


def test_a_process_that_is_stopped_while_it_compiles_holds_nobody_up_for_ever(package):
    """Which is one that has locks, and ends neither them nor itself."""
    assert run(package) == ["42", "0"]
    (package / "called.py").write_text(CALLED.format(answer=50))
    (turns,) = (package.parent / "cache").rglob("turns")
    with turns.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert run(package, "from bedplate import compiling\ncompiling._LONGEST_WAIT = 0.2\n" + PROGRAM) == ["100", "0"]


def test_what_two_processes_compiled_is_told_apart_by_a_third(package):
    """Numba sorts and ranks with loops of one name, to which its count gives one number too if ranks come fourth."""
    names = ("smallest", "first", "second", "third", "fourth")
    bodies = ("np.sort(values)[0]", "values[0]", "values[1]", "values[2]", "np.argsort(values)[0]")
    loops = "".join(f"@compiled\ndef {n}(values):\n    return {b}\n" for n, b in zip(names, bodies, strict=True))
    (package / "sorting.py").write_text("import numpy as np\nfrom bedplate.compiling import compiled\n" + loops)
    values = "import numpy as np\nfrom bedplate.sorting import *\nvalues = np.arange(1000, 1100)[::-1] * 7\n"
    run(package, values + "smallest(values)")
    run(package, values + "first(values), second(values), third(values), fourth(values)")
    assert run(package, values + "print(smallest(values), fourth(values))") == ["7000", "99"]


def test_a_change_in_what_is_called_is_seen_by_the_caller(package):
    assert run(package) == ["42", "0"]
    (package / "called.py").write_text(CALLED.format(answer=50))
    assert run(package) == ["100", "0"]
    assert run(package) == ["100", "1"]


def test_a_constant_of_another_file_counts_and_other_files_do_not(package):
    (package / "sizes.py").write_text("BLOCK = 1\nOTHER = 5\n")
    caller = CALLER.replace("return 2 *", "return BLOCK * 2 *")
    (package / "caller.py").write_text("from bedplate.sizes import BLOCK\n" + caller)
    assert run(package) == ["42", "0"]
    (package / "sizes.py").write_text("BLOCK = 1\nOTHER = 6\n")
    assert run(package) == ["42", "1"]
    (package / "sizes.py").write_text("BLOCK = 3\nOTHER = 6\n")
    assert run(package) == ["126", "0"]


@pytest.mark.parametrize("name", ["caller", "called"])
def test_options_from_another_file_count(package, name):
    """Those of the function itself, and of one that it calls, such as whether a division by zero is an error."""
    options = "from functools import partial\nfrom bedplate.compiling import compiled\njit = partial(compiled{})\n"
    source = (package / f"{name}.py").read_text()
    (package / f"{name}.py").write_text("from bedplate.options import jit\n" + source.replace("@compiled", "@jit"))
    (package / "options.py").write_text(options.format(""))
    assert run(package) == ["42", "0"]
    assert run(package) == ["42", "1"]
    (package / "options.py").write_text(options.format(', error_model="numpy"'))
    assert run(package) == ["42", "0"]


def test_what_is_called_through_a_module_counts(package):
    caller = CALLER.replace("from bedplate.called import answer", "from bedplate import called")
    (package / "caller.py").write_text(caller.replace("answer()", "called.answer()"))
    assert run(package) == ["42", "0"]
    (package / "called.py").write_text(CALLED.format(answer=50))
    assert run(package) == ["100", "0"]


@pytest.mark.parametrize(
    ("loop", "module", "name"),
    [
        (online_kernels.read_rows, online_kernels, "LAST_FOLDED"),
        (online_kernels.read_rows, online_compiled, "VALID_BITS"),
        (seek.find_rows, seek, "_AHEAD"),
    ],
)
def test_a_constant_that_a_called_loop_uses_counts(loop, module, name, monkeypatch):
    code_id.cache_clear()
    before = code_id(loop.py_func)
    monkeypatch.setattr(module, name, getattr(module, name) + 1)
    code_id.cache_clear()
    assert code_id(loop.py_func) != before
    monkeypatch.undo()
    code_id.cache_clear()
    assert code_id(loop.py_func) == before


def test_every_compiled_function_of_the_package_is_compiled_here():
    """No file compiles loops on its own: what it remembered would not be forgotten."""
    uses = [p for p in PACKAGE.rglob("*.py") if "njit" in p.read_text() and p.name != "compiling.py"]
    assert uses == []
