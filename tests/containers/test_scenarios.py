"""The scenarios over containers of the real images, as users of the server who may do no more than they need."""

from __future__ import annotations

import pytest

from tests.clusters.scenarios import (  # noqa: F401 - tests
    test_a_beat_that_is_killed_or_paused_is_followed_by_the_other_also_when_the_leader_dies_with_it,
    test_a_leader_that_is_cut_off_is_followed_by_another_and_works_again_when_it_is_back,
    test_a_leader_that_is_killed_or_paused_is_followed_by_another_and_does_no_harm_when_it_goes_on,
    test_a_rolling_restart_under_load_loses_no_job_and_no_tick_for_more_than_a_lease,
)

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]
