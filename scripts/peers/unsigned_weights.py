"""Writes a model whose 8-bit weights are unsigned, with the zero point 128: the same numbers, other kernels.

    python unsigned_weights.py INT8.onnx UNSIGNED.onnx

For avx2_times.py and saturation.py, which say what that costs and keeps. Needs onnx and numpy.
"""

import sys

import numpy as np
import onnx
from onnx import numpy_helper

# Where an operator has its weights, their scales and their zero points.
OPERANDS = {"DynamicQuantizeMatMul": (1, 2, 3), "MatMulIntegerToFloat": (1, 3, 5)}


def main(source, target):
    model = onnx.load(source)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    zeros = {}
    for node in model.graph.node:
        if node.op_type not in OPERANDS:
            continue
        weight, scale, zero = OPERANDS[node.op_type]
        name = node.input[weight]
        if name not in zeros:
            signed = numpy_helper.to_array(tensors[name]).astype(np.int16)
            tensors[name].CopyFrom(numpy_helper.from_array((signed + 128).astype(np.uint8), name))
            zeros[name] = f"{name}.zero"
            middle = np.full(tuple(tensors[node.input[scale]].dims), 128, np.uint8)
            model.graph.initializer.append(numpy_helper.from_array(middle, zeros[name]))
        node.input.extend([""] * (zero + 1 - len(node.input)))
        node.input[zero] = zeros[name]
    onnx.save(model, target)


main(*sys.argv[1:])
