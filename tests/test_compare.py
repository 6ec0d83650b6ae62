"""The paired bootstrap against all resamples there are, and the files and refusals of ``compare``."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from stereo.cli import main
from stereo.engine.compare import compare, read_run
from stereo.engine.evaluate import evaluate
from stereo.engine.protocols import PROTOCOLS, Protocol, open_protocol
from stereo.engine.result_files import write_card, write_csv
from stereo.metrics.bootstrap import paired_bootstrap
from stereo.types import DisparityMap, InputError, Sample


def brute_force(differences: list[float], resamples: int, seed: int) -> tuple[float, float]:
    """The same draws, one at a time, and percentiles by sorting."""
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        total = 0.0
        for number in rng.integers(0, len(differences), len(differences)):
            total += differences[number]
        means.append(total / len(differences))
    means.sort()

    def percentile(percent: float) -> float:
        at = percent / 100 * (len(means) - 1)
        below = int(at)
        return means[below] + (at - below) * (means[min(below + 1, len(means) - 1)] - means[below])

    return percentile(2.5), percentile(97.5)


@pytest.mark.parametrize(("count", "resamples", "seed"), [(1, 100, 0), (7, 333, 1), (40, 500, 2)])
def test_equals_a_loop(count: int, resamples: int, seed: int):
    differences = np.random.default_rng(count).normal(0.2, 1.0, count)
    assert paired_bootstrap(differences, resamples, seed) == pytest.approx(
        brute_force(differences.tolist(), resamples, seed), rel=1e-12
    )


def test_comes_near_all_resamples_there_are():
    differences = np.array([-1.0, 0.0, 0.5, 2.0, 3.5])
    means = [np.mean(drawn) for drawn in itertools.product(differences, repeat=5)]
    low, high = paired_bootstrap(differences, 40_000, 7)
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.11)  # the means are multiples of 0.1


def test_the_seed_decides():
    differences = np.random.default_rng(0).normal(size=50)
    first, again, other = (paired_bootstrap(differences, 200, seed) for seed in (7, 7, 8))
    assert first == again != other


def test_chunks_are_one_stream(monkeypatch):
    differences = np.random.default_rng(0).normal(size=30)
    whole = paired_bootstrap(differences, 200, 3)
    monkeypatch.setattr("stereo.metrics.bootstrap.CHUNK", 100)
    assert paired_bootstrap(differences, 200, 3) == pytest.approx(whole, rel=1e-12)


def make_samples(count: int = 6, seed: int = 0) -> list[Sample]:
    samples = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        image, occluded = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8), rng.random((8, 10)) < 0.2
        disp = rng.uniform(1, 40, (8, 10)).astype(np.float32)
        samples.append(Sample(image, image, disp=disp, valid=disp > 3, occluded=occluded, name=f"set/{index}"))
    return samples


def write_run(
    folder: Path, method: str, samples: list[Sample], noise: float, protocol: Protocol = PROTOCOLS["default"]
) -> Path:
    truths = {id(sample.left): sample.disp for sample in samples}
    rng = np.random.default_rng(int(100 * noise))

    def predict(left, right):
        disp = truths[id(left)] + rng.normal(0, noise, left.shape[:2]).astype(np.float32)
        return DisparityMap(disp, np.zeros((8, 10), np.float32), rng.random((8, 10), np.float32))

    report = evaluate(predict, samples, progress=False, protocol=protocol)
    write_csv(report, folder / f"{method}.csv")
    write_card(report, folder / f"{method}.card.json", {"weights": None, "data": "fake"})
    return folder / f"{method}.csv"


def test_means_and_interval_are_those_of_the_columns(tmp_path: Path):
    samples = make_samples()
    first, second = (write_run(tmp_path, name, samples, noise) for name, noise in (("a", 1.0), ("b", 3.0)))
    found = compare(read_run(first), read_run(second), ["epe_noc", "ause"], 400, 5)
    columns = []
    for path in (first, second):
        with path.open(newline="", encoding="utf-8") as file:
            columns.append([float(row["epe_noc"]) for row in csv.DictReader(file)])
    one = found[0]
    assert (one.figure, one.images, one.skipped) == ("epe_noc", 6, 0)
    assert (one.mean_a, one.mean_b) == pytest.approx(np.mean(columns, axis=1))
    differences = [b - a for a, b in zip(*columns, strict=True)]
    assert one.difference == pytest.approx(np.mean(differences))
    assert (one.low, one.high) == pytest.approx(brute_force(differences, 400, 5), rel=1e-9)
    assert 0 < one.low < one.difference < one.high


def test_images_without_the_figure_are_left_out_in_pairs(tmp_path: Path):
    samples = make_samples(4)
    samples[2].occluded[:] = True  # nothing is visible
    first, second = (write_run(tmp_path, name, samples, noise) for name, noise in (("a", 1.0), ("b", 3.0)))
    visible, everything = compare(read_run(first), read_run(second), ["epe_noc", "epe_all"])
    assert (visible.images, visible.skipped, everything.images) == (3, 1, 4)
    nothing = compare(read_run(first), read_run(second), ["epe_d192up"])[0]
    assert nothing.images == 0 and np.isnan([nothing.mean_a, nothing.low, nothing.difference]).all()


def test_the_verb_takes_csv_card_or_folder(tmp_path: Path, capsys):
    samples = make_samples(24)
    for name, noise in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name, "method", samples, noise)
    argv = ["compare", str(tmp_path / "a"), str(tmp_path / "b" / "method.card.json"), "--seed", "4"]
    assert main([*argv, "-o", str(tmp_path / "out.json")]) == 0
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("epe_noc"))
    assert "B is higher" in line and line.endswith("24")
    assert "10000 resamples, seed 4" in text and "Fewer than" not in text
    assert [entry["figure"] for entry in json.loads((tmp_path / "out.json").read_text())["figures"]] == list(
        PROTOCOLS["default"].figures
    )
    assert main([*argv, "--json", "--figures", "bad1_all"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"][0]["figure"] == "bad1_all"


def test_refuses_what_cannot_be_compared(tmp_path: Path):
    samples = make_samples()
    a = read_run(write_run(tmp_path, "a", samples, 1.0))
    fewer = read_run(write_run(tmp_path, "fewer", samples[:5], 1.0))
    with pytest.raises(InputError, match="'set/5' is in one of them only; score the same images"):
        compare(a, fewer)
    turned = read_run(write_run(tmp_path, "turned", samples[::-1], 1.0))
    with pytest.raises(InputError, match="their order differs"):
        compare(a, turned)
    other = read_run(write_run(tmp_path, "other", make_samples(seed=1), 1.0))
    with pytest.raises(InputError, match="'set/0' is another image, or has another truth"):
        compare(a, other)
    cropped = open_protocol("custom", {"crop": [1, 0, 0, 0]})
    with pytest.raises(InputError, match=r"count_all of 'set/0' is .* score both with one protocol"):
        compare(a, read_run(write_run(tmp_path, "cropped", samples, 1.0, cropped)))
    with pytest.raises(InputError, match=r"'epe_nok' is no figure of .*did you mean epe_noc"):
        compare(a, a, ["epe_nok"])
    with pytest.raises(InputError, match="'sha256' is no figure"):
        compare(a, a, ["sha256"])
    with pytest.raises(InputError, match="got 99 resamples"):
        compare(a, a, resamples=99)


def test_refuses_half_a_file_and_an_old_card(tmp_path: Path):
    path = write_run(tmp_path, "a", make_samples(), 1.0)
    whole = path.read_text()
    path.write_text(whole[:-200])
    with pytest.raises(InputError, match="is not a whole CSV"):
        read_run(path)
    path.write_text(whole)
    card = tmp_path / "a.card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"protocol": "every pixel"}))
    with pytest.raises(InputError, match=r"a\.card\.json' is not a result card of this version"):
        read_run(path)


def test_refuses_files_that_are_no_runs(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot read CSV of an evaluation .*absent\.csv"):
        read_run(tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("name,epe\na,1\n")
    with pytest.raises(InputError, match="is not a whole CSV of 'evaluate -o' of this version"):
        read_run(tmp_path / "other.csv")
    (tmp_path / "other.card.json").write_text("{")
    with pytest.raises(InputError, match="or its card is damaged"):
        read_run(tmp_path / "other.csv")
    (tmp_path / "more.csv").write_text("x")
    with pytest.raises(InputError, match=r"holds these CSV files: more\.csv, other\.csv"):
        read_run(tmp_path)
