"""Print set-up command number N of the README's first screen: CI runs what a newcomer runs, not a copy of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def setup_commands(readme: str) -> list[str]:
    """The lines of the README's first ```bash block, comments and blanks left out."""
    block = re.search(r"^```bash\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    if block is None:
        raise SystemExit("the README has no ```bash block")
    return [line for line in block[1].splitlines() if line.strip() and not line.startswith("#")]


if __name__ == "__main__":
    readme = Path(__file__).parents[1] / "README.md"
    print(setup_commands(readme.read_text(encoding="utf-8"))[int(sys.argv[1]) - 1])
