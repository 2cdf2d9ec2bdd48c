"""What a strict run of the pages does not compare: progress and warnings, numbers for the prose."""

import pytest


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Of a notebook's cells."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "application/papermill.record/text/plain")
