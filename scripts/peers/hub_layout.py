"""Opens what `kilnc bundle export --layout hub` writes with Optimum, and holds its answers against kilnc's.

    python hub_layout.py KILNC BUNDLE TEXT...

KILNC is the binary. Every model of the export answers the texts through Transformers' pipeline, by the tokenizer and the
labels of the export alone; kilnc answers them by the bundle's engine of the same name. Needs what requirements.txt names.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

# Left of an engine's precision, right of the file that holds it.
FILES = {"fp32": "model.onnx", "int8": "model_quantized.onnx", "fp16": "model_fp16.onnx", "int4": "model_q4.onnx"}


def kilnc(*arguments):
    return json.loads(subprocess.run([*map(str, arguments), "--json", "--quiet"], check=True, capture_output=True).stdout)


def main(binary, bundle, *texts):
    with tempfile.TemporaryDirectory() as place:
        export = pathlib.Path(place) / "export"
        kilnc(binary, "bundle", "export", bundle, "--layout", "hub", "-o", export)
        tokenizer = AutoTokenizer.from_pretrained(export)
        for engine in kilnc(binary, "inspect", bundle)["engines"]:
            if engine["target"] != "ort-cpu" or engine["precision"] not in FILES:
                continue
            file = FILES[engine["precision"]]
            model = ORTModelForSequenceClassification.from_pretrained(export, subfolder="onnx", file_name=file)
            ask = pipeline("text-classification", model=model, tokenizer=tokenizer)
            text = [part for text in texts for part in ("--text", text)]
            for ours, text in zip(kilnc(binary, "run", bundle, "--engine", engine["name"], *text), texts):
                theirs = ask(text, truncation=True)[0]
                assert theirs["label"] == ours["label"], (file, text, theirs, ours)
                assert abs(theirs["score"] - ours["score"]) < 1e-4, (file, text, theirs, ours)
            print(f"{file}: {len(texts)} texts answered as by {engine['name']}")


main(*sys.argv[1:])
