"""What the tests of runs share: a data set that is read and cached once, for all that leave it as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import small_dataset, toy_weights
from runs import LOW, begin, ended


@pytest.fixture(scope="session")
def cached(tmp_path_factory: pytest.TempPathFactory, hf_home: Path) -> tuple[Path, tuple[object, ...]]:
    """A folder with a data set, its caches in `home` and what is known of its files in `user`; the words of a run of one
    expert on it, 10 epochs of 6 steps."""
    place = tmp_path_factory.mktemp("cached")
    words = (*LOW, small_dataset(place / "cats"), *toy_weights(place / "weights"))
    words_once, user = (*words, "--epochs", 1), str(place / "user")
    ended(begin(place, *words_once, XDG_CACHE_HOME=user, HF_HOME=str(hf_home), HF_HUB_OFFLINE="1"), 0)
    return place, words


@pytest.fixture
def low(tmp_path: Path, cached: tuple[Path, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """The words of that run in a workspace where all is cached; its data set and weights stay as they are."""
    place, words = cached
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "user"))
    cache = Path("home", "local_training", "cache")
    shutil.copytree(place / cache, tmp_path / cache)
    return words


@pytest.fixture
def anew(cats: Path, weights: list[str]) -> tuple[object, ...]:
    """The same on a data set of the test's own, of which nothing is cached."""
    return (*LOW, cats, *weights)
