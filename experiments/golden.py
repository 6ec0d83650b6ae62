"""The disparities that ``selftest`` holds the reference against, stored beside the shipped weights.

    python -m experiments.golden            # from the root of the repository, whenever other weights are shipped; seconds

Written by the reference path in float32 on a CPU; 16 px between two values.
"""

from __future__ import annotations

import json

from stereo.checkpoint import default_weights, load_model
from stereo.files import atomic_write
from stereo.selftest import golden_facts, golden_file


def main() -> None:
    weights = default_weights()
    target = golden_file(weights.name)
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(golden_facts(load_model(weights, "cpu"), weights.name)) + "\n", encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
