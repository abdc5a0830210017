"""Small BERTs with random weights, in folders as Hugging Face stores them.

    folder = write_bert(folder / "bert", words=["many", "planes"])

Texts are split into the given words, else into letters.
"""

import json
from string import ascii_lowercase

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LETTERS = (*ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase))
WIDTH, INNER, POSITIONS = 16, 24, 128


def table_of(words):
    """The pieces of a tokenizer in the order of their numbers: special ones, letters, words."""
    return list(dict.fromkeys([*SPECIAL, *LETTERS, *words]))


def bert_config(pieces, layers=2, **changes):
    """The content of `config.json`."""
    return {
        "model_type": "bert",
        "vocab_size": pieces,
        "max_position_embeddings": POSITIONS,
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        **changes,
    }


def bert_tensors(pieces, layers=2, seed=0):
    """Random weights under the names of Hugging Face."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size, mean=0.0):
        return mean + 0.3 * torch.randn(*size, generator=generator)

    tensors = {
        "embeddings.word_embeddings.weight": draw(pieces, WIDTH),
        "embeddings.position_embeddings.weight": draw(POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": draw(2, WIDTH),
    }
    norms, linears = ["embeddings"], {}
    for layer in (f"encoder.layer.{number}" for number in range(layers)):
        norms += [f"{layer}.attention.output", f"{layer}.output"]
        linears |= {f"{layer}.attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linears |= {f"{layer}.attention.output.dense": (WIDTH, WIDTH)}
        linears |= {f"{layer}.intermediate.dense": (INNER, WIDTH), f"{layer}.output.dense": (WIDTH, INNER)}
    for norm in norms:
        tensors[f"{norm}.LayerNorm.weight"] = draw(WIDTH, mean=1)
        tensors[f"{norm}.LayerNorm.bias"] = draw(WIDTH)
    for linear, size in linears.items():
        tensors[f"{linear}.weight"], tensors[f"{linear}.bias"] = draw(*size), draw(size[0])
    return tensors


def write_bert(folder, words=(), layers=2, seed=0, **changes):
    """Writes a folder with tokenizer, configuration and weights; changes of the configuration by key."""
    folder.mkdir(parents=True)
    table = table_of(words)
    number = {piece: place for place, piece in enumerate(table)}
    tokenizer = Tokenizer(models.WordPiece(number, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", number["[SEP]"]), ("[CLS]", number["[CLS]"])
    )
    tokenizer.enable_padding(length=32, pad_token="[PAD]")  # as stored with MiniLM
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(bert_config(len(table), layers, **changes)))
    save_file(bert_tensors(len(table), layers, seed), folder / "model.safetensors")
    return folder
