"""Writes labelled texts for the small checkpoints of every task, and what `seqeval`, SQuAD's rules and `scipy` say of
PyTorch's predictions for them, to compare `kilnc eval` with.

    pip install -r scripts/peers/requirements.txt
    python scripts/peers/scores.py

The models are random, so the labels are made from their predictions: of three texts one has the model's own prediction, and
two have another, by the rules below. Same versions, same bytes; no network. `tests/eval.rs` reads what is written
to `tests/fixtures/eval`: the texts, `expected.json` with a case for each file of texts, and `measures.json` with the
measures of rows of tags, answers and numbers of random data.
"""

import importlib.util
import json
import os
import pathlib
import random
import warnings
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import numpy as np
import scipy.stats
import seqeval.metrics
import torch
import transformers as tf
from seqeval.metrics.sequence_labeling import get_entities
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1, get_raw_scores, make_eval_dict, normalize_answer
from transformers.pipelines.token_classification import AggregationStrategy

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests" / "fixtures"
OUT = FIXTURES / "eval"
WINDOW, STRIDE = 32, 8

# How long texts are cut and joined is written down once, where the pipelines' answers are made.
spec = importlib.util.spec_from_file_location("answers", FIXTURES / "answers" / "make.py")
answers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(answers)

TEXTS = [
    "Angela Merkel met them in Paris , fast !",
    "who plays 🎮 games in 東京 with a mail server ?",
    "the naïve tool 's library is not slow",
    "An editor mixes music and sound in the small web .",
    "them who met the slow server in Hamburg .",
    "É douard sends mail to Angela , not to Paris .",
    "a game for the player that reads files",
    answers.LONG,
    "Paris 東 met Merkel - and Hamburg",
    "print the library with that tool !",
    "play this music , it is not slow",
    "in Paris who met Angela Merkel ?",
]
CASES = []


def plain(value):
    """JSON's own types."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value)
    return int(value) if isinstance(value, np.integer) else value


def model_of(folder, model_class):
    return model_class.from_pretrained(FIXTURES / folder, attn_implementation="eager").eval()


def tokens_of(folder):
    of = tf.XLMRobertaTokenizerFast if "xlm-roberta" in folder else tf.BertTokenizerFast
    return of(tokenizer_file=str(FIXTURES / folder / "tokenizer.json"), clean_up_tokenization_spaces=False, model_max_length=WINDOW)


def case(name, folder, rows, score):
    """Writes the texts, and collects the expected measures."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (OUT / f"{name}.jsonl").write_text(lines)
    CASES.append(dict(data=f"{name}.jsonl", folder=folder, score=plain(score)))
    print(name, json.dumps(CASES[-1]["score"])[:200])


def token_scores(tokens, model, text):
    """The probability of each label for each token of a text, by the window with most context around it."""
    windows = answers.outputs(tokens, model, text, WINDOW, STRIDE)
    total = len(tokens(text)["input_ids"])
    scores = np.zeros((total, model.config.num_labels), dtype=np.float32)
    for token, (number, place) in enumerate(answers.central(windows, total - 2)):
        scores[token + 1] = answers.softmax(windows[number][2].logits[0, place].numpy())
    return scores


def another(tag):
    """The tags that are taken for right where the model is to be wrong."""
    return {"O": "B-LOC", "B-PER": "I-PER", "I-PER": "O", "B-LOC": "B-PER", "I-LOC": "I-LOC"}[tag]


def seqeval_report(expected, found):
    report = seqeval.metrics.classification_report(expected, found, output_dict=True, zero_division=0)
    kinds = sorted(kind for kind in report if not kind.endswith(" avg"))
    labels = [
        dict(label=kind, precision=report[kind]["precision"], recall=report[kind]["recall"],
             f1=report[kind]["f1-score"], expected=int(report[kind]["support"]))
        for kind in kinds
    ]
    micro = report["micro avg"]
    return dict(precision=micro["precision"], recall=micro["recall"], f1=micro["f1-score"], labels=labels)


def words_with_tags(name, folder, model_class):
    """Words, each with the label of its first token, as `run_ner` of transformers aligns them."""
    tokens, model = tokens_of(folder), model_of(folder, model_class)
    names = model.config.id2label
    rows, expected, found = [], [], []
    for number, text in enumerate(TEXTS):
        words = text.split(" ")
        split = tokens(words, is_split_into_words=True)
        assert split["input_ids"] == tokens(text)["input_ids"]
        scores = token_scores(tokens, model, text)
        word_ids = split.word_ids()
        tags = [names[int(scores[word_ids.index(word)].argmax())] for word in range(len(words))]
        right = [tag if (number + place) % 3 != 2 else another(tag) for place, tag in enumerate(tags)]
        rows.append(dict(tokens=words, ner_tags=[model.config.label2id[tag] for tag in right]) if number % 2 else dict(tokens=words, tags=right))
        expected.append(right)
        found.append(tags)
    score = seqeval_report(expected, found)
    score["token_accuracy"] = seqeval.metrics.accuracy_score(expected, found)
    case(name, folder, rows, dict(examples=len(rows), **score))


