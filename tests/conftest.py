"""What the whole test run shares: the report on the stored outputs of the public code (../shared/oracles)."""

from __future__ import annotations

from pathlib import Path

import oracle_record
import pytest
from oracle_record import whole_run


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """The test that asks what was opened goes last, and is told whether every oracle test was collected."""
    items.sort(key=lambda item: item.path.name == "test_oracle_coverage.py")  # stable
    modules = set(Path(__file__).parent.glob("test_oracle_*.py"))
    named_one = any("::" in argument for argument in session.config.args)
    session.config.stash[whole_run] = not named_one and modules <= {item.path for item in items}


def pytest_deselected(items: list[pytest.Item]) -> None:
    if any(item.path.name.startswith("test_oracle_") for item in items):
        items[0].config.stash[whole_run] = False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if oracle_record.opened:
        terminalreporter.section("stored outputs of the public code: largest error in relation to its tolerance")
        for line in oracle_record.table(terminalreporter.config.stash[whole_run]):
            terminalreporter.line(line)
