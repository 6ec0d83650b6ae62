"""docs/ says what the program does: pages of verbs are the parser's, commands parse, links lead somewhere, Python runs."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import stereo
from experiments import docs
from experiments.docs import COMMAND, help_of, leftovers, pages, value_of, verb_page, verb_parsers, written
from experiments.network_table import shape_of
from stereo.cli import VERBS, build_parser
from stereo.cli.examples import EXAMPLES, epilog
from stereo.config import PRESETS
from stereo.image_io import write_image

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("verbs/*.md")])
NAMES = [path.relative_to(DOCS).as_posix() for path in PAGES]
PARSERS = verb_parsers(build_parser())
CALL = re.compile(r"(?:python )?(?:run_stereo\.py|stereo) (.+)")


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """The arguments of every call of the program in the code blocks of a page."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        calls = [CALL.match(part) for line in block.splitlines() for part in line.split(" && ")]
        found += [call[1] for call in calls if call and "[options]" not in call[1] and language in ("", "bash")]
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Pages that are made


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


@pytest.mark.parametrize("name", ["README.md", "architecture.md", "model_card.md", *(f"verbs/{verb}.md" for verb in VERBS)])
def test_made_pages_are_up_to_date(name, made):
    assert (DOCS / name).is_file(), f"docs/{name} is missing: run {COMMAND}"
    assert read(name) == made[name], f"docs/{name} is not what the program says any more: run {COMMAND}"


def test_no_page_is_of_a_verb_that_is_gone(made):
    assert not leftovers(made), f"run {COMMAND}"


@pytest.mark.parametrize("verb", VERBS)
def test_a_page_holds_every_option_and_its_help(verb):
    """Against what argparse itself prints, words apart, since it breaks lines where it likes."""
    page = verb_page(verb, PARSERS[verb]).replace("\\", "").replace("&lt;", "<")
    words = " ".join(page.split())
    printed = PARSERS[verb].format_help()
    for option in set(re.findall(r"(?<![\w-])--[a-z0-9-]+", printed)) - {"--help"}:
        assert option in page
    for action in PARSERS[verb]._actions:
        if action.dest != "help":
            assert action.help, f"{verb} {action.dest} has no help"
            assert " ".join((action.help % vars(action)).split()) in words


def test_the_command_restores_what_is_lost_and_removes_what_is_gone(tmp_path, monkeypatch, made):
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "docs" / "verbs" / "infer.md").unlink()
    (tmp_path / "docs" / "verbs" / "gone.md").write_text("# gone\n")
    (tmp_path / "docs" / "README.md").write_text("old\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs"])
    docs.main()
    assert {name: (tmp_path / "docs" / name).read_text(encoding="utf-8") for name in made} == made
    assert sorted(path.stem for path in (tmp_path / "docs" / "verbs").iterdir()) == sorted(VERBS)


def test_rows_by_hand():
    parser = argparse.ArgumentParser()
    actions = [
        parser.add_argument("name"),
        parser.add_argument("maybe", nargs="?"),
        parser.add_argument("-o", "--output", default="out", help="a | b, 50 %% of <x> (default: %(default)s)"),
        parser.add_argument("--range", nargs=2, metavar=("LOW", "HIGH")),
        parser.add_argument("--crop", nargs=2),
        parser.add_argument("--sizes", nargs="+", metavar="F"),
        parser.add_argument("--some", nargs="*", metavar="W"),
        parser.add_argument("--kind", choices=["a", "b"]),
        parser.add_argument("--flag", action="store_true"),
    ]
    assert [written(action) for action in actions] == [
        "name", "[maybe]", "-o, --output OUTPUT", "--range LOW HIGH", "--crop CROP CROP", "--sizes F ...", "--some [W ...]",
        "--kind a|b", "--flag",
    ]  # fmt: skip
    assert help_of(actions[2]) == "a \\| b, 50 % of &lt;x> (default: out)"
    assert value_of(actions[0]) == "name"


