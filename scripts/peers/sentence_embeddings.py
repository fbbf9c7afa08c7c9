"""Writes the outputs of sentence-transformers for the first texts of a file, as a golden file for kilnc.

    pip install -r scripts/peers/requirements.txt sentence-transformers==5.1.0
    python scripts/peers/sentence_embeddings.py CHECKPOINT TEXTS.jsonl OUT.safetensors [--texts 16] [--max-length 64]
"""

import argparse
import json

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("texts")
    parser.add_argument("out")
    parser.add_argument("--texts", dest="count", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=64)
    args = parser.parse_args()

    with open(args.texts, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines][: args.count]
    model = SentenceTransformer(args.checkpoint, device="cpu").eval()
    model.max_seq_length = args.max_length
    features = model.tokenize(texts)
    with torch.no_grad():
        out = model(dict(features))
    golden = {f"in.{name}": features[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    golden["out.sentence_embedding"] = out["sentence_embedding"]
    save_file({name: tensor.contiguous() for name, tensor in golden.items()}, args.out)


if __name__ == "__main__":
    main()
