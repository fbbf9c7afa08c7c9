"""INT8 engines of kilnc and of its peers side by side: the time to make each, its predictions, its speed.

    pip install -r scripts/peers/requirements.txt
    python scripts/peers/int8_field.py export CHECKPOINT OUT                # Optimum's export and INT8 of a bare encoder
    python scripts/peers/int8_field.py make ONNX_FOLDER TEXTS.jsonl OUT     # NNCF's and ONNX Runtime's static INT8
    python scripts/peers/int8_field.py answers --tokenizer DIR --texts TEXTS.jsonl --labels FILE ENGINE…
    python scripts/peers/int8_field.py time --shapes 1x128,8x128,1x384 --rounds 15 ENGINE…

An ENGINE is NAME=KIND:FILE, where KIND is `ort` (ONNX Runtime's own kernels), `ov-ep` (ONNX Runtime with the OpenVINO
provider) or `openvino` (OpenVINO itself). Every engine runs in its own process with two threads, and they take
turns in an order that is shuffled each round; ratios are against the first engine, round by round. `ov-ep` needs
`KILNC_OPENVINO`, the folder that the wheel `onnxruntime-openvino` is unpacked in (`kilnc doctor` names it).
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

THREADS = 2


def openvino_properties(path):
    """What kilnc's engine says of itself in its metadata, under OpenVINO's own names."""
    import onnx

    found = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
    prefix = "openvino."
    return {"INFERENCE_PRECISION_HINT": "f32"} | {
        key[len(prefix) :]: value for key, value in found.items() if key.startswith(prefix)
    }


def open_ort(path):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return lambda feed: session.run(None, {n: feed[n] for n in names})[0]


def open_openvino_provider(path):
    properties = openvino_properties(path)
    sys.path.insert(0, os.environ["KILNC_OPENVINO"])
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    provider = {
        "device_type": "CPU",
        "num_of_threads": str(THREADS),
        "load_config": json.dumps({"CPU": properties}),
    }
    session = ort.InferenceSession(path, options, providers=[("OpenVINOExecutionProvider", provider)])
    names = [i.name for i in session.get_inputs()]
    return lambda feed: session.run(None, {n: feed[n] for n in names})[0]


def open_openvino(path):
    import openvino as ov

    core = ov.Core()
    config = {"INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    config["INFERENCE_PRECISION_HINT"] = "f32"
    request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
    names = [i.any_name for i in request.model_inputs]
    return lambda feed: request.infer({n: feed[n] for n in names})[request.model_outputs[0]]


OPENERS = {"ort": open_ort, "ov-ep": open_openvino_provider, "openvino": open_openvino}


def feed_of(ids, mask, types):
    import numpy as np

    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: np.asarray(value, dtype=np.int64) for name, value in arrays.items()}


def work(kind, path):
    """The side of an engine: serves requests from standard input, a line each."""
    import numpy as np

    # Libraries print anywhere; replies have their own stream.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = OPENERS[kind](path)
    for line in sys.stdin:
        request = json.loads(line)
        if "texts" in request:
            rows = [run(feed_of(*text))[0].reshape(-1).tolist() for text in request["texts"]]
            answer = {"rows": rows}
        else:
            batch, length = request["shape"]
            ids = np.random.default_rng(0).integers(1000, 20000, (batch, length))
            feed = feed_of(ids, np.ones_like(ids), np.zeros_like(ids))
            times = []
            for i in range(request["runs"] + 1):
                start = time.perf_counter()
                run(feed)
                times.append((time.perf_counter() - start) * 1e3)
            answer = {"ms": statistics.median(times[1:])}
        print(json.dumps(answer), file=answers, flush=True)


class Engine:
    """A worker and its pipes."""

    def __init__(self, spec):
        self.name, _, rest = spec.partition("=")
        kind, _, path = rest.partition(":")
        if kind not in OPENERS or not path:
            raise SystemExit(f"`{spec}` is not NAME=KIND:FILE with KIND one of {', '.join(OPENERS)}")
        command = [sys.executable, __file__, "work", kind, path]
        self.complaints = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True
        )

    def ask(self, request):
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.complaints.seek(0)
            raise SystemExit(f"{self.name} ended with {self.process.wait()}:\n{self.complaints.read()[-2000:]}")
        return json.loads(line)


def measure(engines, shapes, rounds, runs):
    """Medians and ratios to the first engine, by shape."""
    random.seed(0)
    print("| engine | " + " | ".join(f"b{b} s{s} ms | × first (quartiles)" for b, s in shapes) + " |")
    print("|---|" + "---|---|" * len(shapes))
    cells = {engine.name: [] for engine in engines}
    for shape in shapes:
        for engine in engines:
            engine.ask({"shape": shape, "runs": 3})
        found = {engine.name: [] for engine in engines}
        for _ in range(rounds):
            for engine in random.sample(engines, len(engines)):
                found[engine.name].append(engine.ask({"shape": shape, "runs": runs})["ms"])
                time.sleep(0.02)
        for engine in engines:
            ratios = [a / b for a, b in zip(found[engines[0].name], found[engine.name])]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells[engine.name].append(
                f"{statistics.median(found[engine.name]):.2f} | {middle:.2f} ({low:.2f}–{high:.2f})"
            )
    for name, row in cells.items():
        print(f"| {name} | " + " | ".join(row) + " |")


def tokenized(tokenizer, texts, length):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(pathlib.Path(tokenizer) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    encoded = [tokenizer.encode(entry["text"]) for entry in texts]
    return [[[e.ids], [e.attention_mask], [e.type_ids]] for e in encoded]


def answers(engines, args):
    """Predictions for every text, one at a time, compared with the first engine's."""
    import numpy as np

    texts = read(args.texts)
    labels = json.loads(args.labels.read_text())
    inputs = tokenized(args.tokenizer, texts, args.max_length)
    truth = np.array([labels.index(entry["label"]) for entry in texts])
    reference = None
    print("| engine | accuracy | correct | agreement | rms of logits' change |")
    print("|---|---|---|---|---|")
    for engine in engines:
        rows = np.array(engine.ask({"texts": inputs})["rows"])
        reference = rows if reference is None else reference
        chosen = rows.argmax(1)
        same = (chosen == reference.argmax(1)).mean()
        rms = np.sqrt(((rows - reference) ** 2).mean())
        right = int((chosen == truth).sum())
        print(f"| {engine.name} | {right / len(texts):.4f} | {right}/{len(texts)} | {same:.4f} | {rms:.4f} |", flush=True)


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def export(args):
    """Optimum's FP32 export of an encoder without a head, in OUT/onnx, and its dynamic INT8 in OUT/int8."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer

    onnx, int8 = args.out / "onnx", args.out / "int8"
    ORTModelForFeatureExtraction.from_pretrained(args.checkpoint, export=True).save_pretrained(onnx)
    AutoTokenizer.from_pretrained(args.checkpoint).save_pretrained(onnx)
    scheme = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    ORTQuantizer.from_pretrained(onnx).quantize(save_dir=int8, quantization_config=scheme)


def make(args):
    """NNCF's INT8 for OpenVINO and ONNX Runtime's static Q/DQ of an FP32 model, calibrated on texts; seconds of each."""
    onnx = str(args.onnx / "model.onnx")
    inputs = [feed_of(*text) for text in tokenized(args.onnx, read(args.texts), args.max_length)]
    args.out.mkdir(parents=True, exist_ok=True)
    seconds = {}

    start = time.perf_counter()
    import nncf
    import openvino as ov

    model = ov.Core().read_model(onnx)
    quantized = nncf.quantize(
        model, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs)
    )
    ov.save_model(quantized, str(args.out / "nncf.xml"), compress_to_fp16=False)
    seconds["nncf"] = round(time.perf_counter() - start, 1)

    start = time.perf_counter()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(inputs)

        def get_next(self):
            return next(self.left, None)

    prepared = str(args.out / "prepared.onnx")
    quant_pre_process(onnx, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        str(args.out / "ort-static.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    seconds["ort-static"] = round(time.perf_counter() - start, 1)
    print(json.dumps({"seconds": seconds}))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export")
    exporting.add_argument("checkpoint")
    exporting.add_argument("out", type=pathlib.Path)
    making = commands.add_parser("make")
    making.add_argument("onnx", type=pathlib.Path)
    making.add_argument("texts", type=pathlib.Path)
    making.add_argument("out", type=pathlib.Path)
    making.add_argument("--max-length", type=int, default=128)
    answering = commands.add_parser("answers")
    answering.add_argument("--tokenizer", type=pathlib.Path, required=True)
    answering.add_argument("--texts", type=pathlib.Path, required=True)
    answering.add_argument("--labels", type=pathlib.Path, required=True)
    answering.add_argument("--max-length", type=int, default=128)
    answering.add_argument("engines", nargs="+", metavar="ENGINE")
    timing = commands.add_parser("time")
    timing.add_argument("--shapes", default="1x128,8x128,1x384")
    timing.add_argument("--rounds", type=int, default=15)
    timing.add_argument("--runs", type=int, default=5, help="of one engine in a round; their median counts")
    timing.add_argument("engines", nargs="+", metavar="ENGINE")
    working = commands.add_parser("work")
    working.add_argument("kind")
    working.add_argument("path")
    return parser.parse_args()


def main():
    args = arguments()
    match args.command:
        case "export":
            export(args)
        case "make":
            make(args)
        case "work":
            work(args.kind, args.path)
        case "answers":
            answers([Engine(spec) for spec in args.engines], args)
        case "time":
            shapes = [[int(n) for n in shape.split("x")] for shape in args.shapes.split(",")]
            measure([Engine(spec) for spec in args.engines], shapes, args.rounds, args.runs)


if __name__ == "__main__":
    main()
