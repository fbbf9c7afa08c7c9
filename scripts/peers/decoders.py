"""Lets Optimum generate with a decoder in the Hub's layout, and compares its tokens with PyTorch's.

    python decoders.py FOLDER CHECKPOINT [TEXT...]

FOLDER holds onnx/model.onnx (or model.onnx), config.json and the tokenizer, as Optimum and Transformers.js load them;
CHECKPOINT is what it was made of. Prompts are the texts, or those of the checkpoint's greedy.json (tests/fixtures/decoders),
whose tokens must then be PyTorch's too. Every prompt generates 20 greedy tokens alone, and all in one batch padded left.
decoders.sh makes FOLDER; needs what requirements.txt names.
"""

import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers as tf
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from optimum.onnxruntime import ORTModelForCausalLM

NEW = 20


def generate(model, ids, mask):
    # None in a configuration that is given comes from the model's: no end token, so that all rows have 20 tokens.
    model.generation_config = tf.GenerationConfig(do_sample=False, max_new_tokens=NEW, pad_token_id=0, use_cache=True)
    return model.generate(ids, attention_mask=mask, generation_config=model.generation_config)[:, ids.shape[1] :].tolist()


def batch(rows):
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def logits(model, ids, mask):
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits


def main(folder, checkpoint, *texts):
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    greedy = pathlib.Path(checkpoint, "greedy.json")
    if texts:
        tokenizer = tf.AutoTokenizer.from_pretrained(folder)
        rows, known = [tokenizer(text).input_ids for text in texts], None
    else:
        rows = [row["prompt"] for row in json.loads(greedy.read_text())["rows"]]
        known = [row["greedy"] for row in json.loads(greedy.read_text())["rows"]]

    reference = tf.AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager", dtype=torch.float32).eval()
    # Optimum only warns of a file without position_ids; its tokens are wrong where a batch is padded left, if they are not
    # counted in the graph. To these families it gives none.
    model = ORTModelForCausalLM.from_pretrained(folder)
    counted = model.config.model_type in ("gemma", "gemma2", "gemma3_text", "bloom")
    assert ("position_ids" in model.input_names) != counted and model.can_use_cache, model.input_names

    expected = [generate(reference, *batch([row]))[0] for row in rows]
    assert known in (None, expected), (known, expected)
    try:
        generate(model, *batch(rows[:1]))
    except InvalidArgument as error:
        # Of some families it makes an empty cache by another number of heads, or another size, than the configuration says.
        assert "past_key_values" in str(error), error
        print(f"Optimum fails by its own cache: {' '.join(str(error).split())[:180]}")
        return
    for row, tokens in zip(rows, expected):
        found = generate(model, *batch([row]))[0]
        assert found == tokens, (row, found, tokens)
    found = generate(model, *batch(rows))
    assert found == expected, (found, expected)

    ids, mask = batch(rows)
    apart = (logits(model, ids, mask) - logits(reference, ids, mask))[mask == 1].abs().max().item()
    assert apart < 1e-4, apart
    print(f"Optimum: {len(rows)} prompts, {NEW} tokens each, alone and padded left as one batch: PyTorch's; logits {apart:.1e} apart")


main(*sys.argv[1:])
