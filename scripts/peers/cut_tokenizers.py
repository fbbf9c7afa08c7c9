"""Compares cut tokenizers with Hugging Face's `tokenizers`: they must load there and give every text the same pieces.

    cargo build --release --example cut_tokenizer
    python cut_tokenizers.py target/release/examples/cut_tokenizer TEXTS.jsonl [tokenizer.json ...]

Tokenizers of every other kind are trained on the texts: Unigram and BPE, on characters with byte fallback and on bytes.
Other texts must be tokenized too, if not to the same pieces. Needs what requirements.txt names.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
UNSEEN = "Żółć, 漢字 and 🙂 — \u0000 zxqj"


def framed(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    return tokenizer


def trained(texts):
    """Tokenizers by name."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=2000, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    unigram.train_from_iterator(texts, trainer)
    yield "unigram", framed(unigram)

    level = Tokenizer(models.BPE())
    level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    level.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = dict(vocab_size=3000, special_tokens=SPECIAL, show_progress=False)
    level.train_from_iterator(texts, trainers.BpeTrainer(initial_alphabet=alphabet, **options))
    yield "bpe on bytes", framed(level)

    fallback = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    fallback.pre_tokenizer = pre_tokenizers.Metaspace()
    options["special_tokens"] = SPECIAL + bytes_
    fallback.train_from_iterator(texts, trainers.BpeTrainer(**options))
    # As converted from SentencePiece: every way in which two tokens make a third is a merge.
    file = json.loads(fallback.to_str())
    vocab = file["model"]["vocab"]
    every = [
        [token[:at], token[at:]]
        for token in sorted(vocab, key=vocab.get)
        for at in range(1, len(token))
        if token not in SPECIAL + bytes_ and token[:at] in vocab and token[at:] in vocab
    ]
    file["model"]["merges"] = every
    yield "bpe with byte fallback", framed(Tokenizer.from_str(json.dumps(file)))

    ended = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    ended.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    options = dict(vocab_size=3000, special_tokens=SPECIAL, show_progress=False, end_of_word_suffix="</w>")
    ended.train_from_iterator(texts, trainers.BpeTrainer(**options))
    yield "bpe with ends of words", framed(ended)


def check(program, name, tokenizer, path, texts):
    """`path` holds the texts that the vocabulary is cut to."""
    with tempfile.TemporaryDirectory() as place:
        before, after = pathlib.Path(place) / "tokenizer.json", pathlib.Path(place) / "cut.json"
        tokenizer.save(str(before))
        said = subprocess.run([program, before, path, after], check=True, capture_output=True, text=True).stdout
        cut = Tokenizer.from_file(str(after))
    tokenizer.no_truncation(), cut.no_truncation(), tokenizer.no_padding(), cut.no_padding()
    pairs = [*texts, *zip(texts, texts[1:])]
    for one, other in zip(tokenizer.encode_batch(pairs), cut.encode_batch(pairs)):
        assert one.tokens == other.tokens, (name, one.tokens, other.tokens)
        assert one.offsets == other.offsets and one.type_ids == other.type_ids, name
        known = [tokenizer.id_to_token(number) for number in one.ids]
        assert known == [cut.id_to_token(number) for number in other.ids], name
    numbers = sorted(cut.get_vocab().values())
    assert numbers == list(range(len(numbers))), name
    assert cut.encode(UNSEEN).ids, name
    print(f"{name}: {said.strip()}")


def main():
    program, path, *files = sys.argv[1:]
    texts = [json.loads(line)["text"] for line in pathlib.Path(path).read_text().splitlines()]
    for file in files:
        check(program, file, Tokenizer.from_file(file), path, texts)
    # Trained on all, cut to a third.
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as part:
        some = texts[::3]
        part.write("".join(json.dumps({"text": text}) + "\n" for text in some))
        part.flush()
        for name, tokenizer in trained(texts):
            check(program, name, tokenizer, part.name, some)


if __name__ == "__main__":
    main()
