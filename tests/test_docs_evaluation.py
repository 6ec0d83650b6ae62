"""docs/evaluation.md says what the code does: its tables are those of the data, its flags exist, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from stereo.cli import build_parser
from stereo.engine.protocols import PROTOCOLS, Protocol
from stereo.engine.submission import BENCHMARKS
from stereo.metrics import BINS, REGIONS

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEXT = (DOCS / "evaluation.md").read_text(encoding="utf-8")


def table(marker: str) -> list[str]:
    return re.search(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", TEXT, re.DOTALL)[1].splitlines()[2:]


def protocol_row(protocol: Protocol) -> str:
    limits = protocol.limits() or "none"
    if protocol.draw:
        limits += f"; {protocol.draw} images, seed {protocol.seed}"
    figures = ", ".join(f"`{figure}`" for figure in protocol.figures)
    return f"| `{protocol.name}` | {protocol.text} | {limits} | {protocol.published or 'any'} | {figures} | {protocol.source} |"


def test_tables_are_the_data():
    assert table("protocols") == [protocol_row(protocol) for protocol in PROTOCOLS.values()]
    assert table("regions") == [f"| `{name}` | {text} |" for name, text in REGIONS.items()]
    for name in (*BINS, *BENCHMARKS):
        assert f"`{name}`" in TEXT


def test_commands_are_understood():
    commands = re.findall(r"^(?:torchrun \S+ )?(?:python )?run_stereo\.py ([^#\n]+)", TEXT, re.MULTILINE)
    assert len(commands) > 8
    for command in commands:
        build_parser().parse_args([word.strip("'\"") for word in command.split()])


def test_links_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (DOCS / target).exists(), target
