"""Most merges here are of tensors that are no whole model."""

from __future__ import annotations

import pytest

OF_MODELS = ("test_output_opens", "test_fuzz")


@pytest.fixture(autouse=True)
def tensors_or_models(request: pytest.FixtureRequest) -> None:
    if request.module.__name__ not in OF_MODELS:
        request.getfixturevalue("bare_tensors")
