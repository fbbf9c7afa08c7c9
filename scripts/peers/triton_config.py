"""Holds Triton configurations that `kilnc bundle export --layout triton` writes against Triton's own messages.

    pip install 'tritonclient[grpc]==2.73.0' onnx==1.23.2 onnxruntime==1.32.0
    python triton_config.py REPOSITORY...

Each model's config.pbtxt must parse as an `inference.ModelConfig`, and name the inputs and outputs of the model beside it
with its types and sizes, but for the batch.
"""

import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

TYPES = {
    onnx.TensorProto.INT64: schema.TYPE_INT64,
    onnx.TensorProto.INT32: schema.TYPE_INT32,
    onnx.TensorProto.FLOAT: schema.TYPE_FP32,
    onnx.TensorProto.FLOAT16: schema.TYPE_FP16,
}


def ports(values, batched):
    for value in values:
        tensor = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        assert not batched or sizes[0] == -1, value.name
        yield value.name, TYPES[tensor.elem_type], sizes[1:] if batched else sizes


def masked(model):
    """A cache that begins with one position of zeros gives the logits of an empty one, where the mask leaves it out."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ids, logits = np.array([[3, 4, 5]]), []
    for past in [0, 1]:
        given = {}
        for port in session.get_inputs():
            if port.name.startswith("past"):
                given[port.name] = np.zeros([1, port.shape[1], past, port.shape[3]], np.float32)
            elif port.name == "attention_mask":
                given[port.name] = np.array([[0] * past + [1] * 3])
            else:
                given[port.name] = ids if port.name == "input_ids" else np.array([[0, 1, 2]])
        logits.append(session.run(["logits"], given)[0])
    assert np.abs(logits[0] - logits[1]).max() < 1e-5, model


def check(folder):
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert config.name == folder.name and config.backend == "onnxruntime"
    (version,) = config.version_policy.specific.versions
    graph = onnx.load(folder / str(version) / "model.onnx", load_external_data=False).graph
    batched = config.max_batch_size > 0
    states = list(config.sequence_batching.state)
    assert config.HasField("dynamic_batching") == (batched and not states)
    for ours, theirs, name in [(config.input, graph.input, "input_name"), (config.output, graph.output, "output_name")]:
        found = [(port.name, port.data_type, list(port.dims)) for port in ours]
        found += [(getattr(state, name), state.data_type, list(state.dims)) for state in states]
        assert sorted(found) == sorted(ports(theirs, batched)), (found, theirs)
    for state in states:
        (first,) = state.initial_state
        assert first.zero_data and first.data_type == state.data_type
        assert list(first.dims) == [1 if size < 0 else size for size in state.dims]
    labels = [port.label_filename for port in config.output if port.label_filename]
    for file in labels:
        assert len((folder / file).read_text().splitlines()) == config.output[0].dims[-1]
    if states:
        masked(folder / str(version) / "model.onnx")
    print(f"{folder}: {len(config.input)} inputs, {len(config.output)} outputs, batches of {config.max_batch_size}")


for repository in map(pathlib.Path, sys.argv[1:]):
    for folder in sorted(repository.iterdir()):
        check(folder)
