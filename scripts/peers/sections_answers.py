"""Writes the outputs of PyTorch and PEFT for every text of a file, to compare kilnc with.

    pip install -r scripts/peers/requirements.txt
    python scripts/peers/sections_answers.py CHECKPOINT LORA TEXTS.jsonl OUT.safetensors [--max-length 128]

One text at a time, the adapter not merged; `logits` is [texts, labels] in float32.
"""

import argparse
import json
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("lora", type=pathlib.Path)
    parser.add_argument("texts")
    parser.add_argument("out")
    parser.add_argument("--max-length", type=int, default=128)
    args = parser.parse_args()

    torch.set_num_threads(1)
    labels = json.loads((args.lora / "labels.json").read_text())
    with open(args.texts, encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    base = AutoModelForSequenceClassification.from_pretrained(args.checkpoint, num_labels=len(labels))
    model = PeftModel.from_pretrained(base, args.lora).eval()
    rows = []
    with torch.no_grad():
        for entry in texts:
            given = tokenizer(entry["text"], truncation=True, max_length=args.max_length, return_tensors="pt")
            rows.append(model(**given).logits[0])
    logits = torch.stack(rows)
    right = sum(labels[row.argmax()] == entry["label"] for row, entry in zip(logits, texts))
    save_file({"logits": logits.contiguous()}, args.out)
    print(f"{right} of {len(texts)} right")


if __name__ == "__main__":
    main()
