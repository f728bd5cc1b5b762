"""Quantisation-aware training of a workload, against post-training quantisation, with every logit compared.

    python docs/qat.py [--workload lenet5_digits] [--data FOLDER] [--quantization affine]
                       [--quantization-set weight.bits=4] [--epochs 2] [--seed 0] [--machine-images 8] [-o GRAPH]

Prints the accuracy of both on the test images, the price of a step, and how many logits of the fake-quantised network
differ from the integers of its graph on the engine (all images asked for) and on the machine (the first
`--machine-images`).
Exit code 1 where one does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelsim.workloads.data import load_dataset

import accelsim
from accelsim import workloads
from accelsim.engine import execute
from accelsim.training import QatModule, fine_tune

MACHINE_BATCH = 8


def on_machine(graph: accelsim.IntegerGraph, hardware: accelsim.Hardware, images: torch.Tensor) -> np.ndarray:
    """Codes of the output, a few images at a time."""
    parts = images.split(MACHINE_BATCH)
    programs = {len(part): accelsim.compile(graph, hardware, batch=len(part)) for part in (parts[0], parts[-1])}
    return np.concatenate([accelsim.simulate(programs[len(part)], part.numpy()).outputs for part in parts])


def outputs(module: QatModule, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and real logits, a few images at a time."""
    with torch.no_grad():
        parts = [(module.codes(part), module(part)) for part in images.split(250)]
    codes, logits = zip(*parts, strict=True)
    return torch.cat(codes), torch.cat(logits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print three lines; exit code 1 where a logit differs, 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="lenet5_digits")
    parser.add_argument("--data", type=Path, help="folder of the workload's data set")
    parser.add_argument("--quantization", default="affine", help="preset or TOML file (default: affine)")
    parser.add_argument("--quantization-set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--width", type=int, help="train through an accumulator of so many bits (default: exact sums)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate at first (default: 0.001)")
    parser.add_argument("--train-images", type=int, help="how many to train on (default: all)")
    parser.add_argument("--images", type=int, default=1000, help="test images (default: 1000)")
    parser.add_argument("--machine-images", type=int, default=8, help="of these, run on the machine (default: 8)")
    parser.add_argument("--batch-norm", choices=("running", "batch"), default="running")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images (default: 0)")
    parser.add_argument("-o", "--output", type=Path, help="folder for the trained integer graph")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        workload = workloads.load(given.workload)
        where = None if workload.info.dataset == "digits" else given.data
        splits = (
            load_dataset(workload.info.dataset, where, split, size=workload.info.input_size)
            for split in ("train", "test")
        )
        (images, labels), (test, truth) = (
            (torch.from_numpy(split.images), torch.from_numpy(split.labels)) for split in splits
        )
        images, labels = images[: given.train_images], labels[: given.train_images]
        test, truth = test[: given.images], truth[: given.images]
        scheme = accelsim.load_quantization(given.quantization, given.quantization_set)
        width = 32 if given.width is None else given.width
        hardware = accelsim.load_hardware("default_16x16", [f"accumulator.width_bits={width}"])
        module = QatModule.from_module(
            workload.module,
            images[:256],
            scheme,
            None if given.width is None else hardware,
            name=given.workload,
            batch_norm=given.batch_norm,
        ).eval()
        before = float((outputs(module, test)[1].argmax(1) == truth).float().mean())
        begin = time.process_time()
        losses = fine_tune(module, images, labels, epochs=given.epochs, rate=given.rate, seed=given.seed)
        spent = time.process_time() - begin
        codes, logits = outputs(module, test)
        graph = module.to_graph()
        found = graph.to_pytorch(
            execute(graph, accelsim.quantize_input(graph, test.numpy()), hardware.arithmetic())[graph.output]
        )
        few = test[: given.machine_images]
        machine = on_machine(graph, hardware, few)
        if given.output:
            graph.save(given.output)
    except accelsim.InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    after = float((logits.argmax(1) == truth).float().mean())
    output = graph.by_name[graph.output].output
    real = ((found.astype(np.int64) - output.zero_point) * output.scale).astype(np.float32)
    differing = int(((codes.numpy() != found) | (logits.numpy() != real)).sum())
    unlike = int((codes[: len(few)].numpy() != machine).sum())
    steps = given.epochs * -(-len(images) // 64)
    print(f"{given.workload}, {len(test)} test images: {100 * before:.2f} % after training, quantised")
    print(
        f"{100 * after:.2f} % trained quantised, {given.epochs} epochs, loss {losses[0]:.4f} to {losses[-1]:.4f}, "
        f"{1000 * spent / steps:.1f} CPU ms a step of 64"
    )
    print(
        f"logits that differ from the integer graph's: {differing} of {codes.numel()} on the engine, "
        f"{unlike} of {machine.size} on the machine"
    )
    return int(differing > 0 or unlike > 0)


if __name__ == "__main__":
    sys.exit(main())
