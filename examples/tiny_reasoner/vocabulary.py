"""The tokenizer: every byte, the task's words and the term labels, one token each.

Digits stay single tokens, and a label such as ` #12=` is one token: a small model finds a term by looking its label
up, and learns that much sooner where the digits follow the label directly. All bytes are in the vocabulary, so any
text survives the round trip.
"""

import json
from pathlib import Path

import task
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIALS = (PAD, USER, ASSISTANT, END)
PAD_ID, END_ID = SPECIALS.index(PAD), SPECIALS.index(END)
VOCAB_MULTIPLE = 32
MAX_CONTEXT_TOKENS = 4096

LINE_STARTS = ("Plan", "Verify", "Part", "Wait", "Good", "Total", "Answer")
INNER_WORDS = ("from", "to", "check", "again")
SPLIT = r" #\d{1,2}=?| ?[A-Za-z]+|\d|\s|[^\sA-Za-z\d]"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def words() -> list[str]:
    """Pieces that are one token each, in a fixed order."""
    spaced = [w for group in (task.OPENINGS, task.RESULTS) for text in group for w in text.split()]
    first = [text.split()[0] for text in task.OPENINGS]
    labels = [f" #{i}{end}" for i in range(1, task.MAX_TERMS + 1) for end in ("", "=")]
    inner = [f" {w}" for w in (*spaced, *INNER_WORDS, *task.COLUMNS) if w not in first]
    return list(dict.fromkeys([*first, *task.LEADS, *LINE_STARTS, *inner, *labels]))


def build() -> Tokenizer:
    """Byte-level BPE without merges: a piece is a word of the vocabulary or its bytes."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [byte_level.pre_tokenize_str(w)[0][0] for w in words()]
    entries = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces]
    entries += [f"<|unused{i}|>" for i in range(-len(entries) % VOCAB_MULTIPLE)]
    vocab = {entry: i for i, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write what AutoTokenizer needs, in the spelling that old and new transformers both read."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_CONTEXT_TOKENS,
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def render(prompt: str) -> str:
    """The same text as the chat template gives for one user turn and a generation prompt."""
    return f"{USER}{prompt}{END}{ASSISTANT}"
