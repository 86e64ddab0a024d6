"""From a Hugging Face model and rows of texts to a compressed file.

From the root of the checkout: ``python examples/hugging_face.py``.
Needs: ``pip install torch transformers``. Nothing is downloaded.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from gpusq_compiler import compile_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

INPUTS = ("input_ids", "attention_mask")
LENGTH = 16
TOPICS = (
    ["rain", "wind", "sun", "cloud", "storm", "snow", "fog", "ice"],
    ["bread", "soup", "rice", "apple", "cheese", "bean", "salt", "tea"],
    ["ball", "goal", "team", "race", "match", "coach", "score", "run"],
)
FILLERS = ["the", "a", "there", "was", "is", "today", "we", "saw", "some", "and", "of", "it"]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Stands for a split of ``datasets.load_dataset``, which is iterated the same way."""
    rng = np.random.default_rng(seed)
    found = []
    for label in rng.integers(0, len(TOPICS), count):
        words = [*rng.choice(FILLERS, rng.integers(3, 8)), *rng.choice(TOPICS[label], 2)]
        found.append({"text": " ".join(rng.permutation(words)), "label": int(label)})
    return found


def batches(
    texts: Iterable[dict[str, Any]], tokenizer: BertTokenizerFast, size: int = 32
) -> Iterator[dict[str, np.ndarray]]:
    """What ``data=`` takes: arrays named like the inputs, all of one length, and labels."""
    texts = iter(texts)
    while part := list(itertools.islice(texts, size)):
        encoded = tokenizer(
            [row["text"] for row in part],
            padding="max_length",  # not calibrated on: the mask says where texts end
            truncation=True,
            max_length=LENGTH,
            return_tensors="np",
        )
        labels = np.array([row["label"] for row in part])
        yield {**{name: encoded[name] for name in INPUTS}, "labels": labels}


def tokenizer_of_our_words() -> BertTokenizerFast:
    """Stands for ``AutoTokenizer.from_pretrained(NAME)``."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS]
    words += itertools.chain(*TOPICS)
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})


def trained(tokenizer: BertTokenizerFast) -> BertForSequenceClassification:
    """Stands for ``AutoModelForSequenceClassification.from_pretrained(NAME)``."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
        num_labels=len(TOPICS),
    )
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for batch in batches(rows(1600, seed=0), tokenizer):
        tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
        model(**tensors).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def export(model: BertForSequenceClassification, path: str) -> None:
    """Write it as ONNX, batch and length free."""
    example = {name: torch.ones(2, LENGTH, dtype=torch.int64) for name in INPUTS}
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        model,
        kwargs=example,
        f=path,
        input_names=INPUTS,
        output_names=["logits"],
        dynamic_shapes=dict.fromkeys(INPUTS, free),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def main() -> None:
    """Export, tokenize, compile."""
    tokenizer = tokenizer_of_our_words()
    export(trained(tokenizer), "bert.onnx")
    for name, texts in (("train", rows(512, seed=1)), ("test", rows(256, seed=2))):
        arrays = next(batches(texts, tokenizer, size=len(texts)))
        np.savez(f"texts_{name}.npz", allow_pickle=False, **arrays)
    report = compile_model(
        "bert.onnx",
        passes="prune,quantize",  # and qat, in earnest
        data="texts_train.npz",  # or data=batches(dataset, tokenizer), without a file
        eval_data="texts_test.npz",
    )
    report.show()


if __name__ == "__main__":
    main()
