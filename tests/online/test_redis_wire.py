"""Commands of many keys, put together at once, are what they are when they are put together one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bedplate.online.redis_names import Names
from bedplate.online.redis_wire import packed, packed_mset


def one_by_one(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


letters, views = st.sampled_from([b"r", b"v", b"f"]), st.sampled_from([b"12345678", b"\r\n$3\r\n{}", bytes(8)])
runs = st.tuples(letters, views, st.sampled_from([0, 1, 9, 17]), st.integers(1, 40))


@given(st.lists(runs, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_mget(drawn, random):
    keys = [letter + view + random.randbytes(width) for letter, view, width, count in drawn for _ in range(count)]
    keys += random.sample([b"m:format", b"k"], random.randint(0, 2))
    names = Names("shop")
    assert names.packed_mget(keys) == one_by_one(b"MGET", *names.of(keys))


@given(st.lists(st.binary(max_size=3), max_size=20))
def test_any_command(words):
    assert packed((b"GET", *words)) == one_by_one(b"GET", *words)
    assert packed(("SET", *words, 5)) == one_by_one(b"SET", *words, b"5")


@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3)), min_size=1, max_size=20))
def test_mset(pairs):
    names, values = [name for name, _ in pairs], [value for _, value in pairs]
    assert packed_mset(names, values) == one_by_one(b"MSET", *(word for pair in pairs for word in pair))