def test_the_index_links_every_page():
    linked = set(re.findall(r"\]\(([^)]+)\)", read("README.md")))
    assert linked == {"../README.md", *NAMES} - {"README.md"}


def test_a_page_that_nobody_has_ordered_is_in_the_index(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "new.md").write_text("# Something new\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "ORDER", {"Do more": ()})
    assert "## Do more\n\n- [Something new](new.md)\n" in docs.index_page()
    (tmp_path / "docs" / "new.md").write_text("no heading\n")
    with pytest.raises(SystemExit, match=r"docs/new\.md has no heading"):
        docs.index_page()


# ---------------------------------------------------------------------------------------------------------------------
# Examples


@pytest.mark.parametrize("verb", VERBS)
def test_examples_are_understood_and_shown(verb):
    assert EXAMPLES.get(verb), f"stereo/cli/examples.py has no example of {verb}"
    for arguments, does in EXAMPLES[verb]:
        build_parser().parse_args([verb, *shlex.split(arguments)])
        call = f"python run_stereo.py {verb} {arguments}".rstrip()
        assert f"  # {does}\n  {call}" in PARSERS[verb].format_help()
        assert f"# {does}\n{call}\n" in read(f"verbs/{verb}.md")


def test_help_is_of_the_command_that_was_called():
    assert "stereo infer left.png right.png -o out" in verb_parsers(build_parser("stereo"))["infer"].format_help()
    assert "run_stereo.py" not in verb_parsers(build_parser("stereo"))["infer"].format_help()
    assert epilog("stereo", "no verb") == ""


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_understood(name):
    for command in commands(read(name)):
        arguments = shlex.split(command, comments=True)
        if arguments and arguments[0] in VERBS and "--help" not in arguments:
            build_parser().parse_args(arguments)


def test_the_walk_finds_commands():
    page = "```python\nstereo x\n```\n```\npip install . && python run_stereo.py demo  # x\nstereo infer a b\n```\n"
    assert commands(page) == ["demo  # x", "infer a b"]
    assert len(commands(read("troubleshooting.md"))) > 20


def test_troubleshooting_answers_the_25_asks():
    text = read("troubleshooting.md")
    answers = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    assert len(answers) == 25
    assert all(len(answer.split()) > 10 for answer in answers)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", read(name)):
        assert (DOCS / name).parent.joinpath(target).exists(), f"docs/{name} links to {target}"


# ---------------------------------------------------------------------------------------------------------------------
# Python


BLOCKS = re.findall(r"^```python\n(.*?)^```", read("python.md"), re.MULTILINE | re.DOTALL)
CALIB = "cam0=[100 0 32; 0 100 24; 0 0 1]\ncam1=[100 0 34; 0 100 24; 0 0 1]\ndoffs=2\nbaseline=100\nwidth=64\nheight=48\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files that the page speaks of, in the current folder."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    for folder, names in ((".", ("left.png", "right.png")), ("lefts", ("0.png", "1.png")), ("rights", ("0.png", "1.png"))):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names:
            shift = 6 if folder == "rights" or name == "right.png" else 0
            write_image(tmp_path / folder / name, noise[:, shift : shift + 64])
    (tmp_path / "calib.txt").write_text(CALIB)
    return tmp_path


def run_block(number: int) -> dict:
    names: dict = {}
    exec(compile(BLOCKS[number], "docs/python.md", "exec"), names)
    return names


def test_a_pair_and_a_cloud(files):
    names = run_block(0)
    assert names["result"].disp.shape == (48, 64)
    names = run_block(1)
    middle = names["depth"][24, 40]  # f baseline / (d + doffs), by hand
    assert middle == pytest.approx(100 * 0.1 / (names["result"].disp[24, 40] + 2), rel=1e-5)
    points, colours = stereo.read_ply("cloud.ply")
    assert len(points) == len(colours) == names["sure"].sum()


def test_folders_and_errors(files, capsys):
    run_block(2)
    assert sorted(path.name for path in files.glob("*.disp.*")) == ["0.disp.pfm", "0.disp.png", "1.disp.pfm", "1.disp.png"]
    run_block(3)
    assert "no-such.png" in capsys.readouterr().out
    assert len(BLOCKS) == 4


def test_negative_disparities_as_the_page_says(files):
    """Noise whose right view is moved the wrong way: without the remedy no match is possible."""
    (block,) = re.findall(r"^```python\n(.*?)^```", read("troubleshooting.md"), re.MULTILINE | re.DOTALL)
    noise = np.random.default_rng(1).integers(0, 256, (64, 240, 3), dtype=np.uint8)
    write_image("left.png", noise[:, 12:212])
    write_image("right.png", noise[:, :200])  # x_right = x_left + 12
    names: dict = {}
    exec(compile(block, "docs/troubleshooting.md", "exec"), names)
    assert names["disp"].shape == (64, 160)
    assert np.median(np.abs(names["disp"][:, 30:] + 12)) < 1
    plain = names["predictor"].predict(noise[:, 12:212].copy(), noise[:, :200].copy()).disp
    assert np.median(np.abs(plain + 12)) > 10


def test_public_names_are_there_and_told(monkeypatch):
    text = read("python.md")
    for name in stereo.__all__:
        assert getattr(stereo, name) is not None
        assert name in dir(stereo)
        assert name.startswith("_") or name in text, f"docs/python.md does not speak of {name}"
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = stereo.no_such_name


def test_importing_the_package_alone_loads_nothing_heavy():
    program = "import sys, stereo; print(stereo.__version__, {'torch', 'cv2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{stereo.__version__} set()"


def test_names_for_type_checkers_are_the_same():
    source = (ROOT / "stereo" / "__init__.py").read_text(encoding="utf-8")
    promised = re.search(r"^if TYPE_CHECKING:\n((?:    .*\n)+)", source, re.MULTILINE)[1]
    imported = {name for line in promised.splitlines() for name in line.split(" import ")[1].split(", ")}
    assert imported == set(stereo.__all__) - {"__version__"}
    for line in promised.splitlines():
        module, names = re.fullmatch(r"    from (\S+) import (.+)", line).groups()
        if module != "stereo":
            assert all(getattr(stereo, name) is getattr(sys.modules[module], name) for name in names.split(", "))


# ---------------------------------------------------------------------------------------------------------------------
# Drawings


def test_drawings_are_drawings_and_their_numbers_those_of_the_network():
    texts = {}
    for name in ("architecture.svg", "quadtree_row.svg"):
        root = ElementTree.parse(DOCS / name).getroot()
        texts[name] = " | ".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))
        assert f"]({name})" in read("architecture.md")
    c = PRESETS["small"]
    told = texts["architecture.svg"]
    for part in (
        f"1/2: {c.stem_channels} channels", f"1/4: {c.channels} channels", f"1/8, 1/16: {c.context_channels} channels",
        f"attend, {c.layers} layers", f"quadtree: {c.levels} levels, K = {c.topk}", f"positions: {c.position}",
        f"{c.heads} heads of {c.channels // c.heads}", f"quadtree: {c.match_levels} levels, K = {c.match_topk}",
        f"{2 * c.match_topk} candidates", f"Sinkhorn, {c.sinkhorn_iterations} iterations",
        f"{c.sharpen_channels} channels wide", f"{c.channels} × H/4 × W/4", f"{c.stem_channels} × H/2 × W/2",
    ):  # fmt: skip
        assert part in told


def test_shapes_by_hand():
    import torch

    assert shape_of(torch.empty(2, 48, 32, 64), channels_last=False) == "48 x H/4 x W/4"
    assert shape_of(torch.empty(1, 32, 64, 24), channels_last=True) == "24 x H/4 x W/4"
    assert shape_of(torch.empty(1, 128, 256), channels_last=False) == "H x W"
