"""Integer graph -> machine operations: which nodes one pass of COMPUTE and POST computes together.

Fusion never changes a bit: a POST forms every intermediate code, clamp included, or provably the same result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelsim.config import Hardware
from accelsim.errors import InputError
from accelsim.ir import Input, IntegerGraph, Mac, MaxPool2d, Node, Table
from accelsim.numerics import Rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """One layer of the machine.

    Attributes:
        label: the instructions' label, position in the list of operations.
        head: the node that gives the operation its name and kind.
        pool: a max pool fused behind a sum of products.
        table: an activation table fused at the end.
    """

    label: int
    head: Node
    pool: MaxPool2d | None = None
    table: Table | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Nodes in order; only the last one's tensor is written."""
        # A table precedes a pool behind it; both orders give the same codes, for the table is then monotone.
        return tuple(node for node in (self.head, self.table, self.pool) if node is not None)

    @property
    def result(self) -> Node:
        """The node whose tensor is written."""
        return self.nodes[-1]


def lower(graph: IntegerGraph, hardware: Hardware) -> list[Operation]:
    """Group the graph's nodes into operations, in an order in which every operand is there.

    A Mac takes a table and a max pool that alone read it; an add, a pool or a clip takes a table.
    """
    operations: list[Operation] = []
    done: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, Input) or node.name in done:
            continue
        table = pool = None
        follower = _only_user(graph, node)
        if isinstance(follower, Table) and not isinstance(node, Table):
            table = follower
            follower = _only_user(graph, follower)
        if (
            isinstance(node, Mac)
            and isinstance(follower, MaxPool2d)
            and _poolable(graph, node, table, follower, hardware)
        ):
            pool = follower
        operation = Operation(label=len(operations), head=node, pool=pool, table=table)
        done.update(part.name for part in operation.nodes)
        operations.append(operation)
    if len(operations) > 4096:
        raise InputError(f"{graph.name}: {len(operations)} layers exceed the 4096 that a 12-bit label can name")
    return operations


def _only_user(graph: IntegerGraph, node: Node) -> Node | None:
    """The node that alone reads this one's output, unless the output is the graph's own result."""
    users = graph.users(node.name)
    return users[0] if len(users) == 1 and node.name != graph.output else None


def _poolable(graph: IntegerGraph, node: Mac, table: Table | None, pool: MaxPool2d, hardware: Hardware) -> bool:
    """Whether max over accumulators, then the output stage, equals the output stage, then max.

    It does where everything after the maximum is monotone: M > 0 and any rounding are; wrapping outputs are not, a
    table need not be, and tflite_double wraps where it shifts left. Windows must not overlap, and one must fit half
    the accumulator memory.
    """
    how = graph.requantization
    disjoint = all(step >= size for step, size in zip(pool.stride, pool.kernel, strict=True))
    fits = pool.kernel[0] * pool.kernel[1] <= hardware.accumulator_depth // 2
    monotone = how.output_overflow == "saturate" and (table is None or bool(np.all(np.diff(table.entries) >= 0)))
    if how.rounding is Rounding.TFLITE_DOUBLE and int(node.multiplier.shift.min()) < 0:
        monotone = False
    return disjoint and fits and monotone and not any(pool.padding)
