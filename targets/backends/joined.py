"""Concats of a quantised graph, in a form that OpenVINO compiles rightly and whole.

    Concat → Q(s, int8 z) → DQ    →  Concat → Q(s, uint8 z + 128) → DQ
    DQ → reader, no product       →  DQ → Max(lowest float) → reader

The first computes a signed Concat rightly that an INT8 product reads; the second keeps a zero point
out of the next Q, where the compiler looks for a scale that is not there and crashes (2026.4). Both
compute the same as before, bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.operators import HALF_KEY, WEIGHTED, op_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, NodeProto, TensorProto

_SHIFT = 128


def apart(model: ModelProto) -> bool:
    """Rewrite a model in place; whether it has such a Concat."""
    return _Writer(model).run()


def without_half(model: ModelProto) -> bool:
    """Let the float layers of a quantised model stay float32, in place; whether they were half.

    BF16 has as few bits as the integers: a layer between two that are rounded to them, computed in
    it, comes to other integers, and in a deep network all that follows does.
    """
    quantised = any(op_of(node) == "QuantizeLinear" for node in model.graph.node)
    kept = [entry for entry in model.metadata_props if entry.key != HALF_KEY]
    if not quantised or len(kept) == len(model.metadata_props):
        return False
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return True


FORMS = (
    (apart, "with its Concats stored as uint8, kept apart from what is quantised next"),
    (without_half, "with its float layers in float32"),
)
"""What may be changed of a graph on which OpenVINO fails, in place, and what is other then."""


class _Writer:
    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.constants: dict[str, TensorProto] = {t.name: t for t in self.graph.initializer}
        self.outputs = {output.name for output in self.graph.output}
        self.behind: dict[str, NodeProto] = {}  # the Max to come, by what it reads

    def run(self) -> bool:
        joined = list(self._joined())
        for quantise, restored in joined:
            self._make_unsigned([quantise, *restored])
            for node in restored:
                self._set_apart(node.output[0])
        nodes = [each for node in self.graph.node for each in self._with_max(node)]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        return bool(joined)

    def _joined(self) -> Iterator[tuple[NodeProto, list[NodeProto]]]:
        """Each Q behind a Concat, with the DQs that alone read it."""
        made = {name: op_of(node) for node in self.graph.node for name in node.output}
        for node in self.graph.node:
            if op_of(node) != "QuantizeLinear" or made.get(node.input[0]) != "Concat":
                continue
            restored, integers = self.readers[node.output[0]], node.output[0]
            if integers not in self.outputs and {op_of(each) for each in restored} == {
                "DequantizeLinear"
            }:
                yield node, restored

    def _make_unsigned(self, pair: list[NodeProto]) -> None:
        from onnx import TensorProto, numpy_helper

        zeros = [self.constants.get(n.input[2]) if len(n.input) > 2 else None for n in pair]
        if not all(zero is not None and zero.data_type == TensorProto.INT8 for zero in zeros):
            return
        for node, zero in zip(pair, zeros, strict=True):
            assert zero is not None, "seen above"
            name = f"{zero.name}/unsigned"
            if name not in self.constants:
                values = numpy_helper.to_array(zero).astype(np.int16) + _SHIFT
                self.constants[name] = numpy_helper.from_array(values.astype(np.uint8), name)
                self.graph.initializer.append(self.constants[name])
            node.input[2] = name
        kept = [each for each in self.graph.value_info if each.name != pair[0].output[0]]
        del self.graph.value_info[:]
        self.graph.value_info.extend(kept)

    def _set_apart(self, tensor: str) -> None:
        """Let all but products read a tensor through a Max that changes nothing."""
        from onnx import helper, numpy_helper

        others = [node for node in self.readers[tensor] if op_of(node) not in WEIGHTED]
        if not others:
            return
        lowest, name = "rtc/lowest", f"{tensor}/apart"
        if lowest not in self.constants:
            values = np.array(np.finfo(np.float32).min, np.float32)
            self.constants[lowest] = numpy_helper.from_array(values, lowest)
            self.graph.initializer.append(self.constants[lowest])
        self.behind[tensor] = helper.make_node("Max", [tensor, lowest], [name], name=name)
        for node in others:
            node.input[:] = [name if each == tensor else each for each in node.input]

    def _with_max(self, node: NodeProto) -> Iterator[NodeProto]:
        yield node
        for name in node.output:
            if name in self.behind:
                yield self.behind[name]
