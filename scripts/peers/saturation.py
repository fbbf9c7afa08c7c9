"""Says how far a model in 8 bits is from the model in FP32 on this processor, and on one without VNNI.

    apt-get install qemu-user
    python saturation.py FP32.onnx INT8.onnx tokenizer.json TEXTS.jsonl COUNT

QEMU emulates a Haswell, which adds products of 8 bits in 16. The first COUNT texts are run one by one with one thread,
128 tokens at most. For an engine for OpenVINO, put the folder of `onnxruntime-openvino` first in PYTHONPATH. Needs
onnxruntime, tokenizers and numpy.
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

OPENVINO = "OpenVINOExecutionProvider"
EMULATED = ["qemu-x86_64", "-cpu", "Haswell"]


def logits(model, tokenizer, texts, count):
    tokenizer = Tokenizer.from_file(tokenizer)
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    if OPENVINO in ort.get_available_providers():
        precise = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "f32"}})
        providers = [(OPENVINO, {"device_type": "CPU", "load_config": precise, "num_of_threads": "1"})]
    session = ort.InferenceSession(model, options, providers=providers)
    names = [port.name for port in session.get_inputs()]
    rows = []
    with open(texts) as lines:
        for line, _ in zip(lines, range(int(count))):
            found = tokenizer.encode(json.loads(line)["text"])
            values = {"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}
            rows.append(session.run(None, {name: np.array([values[name]], np.int64) for name in names})[0][0])
    return np.array(rows)


def emulated(*arguments):
    with tempfile.TemporaryDirectory() as place:
        out = os.path.join(place, "logits.npy")
        subprocess.run([*EMULATED, sys.executable, __file__, "--child", out, *arguments], check=True, stderr=subprocess.DEVNULL)
        return np.load(out)


def main(fp32, int8, *asked):
    reference = logits(fp32, *asked)
    for name, found in [("here", logits(int8, *asked)), ("Haswell", emulated(int8, *asked))]:
        rms = np.sqrt(np.mean((found - reference) ** 2))
        same = np.mean(found.argmax(1) == reference.argmax(1))
        print(f"{name}: rms of the logits' change {rms:.4f}, agreement {same:.3f} of {len(found)} texts")


if sys.argv[1] == "--child":
    np.save(sys.argv[2], logits(*sys.argv[3:]))
else:
    main(*sys.argv[1:])
