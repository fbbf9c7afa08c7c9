"""Times two forms of a layer with 8-bit weights on ONNX Runtime: one range of activations for the whole batch, which is
`DynamicQuantizeLinear` and `MatMulInteger` (ONNX Runtime fuses them), and a range for each row, which no fused kernel has.

    pip install onnx onnxruntime numpy
    python row_ranges.py [ROWS IN OUT ...]

A range for each row would make a prediction independent of the other texts in its batch. ONNX Runtime's `MatMulInteger` takes one
zero point for all activations, so rows are signed and symmetric. Median of 30 runs each, in turns, on one thread.
"""

import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def model(spelling, rows, k, n, rng):
    weight = rng.integers(-64, 65, (k, n)).astype(np.int8)
    scale = np.full(n, 0.01, np.float32)
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(scale, "w_scale")]
    if spelling == "fp32":
        constants = [numpy_helper.from_array(weight.astype(np.float32) * 0.01, "w")]
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    elif spelling == "batch":
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["s", "w_scale"], ["sw"]),
            helper.make_node("Mul", ["f", "sw"], ["y"]),
        ]
    else:
        constants += [
            numpy_helper.from_array(np.float32(127), "largest"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ]
        nodes = [
            helper.make_node("Abs", ["x"], ["a"]),
            helper.make_node("ReduceMax", ["a", "axes"], ["m"], keepdims=1),
            helper.make_node("Div", ["m", "largest"], ["s"]),
            helper.make_node("Div", ["x", "s"], ["d"]),
            helper.make_node("Round", ["d"], ["r"]),
            helper.make_node("Cast", ["r"], ["q"], to=TensorProto.INT8),
            helper.make_node("MatMulInteger", ["q", "w"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "w_scale"], ["g"]),
            helper.make_node("Mul", ["g", "s"], ["y"]),
        ]
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "layer", [value("x", [rows, k])], [value("y", [rows, n])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def main():
    shapes = [int(n) for n in sys.argv[1:]] or [128, 384, 1536, 2048, 384, 1536, 2048, 1536, 384]
    rng = np.random.default_rng(1)
    for rows, k, n in zip(*[iter(shapes)] * 3):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        spellings = ["fp32", "batch", "row"]
        x = {"x": rng.normal(size=(rows, k)).astype(np.float32)}
        sessions = [ort.InferenceSession(model(s, rows, k, n, rng), options) for s in spellings]
        times = {s: [] for s in spellings}
        for _ in range(33):
            for spelling, session in zip(spellings, sessions):
                start = time.perf_counter()
                session.run(None, x)
                times[spelling].append(time.perf_counter() - start)
        median = {s: float(np.median(t[3:])) * 1e3 for s, t in times.items()}
        ratios = ", ".join(f"{s} {median[s]:.2f} ms, {median['fp32'] / median[s]:.2f} x FP32" for s in spellings)
        print(f"[{rows}, {k}] x [{k}, {n}]: {ratios}")


main()
