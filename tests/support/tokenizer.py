"""A byte-level BPE tokenizer with the ChatML tokens, made on the spot for tests."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")


def byte_tokenizer(
    special_tokens: tuple[str, ...] = SPECIAL_TOKENS, *, marked_special: bool = True
) -> PreTrainedTokenizerFast:
    """One token per byte, and one for two newlines (so that the place of a cut matters)."""
    newline = "Ċ"  # how byte-level BPE spells byte 10
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), newline * 2]
    model = models.BPE(
        vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[(newline, newline)]
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=marked_special) for token in special_tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>" if marked_special else None
    )
