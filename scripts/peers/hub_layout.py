"""Opens the export of `kilnc bundle export --layout hub` with Optimum, and compares its predictions with kilnc's.

    python hub_layout.py KILNC BUNDLE TEXT...

KILNC is the binary. Every model of the export runs the texts through Transformers' pipeline of the bundle's task, by
the tokenizer and the labels of the export alone; kilnc runs them by the bundle's engine of the same name. Of a bundle
for question answering the first text is the question to the others. Needs what requirements.txt names.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from optimum import onnxruntime as ort
from transformers import AutoTokenizer, pipeline

# Left of an engine's precision, right of the file that holds it.
FILES = {"fp32": "model.onnx", "int8": "model_quantized.onnx", "fp16": "model_fp16.onnx", "int4": "model_q4.onnx"}


def close(a, b):
    return abs(a - b) < 1e-4


def label(ask, ours, text):
    theirs = ask(text, truncation=True)[0]
    assert theirs["label"] == ours["label"] and close(theirs["score"], ours["score"]), (text, theirs, ours)


def entities(ask, ours, text):
    theirs = ask(text, aggregation_strategy="simple")
    fields = ["entity_group", "start", "end"]
    assert [[e[f] for f in fields] for e in theirs] == [[e[f] for f in fields] for e in ours["entities"]], (theirs, ours)
    assert all(close(a["score"], b["score"]) for a, b in zip(theirs, ours["entities"])), (theirs, ours)


def span(ask, ours, text):
    theirs, ours = ask(question=ours["question"], context=text), ours["answers"][0]
    assert (theirs["start"], theirs["end"], theirs["answer"]) == (ours["start"], ours["end"], ours["answer"]), (theirs, ours)
    assert close(theirs["score"], ours["score"]), (theirs, ours)


def masked(ask, ours, text):
    theirs = ask(text, top_k=5)
    assert [guess["token"] for guess in theirs] == [guess["token"] for guess in ours["masks"][0]][:5], (theirs, ours)
    assert all(close(a["score"], b["score"]) for a, b in zip(theirs, ours["masks"][0])), (theirs, ours)


def features(ask, ours, text):
    assert np.allclose(ask(text)[0], ours["features"], atol=1e-4), text


def embedding(ask, ours, text):
    inputs = ask.tokenizer(text, return_tensors="np", truncation=True)
    names = {port.name for port in ask.model.session.get_inputs()}
    found = ask.model.session.run(["sentence_embedding"], {k: v for k, v in inputs.items() if k in names})[0][0]
    assert np.allclose(found, ours["embedding"], atol=1e-4), text


TASKS = {
    "text-classification": (ort.ORTModelForSequenceClassification, label),
    "token-classification": (ort.ORTModelForTokenClassification, entities),
    "question-answering": (ort.ORTModelForQuestionAnswering, span),
    "fill-mask": (ort.ORTModelForMaskedLM, masked),
    "feature-extraction": (ort.ORTModelForFeatureExtraction, features),
    "sentence-similarity": (ort.ORTModelForFeatureExtraction, embedding),
}


def kilnc(*arguments):
    return json.loads(subprocess.run([*map(str, arguments), "--json", "--quiet"], check=True, capture_output=True).stdout)


def main(binary, bundle, *texts):
    with tempfile.TemporaryDirectory() as place:
        export = pathlib.Path(place) / "export"
        kilnc(binary, "bundle", "export", bundle, "--layout", "hub", "-o", export)
        tokenizer = AutoTokenizer.from_pretrained(export)
        manifest = kilnc(binary, "inspect", bundle)
        task = manifest["task"]
        of, same = TASKS[task]
        question = ["--question", texts[0]] if task == "question-answering" else []
        texts = texts[1:] if question else texts
        for engine in manifest["engines"]:
            if engine["target"] != "ort-cpu" or engine["precision"] not in FILES:
                continue
            file = FILES[engine["precision"]]
            model = of.from_pretrained(export, subfolder="onnx", file_name=file)
            name = "feature-extraction" if task == "sentence-similarity" else task
            ask = pipeline(name, model=model, tokenizer=tokenizer)
            text = [part for text in texts for part in ("--text", text)]
            for ours, text in zip(kilnc(binary, "run", bundle, "--engine", engine["name"], *question, *text), texts):
                same(ask, ours, text)
            print(f"{file}: {len(texts)} texts predicted as by {engine['name']} ({task})")


main(*sys.argv[1:])
