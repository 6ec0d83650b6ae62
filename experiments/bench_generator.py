"""How many training scenes are rendered per second: one thread alone, the workers of a training, and batches on a device.

    python -m experiments.bench_generator                             # from the root of the repository
    python -m experiments.bench_generator --device cuda --batch 64    # batches on a graphics card

Both views, truth and augmentation, as in training; the texture bank, drawn once per 256 scenes, is timed apart.
The workers' figure is that of the batches a training would get, from the fifth on, when all workers have begun.
Batches on a device are rendered one after the other from shots that are drawn already; how many shots a process draws per
second, ready to be handed over, is told apart.
Writes the median over the repeats with every single time, the CPU and the version of PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import cv2
import torch

from datasets.batches import training_batches
from datasets.procedural.batched import flat_texels, render
from datasets.procedural.dataset import GeneratedDataset
from datasets.procedural.shots import SCENES_PER_BANK, draw_shot
from datasets.procedural.stack import Stack, stack_shots
from datasets.procedural.textures import texture_bank
from stereo.config import DataConfig
from stereo.engine.machine import cpu_name
from stereo.image_io import atomic_write

WARM = 4  # batches that are not timed
RESULT = Path(__file__).parent / "results" / "generator.json"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=20, help="scenes per repeat (default %(default)s)")
    parser.add_argument("--height", type=int, default=256, help="px (default %(default)s)")
    parser.add_argument("--width", type=int, default=512, help="px (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="the median of these is reported (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the training's loader (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="that renders batches: cpu or cuda (default %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="shots rendered at once there (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file to write (default: %(default)s)")
    arguments = parser.parse_args()
    if min(arguments.scenes, arguments.repeats, arguments.batch) < 1 or arguments.scenes > SCENES_PER_BANK:
        parser.error(f"expected 1 to {SCENES_PER_BANK} scenes and at least 1 repeat and 1 shot in a batch")
    return arguments


def seconds_to_render(dataset: GeneratedDataset) -> float:
    start = time.perf_counter()
    for index in range(len(dataset)):
        dataset[index]
    return time.perf_counter() - start


def samples_per_second(seed: int, size: tuple[int, int], workers: int, batches: int) -> float:
    """Of training_batches with batches of 4."""
    config = DataConfig(seed=seed, crops=(size,), workers=workers)
    stream = training_batches(config, 4, 0, WARM + batches)
    for _ in range(WARM):
        next(stream)
    start = time.perf_counter()
    count = sum(len(batch.names) for batch in stream)
    return count / (time.perf_counter() - start)


def drawn(seed: int, size: tuple[int, int], batch: int, count: int) -> list[Stack]:
    """At least ``count`` shots in batches, as workers hand them over."""
    starts = range(0, count, batch)
    return [stack_shots([draw_shot(seed, start + i, *size) for i in range(batch)]) for start in starts]


def seconds_to_render_batches(stacks: list[Stack], banks: dict, device: str) -> float:
    start = time.perf_counter()
    for stack in stacks:
        rendered = render(stack, banks, device)
    rendered.left.sum().item()  # waits for the device
    return time.perf_counter() - start


def measure_batches(arguments: argparse.Namespace) -> dict:
    size, repeats = (arguments.height, arguments.width), range(arguments.repeats)
    drawing = []
    for _ in repeats:
        start = time.perf_counter()
        stacks = drawn(arguments.seed, size, arguments.batch, arguments.scenes)
        drawing.append(time.perf_counter() - start)
    count = sum(len(stack.names) for stack in stacks)
    keys = {key for stack in stacks for key in stack.banks}
    banks = {key: flat_texels(texture_bank(*key)).to(arguments.device) for key in keys}
    seconds_to_render_batches(stacks[:2], banks, arguments.device)
    seconds = [seconds_to_render_batches(stacks, banks, arguments.device) for _ in repeats]
    on_card = torch.device(arguments.device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_card else f"one thread of {cpu_name()}",
        "batch": arguments.batch,
        "samples_per_second": round(count / statistics.median(seconds), 2),
        "samples": count,
        "seconds": [round(value, 4) for value in seconds],
        "shots_drawn_per_second": round(count / statistics.median(drawing), 1),
    }


def main() -> None:
    arguments, load = parse_arguments(), os.getloadavg()[0]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset = GeneratedDataset(arguments.seed, arguments.scenes, arguments.height, arguments.width)
    start = time.perf_counter()
    texture_bank(arguments.seed, 0)  # cached from here on
    bank_seconds = time.perf_counter() - start
    dataset[0]  # the first call pays for what libraries set up
    seconds = [seconds_to_render(dataset) for _ in range(arguments.repeats)]
    size = (arguments.height, arguments.width)
    batches = max(arguments.scenes, 10)
    rates = sorted(samples_per_second(arguments.seed, size, arguments.workers, batches) for _ in range(3))
    batches_on_device = measure_batches(arguments)
    result = {
        "scenes_per_second": round(arguments.scenes / statistics.median(seconds), 2),
        "scenes": arguments.scenes,
        "height": arguments.height,
        "width": arguments.width,
        "seconds": [round(value, 4) for value in seconds],
        "bank_seconds": round(bank_seconds, 4),
        "scenes_per_bank": SCENES_PER_BANK,
        "threads": 1,
        "workers": arguments.workers,
        "samples_per_second": [round(rate, 2) for rate in rates],
        "batched": batches_on_device,
        "load_average": round(load, 2),  # of the minute before: above 0, others were at work on the machine
        "cpu": cpu_name(),
        "torch": torch.__version__,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    shown = f"{arguments.height}x{arguments.width}"
    print(f"{result['scenes_per_second']} scenes/s of {shown} px on one thread of {result['cpu']} -> {arguments.output}")
    rate, place = batches_on_device["samples_per_second"], batches_on_device["device"]
    print(f"{rate} samples/s in batches of {arguments.batch} on {place}")
    print(f"{batches_on_device['shots_drawn_per_second']} shots/s drawn by one process")
    print(f"{rates[1]:.1f} samples/s by {arguments.workers} workers (of three times: {rates[0]:.1f} to {rates[2]:.1f})")


if __name__ == "__main__":
    main()
