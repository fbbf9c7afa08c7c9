"""Writes PyTorch's outputs for a few texts, as a golden file for kilnc: of models whose weights no fixture can hold.

    pip install -r scripts/peers/requirements.txt
    python scripts/peers/hidden_states.py CHECKPOINT OUT.safetensors [--text …]

CHECKPOINT has a tokenizer. Compare with a recipe that has `[golden]` with this file.
"""

import argparse

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

TEXTS = ["a mail server with spam filtering", "chess engine"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    parser.add_argument("--text", action="append", help="a text; two of the demo's by default")
    args = parser.parse_args()

    model = AutoModel.from_pretrained(args.checkpoint, attn_implementation="eager", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    given = tokenizer(args.text or TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**given)
    golden = {f"in.{name}": tensor for name, tensor in given.items()}
    golden |= {f"out.{name}": tensor for name, tensor in out.items() if tensor is not None}
    save_file({name: tensor.contiguous() for name, tensor in golden.items()}, args.out)


if __name__ == "__main__":
    main()
