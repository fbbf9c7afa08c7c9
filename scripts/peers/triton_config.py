"""Holds Triton configurations that `kilnc bundle export --layout triton` writes against Triton's own messages.

    pip install 'tritonclient[grpc]==2.73.0' onnx==1.23.2
    python triton_config.py REPOSITORY...

Each model's config.pbtxt must parse as an `inference.ModelConfig`, and name the inputs and outputs of the model beside it
with its types and sizes, but for the batch.
"""

import pathlib
import sys

import onnx
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


def check(folder):
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert config.name == folder.name and config.backend == "onnxruntime"
    (version,) = config.version_policy.specific.versions
    graph = onnx.load(folder / str(version) / "model.onnx", load_external_data=False).graph
    batched = config.max_batch_size > 0
    assert batched == config.HasField("dynamic_batching")
    for ours, theirs in [(config.input, graph.input), (config.output, graph.output)]:
        found = [(port.name, port.data_type, list(port.dims)) for port in ours]
        assert found == list(ports(theirs, batched)), (found, theirs)
    labels = [port.label_filename for port in config.output if port.label_filename]
    for file in labels:
        assert len((folder / file).read_text().splitlines()) == config.output[0].dims[-1]
    print(f"{folder}: {len(config.input)} inputs, {len(config.output)} outputs, batches of {config.max_batch_size}")


for repository in map(pathlib.Path, sys.argv[1:]):
    for folder in sorted(repository.iterdir()):
        check(folder)