def places_of_entities(name, folder, model_class, strategy):
    """Entities by their characters. Each text is a row of tags, one for each character, so that seqeval counts them."""
    tokens, model = tokens_of(folder), model_of(folder, model_class)
    pipe = tf.pipeline("token-classification", model=model, tokenizer=tokens, device="cpu")
    how = AggregationStrategy[strategy.upper()]
    rows, expected, found = [], [], []
    for number, text in enumerate(TEXTS):
        whole = tokens(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        before = pipe.gather_pre_entities(
            text, np.array(whole["input_ids"]), token_scores(tokens, model, text), whole["offset_mapping"],
            np.array(whole["special_tokens_mask"]), how)
        words = pipe.aggregate_words(before, how)
        entities = [
            dict(start=int(words[first]["start"]), end=int(words[last]["end"]), label=kind)
            for kind, first, last in get_entities([word["entity"] for word in words])
        ]
        right = []
        for place, entity in enumerate(entities):
            match (number + place) % 4:
                case 1: right.append(entity | dict(label={"PER": "LOC", "LOC": "PER"}[entity["label"]]))
                case 2: right.append(entity | dict(end=entity["start"] + 1))
                case 3 if number % 2: pass
                case _: right.append(entity)
        rows.append(dict(text=text, entities=right))
        expected.append(by_character(text, right))
        found.append(by_character(text, entities))
    case(name, folder, rows, dict(examples=len(rows), **seqeval_report(expected, found)))


def by_character(text, entities):
    tags = ["O"] * len(text)
    for entity in entities:
        for at in range(entity["start"], entity["end"]):
            tags[at] = ("B-" if at == entity["start"] else "I-") + entity["label"]
    return tags


def questions(name, folder, none):
    """SQuAD's measures of the pipeline's answers; with `none`, some questions have no answer."""
    tokens, model = tokens_of(folder), model_of(folder, tf.AutoModelForQuestionAnswering)
    pipe = tf.pipeline("question-answering", model=model, tokenizer=tokens, device="cpu")
    rows, examples, found = [], [], {}
    for number, context in enumerate(TEXTS):
        question = ["who met them?", "is it slow"][(number + none) % 2]
        told = pipe(question=question, context=context, max_seq_len=WINDOW, doc_stride=STRIDE, max_answer_len=15, handle_impossible_answer=none)
        answer, words = told["answer"], context.split(" ")
        match number % 6:
            case 0: right = [f"The {answer.upper()}!"]
            case 1: right = [words[0], f"{answer} and {words[1]}"]
            case 2: right = [words[-2]]
            case 3: right = [] if none else [answer, answer]
            case 4: right = [f"{words[2]} {answer} {words[2]}", "a"]
            case _: right = [] if none else [" ".join(words[1:6])]
        rows.append(dict(id=str(number), question=question, context=context, answers=squad_form(number, right, context)))
        given = [dict(text=text) for text in right]
        examples.append(SimpleNamespace(qas_id=str(number), answers=given))
        found[str(number)] = answer
    exact, f1 = get_raw_scores(examples, found)
    parts = lambda keys: {{"exact": "exact_match", "total": "examples"}.get(k, k): v if k == "total" else v / 100 for k, v in make_eval_dict(exact, f1, keys).items()}
    score = parts(list(exact))
    if none:
        has = [e.qas_id for e in examples if any(normalize_answer(answer["text"]) for answer in e.answers)]
        score |= dict(has_answer=parts(has), no_answer=parts([e.qas_id for e in examples if e.qas_id not in has]))
    case(name, folder, rows, score)


def squad_form(number, right, context):
    """The three forms in which answers come."""
    match number % 3:
        case 0: return right
        case 1: return dict(text=right, answer_start=[max(context.find(text), 0) for text in right])
        case _: return [dict(text=text, answer_start=max(context.find(text), 0)) for text in right]


def masks(name, folder):
    tokens, model = tokens_of(folder), model_of(folder, tf.AutoModelForMaskedLM)
    spoken = sorted(id for word, id in tokens.get_vocab().items() if word.isalpha() and len(word) > 1 and word.islower())
    mask, rows, guesses = tokens.mask_token, [], []
    for number, text in enumerate(TEXTS):
        words = text.split(" ")
        chosen = [number % len(words), (3 * number + 2) % len(words)] if number % 3 == 0 else [number % len(words)]
        chosen = sorted(set(chosen))
        for place in chosen:
            words[place] = mask
        masked = " ".join(words)
        ids = np.array(tokens(masked)["input_ids"])
        windows = answers.outputs(tokens, model, masked, WINDOW, STRIDE)
        seeing = answers.central(windows, len(ids) - 2)
        labels = []
        for order, at in enumerate((ids == tokens.mask_token_id).nonzero()[0]):
            window, place = seeing[at - 1]
            likely = torch.log_softmax(windows[window][2].logits[0, place].double(), -1).numpy()
            # One of the words, by its rank among them.
            ranked = sorted(spoken, key=lambda id: -likely[id])
            target = ranked[[0, 0, 1, 3, 20][(number + order) % 5]]
            labels.append(tokens.decode([target]).strip())
            guesses.append((likely[target], int((likely > likely[target]).sum())))
        rows.append(dict(text=masked, labels=labels) if len(labels) > 1 else dict(text=masked, label=labels[0]))
    mean = float(np.mean([likely for likely, _ in guesses]))
    among = lambda first: sum(rank < first for _, rank in guesses) / len(guesses)
    score = dict(examples=len(rows), masks=len(guesses), top_1_accuracy=among(1), top_5_accuracy=among(5),
                 mean_log_probability=mean, perplexity=float(np.exp(-mean)))
    case(name, folder, rows, score)


def pairs(name, folder):
    """Means of the tokens' vectors, their cosines, and scores that follow them here and there."""
    tokens, model = tokens_of(folder), model_of(folder, tf.BertModel)
    rows, cosines, scores = [], [], []
    short = [text for text in TEXTS if text != answers.LONG]
    for number, text in enumerate(short):
        pair = short[(2 * number + 1) % len(short)]
        vectors = []
        for one in [text, pair]:
            with torch.no_grad():
                vectors.append(model(**tokens(one, return_tensors="pt")).last_hidden_state[0].double().mean(0))
        cosine = float(torch.nn.functional.cosine_similarity(*vectors, dim=0))
        score = round(5 * cosine, 1) if number % 3 else float(number % 5)
        rows.append(dict(text=text, pair=pair, score=score) if number % 2 else dict(sentence1=text, sentence2=pair, score=score))
        cosines.append(cosine)
        scores.append(score)
    pearson, spearman = scipy.stats.pearsonr(cosines, scores)[0], scipy.stats.spearmanr(cosines, scores)[0]
    case(name, folder, rows, dict(examples=len(rows), pearson=pearson, spearman=spearman))


TAGS = ["O", "O", "B", "I", "I-a-b"] + [f"{position}-{kind}" for position in "BIES" for kind in ["PER", "LOC"]]
PIECES = """a an the The A. THE, tower Tower, Tower's an-d theatre € 東 東a é É! e\u0301 a\u0301 … ! , ' ΌΔΟΣ ² a² 3.5 b_a A\u00a0b""".split(" ")


def measures():
    """Measures of random data, without any model."""
    draw = random.Random(7)
    tags = [[draw.choice(TAGS) for _ in range(draw.randint(0, 12))] for _ in range(400)]
    spans = lambda row: [[first, last + 1, kind] for kind, first, last in get_entities(row)]
    texts = lambda most: draw.choice([" ", "  ", "", " \t"]).join(draw.choices(PIECES, k=draw.randint(0, most)))
    pairs = [(texts(4), texts(4)) for _ in range(600)]
    answered = [dict(found=a, right=b, exact=compute_exact(b, a), f1=compute_f1(b, a)) for a, b in pairs]
    rows = [[[round(draw.random(), draw.choice([1, 9])), draw.randint(0, 5)] for _ in range(draw.randint(3, 30))] for _ in range(50)]
    of = lambda row, measure: float(measure(*zip(*row))[0])
    correlated = [dict(pairs=row, pearson=of(row, scipy.stats.pearsonr), spearman=of(row, scipy.stats.spearmanr)) for row in rows]
    drawn = dict(tags=[dict(tags=row, entities=spans(row)) for row in tags], answers=answered, correlations=correlated)
    lines = [f'"{name}": [\n' + ",\n".join(json.dumps(one, ensure_ascii=False) for one in each) + "\n]" for name, each in drawn.items()]
    (OUT / "measures.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    measures()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    OUT.mkdir(exist_ok=True)
    words_with_tags("words", "answers/bert/tokcls", tf.BertForTokenClassification)
    words_with_tags("words-metaspace", "answers/xlm-roberta/tokcls", tf.XLMRobertaForTokenClassification)
    places_of_entities("entities", "answers/bert/tokcls", tf.BertForTokenClassification, "first")
    questions("questions", "answers/bert/qa", False)
    questions("questions-none", "answers/bert/qa", True)
    masks("masks", "answers/bert/mlm")
    pairs("pairs", "sentence/mean")
    pairs("pairs-features", "answers/bert/base")
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in CASES)
    (OUT / "expected.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
