"""Fine-tune a network for an accumulator that is too narrow for it, and check the result on the machine.

    python docs/fine_tuning.py [--workload lenet5_digits] [--width 14] [--dataflow ws] [--epochs 10] [-o GRAPH]

Trains on the embedded digits' training images through `accelsim.EngineModule`, whose forward pass has the accelerator's
bits, and prints the accuracy on the test images before and after: as the engine and as the machine compute it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelsim.workloads.data import Dataset, load_dataset
from torch.nn import functional

import accelsim
from accelsim import workloads
from accelsim.engine import execute


def fine_tune(module: accelsim.EngineModule, data: Dataset, *, epochs: int, rate: float, seed: int) -> list[float]:
    """Adam with a cosine schedule; return the mean loss of each epoch."""
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(labels), generator=order).split(64):
            loss = functional.cross_entropy(module(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        schedule.step()
        losses.append(total / len(labels))
    return losses


def engine_accuracy(graph: accelsim.IntegerGraph, data: Dataset, hardware: accelsim.Hardware) -> float:
    """Share of images that a graph classifies correctly on the engine."""
    codes = execute(graph, accelsim.quantize_input(graph, data.images), hardware.arithmetic())[graph.output]
    return float(np.mean(graph.to_pytorch(codes).argmax(axis=1) == data.labels))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line before and one after; exit code 1 where engine and machine disagree, 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="lenet5_digits")
    parser.add_argument("--width", type=int, default=14, help="bits of the accumulator (default: 14)")
    parser.add_argument("--dataflow", choices=("ws", "os"), default="ws")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate at first (default: 0.0005)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images (default: 0)")
    parser.add_argument(
        "--through-overflow", action="store_true", help="let gradients pass outputs that overflow changed"
    )
    parser.add_argument("-o", "--output", type=Path, help="folder for the fine-tuned integer graph")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the order of float additions, and so the result, does not depend on the cores
    try:
        workload = workloads.load(given.workload)
        size = workload.info.input_size
        train, test = (load_dataset("digits", None, split, size=size) for split in ("train", "test"))
        scheme = accelsim.load_quantization("int8")
        machine = [f"accumulator.width_bits={given.width}", f"array.dataflow={given.dataflow}"]
        hardware = accelsim.load_hardware("default_16x16", machine)
        module = accelsim.EngineModule.from_module(
            workload.module,
            train.images[:256],
            scheme,
            hardware,
            name=given.workload,
            through_overflow=given.through_overflow,
        )
        before = engine_accuracy(module.to_graph(), test, hardware)
        print(f"{given.workload}, {given.dataflow}, {given.width}-bit accumulator: {100 * before:.2f} % before")
        losses = fine_tune(module, train, epochs=given.epochs, rate=given.rate, seed=given.seed)
        graph = module.to_graph()
        after = engine_accuracy(graph, test, hardware)
        on_machine = accelsim.evaluate(graph, test.images, test.labels, hardware).accuracy
        if given.output:
            graph.save(given.output)
    except accelsim.InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(
        f"after {given.epochs} epochs, loss {losses[0]:.3f} to {losses[-1]:.3f}: {100 * after:.2f} % on the engine, "
        f"{100 * on_machine:.2f} % on the machine"
    )
    return int(after != on_machine)


if __name__ == "__main__":
    sys.exit(main())
