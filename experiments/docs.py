"""Write the pages of docs/ that come out of the program: one per verb, the index, and the measured parts of the model card.

    python -m experiments.docs

docs/verbs/VERB.md is made of what ``VERB --help`` is made of, so that neither can say what the other does not. It is put
together from the parser's options and not from the text of ``--help``, which differs between versions of Python and widths
of the terminal. The model card takes its numbers from stereo/weights and experiments/results.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from experiments.model_card import card_blocks
from experiments.network_table import stages_table
from experiments.readme import replace_between
from stereo.cli import SCRIPT, VERBS, build_parser
from stereo.cli.examples import EXAMPLES
from stereo.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m experiments.docs"
MADE = f"<!-- made by {COMMAND}: do not edit -->"

# Pages in the order in which to read them. A page of docs/ that stands nowhere here is put at the end of the second part.
ORDER: dict[str, tuple[str, ...]] = {
    "Begin here": ("../README.md", "sources.md", "calibration.md", "looking.md", "python.md", "troubleshooting.md"),
    "Do more": ("export.md", "selftest.md", "evaluation.md", "training.md"),
    "Understand it": ("architecture.md", "model_card.md", "design_notes.md"),
}
MORE = {  # verb -> the pages that tell more
    "infer": ("sources.md", "calibration.md", "looking.md"),
    "rectify": ("calibration.md",),
    "depth": ("calibration.md",),
    "check": ("troubleshooting.md",),
    "demo": ("looking.md",),
    "explain": ("looking.md", "architecture.md"),
    "train": ("training.md",),
    "evaluate": ("evaluation.md",),
    "compare": ("evaluation.md",),
    "submit": ("evaluation.md",),
    "report": ("training.md",),
    "generate": ("training.md",),
    "convert": ("training.md",),
    "export": ("export.md",),
    "selftest": ("selftest.md",),
}


# ---------------------------------------------------------------------------------------------------------------------
# A page for every verb


def verb_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Verb -> its parser."""
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(verbs.choices)


def help_of(action: argparse.Action) -> str:
    """The help text with what argparse puts into it, as one line of Markdown that a table can hold."""
    text = (action.help or "") % {**vars(action), "prog": SCRIPT}
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def value_of(action: argparse.Action) -> str:
    """What is written behind an option: 'PX', 'LOW HIGH', 'FACTOR ...', 'a|b'; '' for a flag."""
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        name = "|".join(map(str, action.choices))
    else:
        name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if isinstance(name, tuple):
        return " ".join(name)
    if isinstance(action.nargs, int):
        return " ".join([name] * action.nargs)
    return {"+": f"{name} ...", "*": f"[{name} ...]", "?": f"[{name}]"}.get(action.nargs or "", name)


def written(action: argparse.Action) -> str:
    """An option or argument as it is typed, with the short name first."""
    names = ", ".join(action.option_strings)
    return f"{names} {value_of(action)}".strip()


def row(action: argparse.Action) -> str:
    needed = "**required**: " if action.required and action.option_strings else ""
    return f"| `{written(action).replace('|', chr(92) + '|')}` | {needed}{help_of(action)} |"


def usage(verb: str, parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    arguments = [value_of(action) for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings and action.required]
    names = [next((name for name in action.option_strings if name.startswith("--")), "") for action in options]
    required = [f"{name} {value_of(action)}" for name, action in zip(names, options, strict=True)]
    return " ".join(["python", SCRIPT, verb, *arguments, *required, "[options]"])


def verb_page(verb: str, parser: argparse.ArgumentParser) -> str:
    """docs/verbs/VERB.md."""
    text = VERBS[verb][1]
    lines = [MADE, "", f"# {verb}", "", f"{text[0].upper()}{text[1:]}.", "", "```", usage(verb, parser), "```", ""]
    if EXAMPLES.get(verb):
        lines += ["## Examples", "", "```"]
        for arguments, does in EXAMPLES[verb]:
            lines += [f"# {does}", f"python {SCRIPT} {verb} {arguments}".rstrip()]
        lines += ["```", ""]
    for group in parser._action_groups:
        shown = [a for a in group._group_actions if a.help != argparse.SUPPRESS and "--help" not in a.option_strings]
        if shown:
            title = {"positional arguments": "arguments"}.get(group.title or "", group.title or "options")
            lines += [f"## {title[0].upper()}{title[1:]}", "", "| | |", "|---|---|", *map(row, shown), ""]
    there = [page for page in MORE.get(verb, ()) if (ROOT / "docs" / page).is_file()]
    more = ", ".join(f"[{title_of(page)}](../{page})" for page in there)
    lines += [*([f"More: {more}.", ""] if more else []), "[All pages](../README.md)"]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# The index


def title_of(page: str) -> str:
    """The first heading of a page of docs/."""
    if page == "../README.md":
        return "README: install, first result, how good it is"
    found = re.search(r"^# (.+)$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise SystemExit(f"docs/{page} has no heading '# ...', which the index shows")
    return found[1]


def index_page() -> str:
    """docs/README.md: links to every page, in an order to read them."""
    ordered = {page for pages in ORDER.values() for page in pages} | {"README.md"}
    others = tuple(sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in ordered))
    lines = [MADE, "", "# Documentation", ""]
    for part, pages in ORDER.items():
        there = [page for page in pages if (ROOT / "docs" / page).is_file()]
        lines += [f"## {part}", "", *(f"- [{title_of(page)}]({page})" for page in there)]
        lines += [f"- [{title_of(page)}]({page})" for page in others if part == "Do more"]
        lines.append("")
    lines += ["## Every verb", "", "The same as `--help` says, page by page.", ""]
    lines += [f"- [`{name}`](verbs/{name}.md): {text}" for name, (_, text) in VERBS.items()]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Path below docs/ -> what it should hold, of all pages that are made or have parts that are."""
    made = {f"verbs/{verb}.md": verb_page(verb, parser) for verb, parser in verb_parsers(build_parser()).items()}
    made["README.md"] = index_page()
    for page, blocks in (("model_card.md", card_blocks()), ("architecture.md", {"stages": stages_table()})):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for marker, content in blocks.items():
            text = replace_between(text, marker, content, f"docs/{page}")
        made[page] = text
    return made


def leftovers(made: dict[str, str]) -> list[Path]:
    """Pages of verbs that are no more."""
    return [path for path in sorted((ROOT / "docs" / "verbs").glob("*.md")) if f"verbs/{path.name}" not in made]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    made = pages()
    (ROOT / "docs" / "verbs").mkdir(exist_ok=True)
    for name, text in made.items():
        with atomic_write(ROOT / "docs" / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for path in leftovers(made):
        path.unlink()
    print(f"wrote {len(made)} pages of docs/")


if __name__ == "__main__":
    main()
