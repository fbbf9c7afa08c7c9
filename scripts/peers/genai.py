"""Lets ONNX Runtime GenAI generate with a folder that kilnc exported, and compares its tokens with kilnc's.

    python genai.py KILNC BUNDLE... [-- PROMPT...]

KILNC is the binary, BUNDLE are bundles of text-generation with an engine for ort-cpu, or checkpoints: those without a tokenizer, as
fixtures are, get one whose words are numbers. Of each, 20 tokens are generated greedily and by four beams, by `kilnc run` and by
GenAI, after each prompt; a prompt is tokenized by kilnc's tokenizer. Needs `pip install onnxruntime-genai==0.18.0 tokenizers`.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import onnxruntime_genai as genai
import tokenizers

NEW = 20
PROMPTS = ["the kiln", "clay was", "a"]
NUMBERS = ["5 9 3 7", "11 4", "6 2 8 10 3"]


def ours(kilnc, bundle, prompt, *flags):
    run = [kilnc, "run", bundle, "--prompt", prompt, "--max-new-tokens", str(NEW), "--engine", "ort-cpu-fp32", "--json", *flags]
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)[0]["tokens"]


def theirs(model, ids, **options):
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + NEW, do_sample=False, **options)
    generator = genai.Generator(model, params)
    generator.append_tokens([list(ids)])
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(ids) :]


def built(kilnc, checkpoint, place):
    """A bundle of a checkpoint, and whether its tokenizer is the one of numbers."""
    copy = shutil.copytree(checkpoint, pathlib.Path(place, checkpoint.name))
    missing = not (copy / "tokenizer.json").exists()
    if missing:
        size = json.loads((copy / "config.json").read_text())["vocab_size"]
        words = {str(number): number for number in range(size)}
        model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
        model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        model.save(str(copy / "tokenizer.json"))
    bundle = pathlib.Path(place, "lm.kiln")
    subprocess.run([kilnc, "build", copy, "--target", "ort-cpu", "-o", bundle, "--quiet"], check=True, capture_output=True)
    return bundle, missing


def main(kilnc, *arguments):
    split = arguments.index("--") if "--" in arguments else len(arguments)
    prompts = list(arguments[split + 1 :]) or PROMPTS
    for bundle in arguments[:split]:
        with tempfile.TemporaryDirectory() as place:
            name, of_numbers = "/".join(pathlib.Path(bundle).parts[-2:]), False
            if not pathlib.Path(bundle, "manifest.json").exists():
                bundle, of_numbers = built(kilnc, pathlib.Path(bundle), place)
            asked = NUMBERS if of_numbers and split == len(arguments) else prompts
            folder = pathlib.Path(place, "genai")
            subprocess.run([kilnc, "bundle", "export", bundle, "--layout", "genai", "-o", folder, "--quiet"], check=True, capture_output=True)
            config = json.loads(pathlib.Path(folder, "genai_config.json").read_text())
            ends = config["model"]["eos_token_id"]
            ends = ends if isinstance(ends, list) else [ends]
            model = genai.Model(str(folder))
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            ended = 0
            for prompt in asked:
                ids = tokenizer.encode(prompt).ids
                for flags, options in (((), {}), (("--num-beams", "4"), {"num_beams": 4, "length_penalty": 1.0})):
                    expected, found = ours(kilnc, bundle, prompt, *flags), theirs(model, ids, **options)
                    # GenAI leaves the token out that ends a text, or fills a beam up with padding.
                    cut = lambda tokens: tokens[: next((i for i, t in enumerate(tokens) if t in ends), len(tokens))]
                    # GenAI divides a beam's score by its length with the prompt, transformers without: beams that end have other ranks.
                    if flags and (len(found) < NEW or any(token in ends for token in found + expected)):
                        ended += 1
                        continue
                    assert cut(found) == cut(expected), (bundle, prompt, flags, expected, found)
            beams = f"by 4 beams ({ended} texts that end left out)" if ended else "by 4 beams"
            print(f"{name}: {len(asked)} prompts, {NEW} tokens, greedily and {beams}: kilnc's ({config['model']['type']})")


main(*sys.argv[1:])
