"""``dspy.Parallel`` in threads of one worker."""

from __future__ import annotations

import pytest
from dspy.utils.parallelizer import ParallelExecutor, tqdm

from workers.adapters.dspy.dspy_hooks import install

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_parallel_run_that_begins_leaves_the_progress_bars_of_others_alone() -> None:
    install()
    other = tqdm.tqdm.__new__(tqdm.tqdm)  # another run's, which is about to find that it is disabled
    assert ParallelExecutor(num_threads=2, disable_progress_bar=True).execute(str, [1, 2]) == ["1", "2"]
    other.__init__(total=2, disable=True)
    assert other.disable
