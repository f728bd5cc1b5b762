"""A sweep's workload, found and quantised, with the images it is judged on."""

from __future__ import annotations

from accelsim.config import QuantizationScheme
from accelsim.errors import InputError
from accelsim.explore.bench import Prepared
from accelsim.ir import quantize_input
from accelsim.sources import find_workload, graph_folder, load_images


def prepare(
    workload: str,
    scheme: QuantizationScheme,
    *,
    data: str | None,
    images: int | None,
) -> Prepared:
    """Quantise a workload; with `images`, also quantise so many test images.

    Raises:
        InputError: there is no such workload, data or images; the scheme cannot hold the network; a graph directory
            is given another scheme than the usual one, which would change nothing.
    """
    settled = graph_folder(workload) is not None
    if settled and scheme != QuantizationScheme():
        raise InputError(f"{workload}: is a graph directory, quantised already; leave quantization out of the sweep")
    source = find_workload(workload, quantization=None if settled else scheme, data=data)
    if images is None:
        return Prepared(source.graph)
    found = load_images(source, data, images)
    if found.labels is None:
        raise InputError(f"{workload}: its images have no labels, so that nothing can be judged on them")
    float_percent = None
    if source.module is not None:
        from accelsim.frontend import float_predictions

        right = float_predictions(source.module, found.images) == found.labels
        float_percent = 100 * float(right.mean())
    return Prepared(source.graph, quantize_input(source.graph, found.images), found.labels, float_percent)
