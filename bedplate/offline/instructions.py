"""Instructions that Numba has no words for, for compiled loops.

They are written for LLVM, which has them, or its own replacement, on every processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir as llvm  # pyright: ignore[reportMissingTypeStubs]
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

AHEAD = 32
"""Values that `count_smaller` compares at once."""

_llvm, _arrays, _cgutils = cast("Any", llvm), cast("Any", arrayobj), cast("Any", cgutils)


def _inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function for compiled code that writes its instructions itself."""
    return cast("Callable[..., Any]", intrinsic(function))


@_inline
def choose(_: Any, condition: Any, one: Any, other: Any) -> Any:
    """One of two values without a branch: for conditions that no processor can predict."""

    def write(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        chosen = builder.select(*arguments)
        chosen.set_metadata("unpredictable", builder.module.add_metadata([]))
        return chosen

    return one(condition, one, other), write


@_inline
def count_smaller(_: Any, values: Any, _position: Any, _bound: Any) -> Any:
    """How many of the `AHEAD` int64 values from a position on come before the first that is not below a bound.

    They are compared in vector registers; the array must reach that far.
    """
    word, index = _llvm.IntType(64), _llvm.IntType(32)
    many, lanes = _llvm.VectorType(word, AHEAD), _llvm.VectorType(index, AHEAD)

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = _arrays.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        loaded = builder.load(builder.bitcast(place, many.as_pointer()))
        loaded.align = 8
        nothing = _llvm.Constant(many, _llvm.Undefined)
        one = builder.insert_element(nothing, arguments[2], _llvm.Constant(index, 0))
        bounds = builder.shuffle_vector(one, nothing, _llvm.Constant(lanes, [0] * AHEAD))
        reached = builder.bitcast(builder.icmp_signed(">=", loaded, bounds), _llvm.IntType(AHEAD))
        return builder.zext(builder.cttz(reached, _llvm.Constant(_llvm.IntType(1), 0)), word)

    return types.uint64(values, types.uint64, types.int64), write


@_inline
def load_word(_: Any, _address: Any, _index: Any) -> Any:
    """The int64 at a place of the array at an address: for loops over any number of arrays."""
    word = _llvm.IntType(64)

    def write(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], word.as_pointer())
        return builder.load(builder.gep(pointer, [arguments[1]]))

    return types.int64(types.uint64, types.int64), write


@_inline
def load_like(_: Any, _address: Any, _index: Any, like: Any) -> Any:
    """The value at a place of the array at an address, of the type of another value."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_data_type(signature.return_type)
        pointer = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.load(builder.gep(pointer, [arguments[1]]))

    return like(types.uint64, types.int64, like), write


def _fetching(for_writing: int) -> Callable[..., Any]:
    """Compiled code that begins to bring the cache line of a matrix's element near."""

    def fetch(_: Any, matrix: Any, _row: Any, _column: Any) -> Any:
        def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = _arrays.make_array(signature.args[0])(context, builder, arguments[0])
            strides = _cgutils.unpack_tuple(builder, array.strides)
            offset = builder.add(builder.mul(arguments[1], strides[0]), builder.mul(arguments[2], strides[1]))
            address = builder.add(builder.ptrtoint(array.data, offset.type), offset)
            index = _llvm.IntType(32)
            byte = _llvm.IntType(8).as_pointer()
            kind = _llvm.FunctionType(_llvm.VoidType(), [byte, index, index, index])
            instruction = _cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            chosen = (_llvm.Constant(index, n) for n in (for_writing, 3, 1))
            builder.call(instruction, [builder.inttoptr(address, byte), *chosen])
            return context.get_dummy_value()

        return types.none(matrix, types.int64, types.int64), write

    return _inline(fetch)


fetch_ahead = _fetching(1)
"""`fetch_ahead(matrix, row, column)` begins to bring an element near which will be written soon."""

fetch_to_read = _fetching(0)
"""`fetch_to_read(matrix, row, column)` begins to bring an element near which will be read soon."""
