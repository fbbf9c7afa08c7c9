"""The steps without kilnc: PEFT merge, Optimum's ONNX export, Optimum's dynamic INT8, each step timed.

    python optimum_int8.py CHECKPOINT ADAPTER OUT [--labels FILE]

`ADAPTER` is a SEQ_CLS LoRA; its `labels.json` (a list of names) is read unless `--labels` names another.
Writes OUT/merged, OUT/onnx and OUT/int8; prints one JSON object of seconds and file sizes on stdout.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")


class Steps:
    """Wall-clock seconds of named steps, in order."""

    def __init__(self):
        self.seconds = {}

    @contextlib.contextmanager
    def step(self, name):
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def merge(checkpoint, adapter, labels, out):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = AutoModelForSequenceClassification.from_pretrained(
        checkpoint,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(out)


def export(merged, out):
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    ORTModelForSequenceClassification.from_pretrained(merged, export=True).save_pretrained(out)
    AutoTokenizer.from_pretrained(merged).save_pretrained(out)


def quantize(onnx, out):
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    scheme = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    ORTQuantizer.from_pretrained(onnx).quantize(save_dir=out, quantization_config=scheme)


def imports():
    """Loads the libraries first, so that no step pays for them."""
    import optimum.onnxruntime  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ["checkpoint", "adapter", "out"]:
        parser.add_argument(name, metavar=name.upper(), type=pathlib.Path)
    parser.add_argument("--labels", type=pathlib.Path, metavar="FILE", help="default ADAPTER/labels.json")
    return parser.parse_args()


def main():
    args = arguments()
    labels = json.loads((args.labels or args.adapter / "labels.json").read_text())
    merged, onnx, int8 = (args.out / name for name in ["merged", "onnx", "int8"])
    steps = Steps()
    with contextlib.redirect_stdout(sys.stderr):  # the libraries talk; stdout is for the JSON
        with steps.step("import"):
            imports()
        with steps.step("merge"):
            merge(args.checkpoint, args.adapter, labels, merged)
        with steps.step("export"):
            export(merged, onnx)
        with steps.step("quantize"):
            quantize(onnx, int8)
    weights = [path for path in sorted(args.out.rglob("*")) if path.suffix in {".onnx", ".safetensors", ".data"}]
    sizes = {path.relative_to(args.out).as_posix(): path.stat().st_size for path in weights}
    total = round(sum(steps.seconds.values()), 2)
    print(json.dumps({"seconds": steps.seconds | {"total": total}, "bytes": sizes}, indent=2))


if __name__ == "__main__":
    main()
