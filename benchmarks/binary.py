"""How fast binary networks are evaluated: 8-bit integers against float products.

Paths of flips between fully connected networks of ±1, on random inputs of ±1. Timed in one run, in
turn, the fastest of some repeats; packing the weights and the inputs is part of it. *ratio* is
above 1 where integers win. That the curves are the same is checked.

    python benchmarks/binary.py --batch 250
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch
import toroid
from paths import clock

SIZES = [(201, 1.0, 1000), (784, 1.0, 500), (784, 1.0, 10000), (784, 8.0, 10000)]


def measure(inputs, width, images, batch, repeats):
    """One row: a network's size, both times and their ratio."""
    torch.manual_seed(0)
    model, other = (toroid.binary_mlp((inputs,), width=width) for _ in range(2))
    path = toroid.Hamming(*(toroid.binary.signs(m.state_dict()) for m in (model, other)))
    x = 2.0 * torch.randint(2, (images, inputs)) - 1
    data = toroid.data.Dataset(x, torch.randint(10, (images,)), 10)
    seconds, found = {}, {}
    for _ in range(repeats):
        for precision in ("float32", "int8"):
            took, found[precision] = clock(
                lambda how=precision: toroid.along(
                    path, model, data, points=11, batch_size=batch, precision=how
                ),
                "cpu",
            )
            seconds[precision] = min(took, seconds.get(precision, took))
    pd.testing.assert_frame_equal(found["int8"].frame, found["float32"].frame)
    return {
        "inputs": inputs, "units": len(model[1].weight), "images": images,
        **{f"{k}, ms": 1e3 * v for k, v in seconds.items()},
        "ratio": seconds["float32"] / seconds["int8"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1000, help="images at a time")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--networks", type=int, default=len(SIZES), help="the first so many")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    sizes = SIZES[: arguments.networks]
    rows = [measure(*size, arguments.batch, arguments.repeats) for size in sizes]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
