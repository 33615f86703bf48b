"""What the tests of training share: one encoder, and a thread, so that weights can be compared bit for bit."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch
from synthetic import make_encoder

from bedplate.features.encoder import Encoder


@pytest.fixture(scope="module")
def one_thread() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder()
