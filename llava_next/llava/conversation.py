"""Conversations to prompt pieces and token ids: the one rendering of training and evaluation.

A turn is ``{"from": "human" | "gpt" | "system", "value": str}``; the value of a human turn may also
be a list of pieces, in which text is never a placeholder. Templates:

- ``qwen_1_5``: ChatML. ``<|im_start|>role``, newline, text, ``<|im_end|>``, newline, per turn, with
  Qwen's default system prompt unless the conversation opens with its own.
- ``plain``: nothing but the placeholders of the human turn, the caption and a newline
  (projector alignment).

Supervised is each answer with the ``<|im_end|>`` and the newline behind it (``plain``: caption and
newline), never a role header and never a human text.

Structure cannot be injected: special tokens exist only where this module put them. A user text
that spells ``<|im_start|>`` or ``<|image_pad|>`` is encoded as the plain characters it consists of.
``<image>`` is a placeholder in human turns alone; in an answer it is text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from llava.constants import IMAGE_PLACEHOLDER, IMAGE_TOKEN, Expansion

VIDEO_PLACEHOLDER = "<video>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
DEFAULT_SYSTEM = "You are a helpful assistant."

_SHORT_TEXT_CHARACTERS = 64
_KEPT_TEXTS = 4096
_SHOWN_ROLES = 20

Turn = Mapping[str, Any]


class Piece(NamedTuple):
    """A run of a prompt.

    Attributes:
        text: the run's text.
        supervised: whether the loss counts its tokens.
        special: the text is one special token (or, before expansion, the placeholder), repeated
            ``repeat`` times; otherwise it is plain text, even if it looks like one.
        repeat: how often a special token is repeated.
    """

    text: str
    supervised: bool = False
    special: bool = False
    repeat: int = 1


def render(
    turns: Sequence[Turn],
    template: str = "qwen_1_5",
    *,
    sample: str,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
) -> list[Piece]:
    """Lay out a conversation as pieces; placeholders are special pieces of text ``<image>``.

    Args:
        turns: an optional system turn, then human and gpt in turn. The last is gpt, or human where
            ``add_generation_prompt``.
        template: a key of ``TEMPLATES``.
        sample: name of the sample, for messages.
        add_generation_prompt: end with the header of the answer to be generated.
        continue_final_message: end with the text of the last answer, for more of it.

    Raises:
        ValueError: The template or a role is unknown, roles do not alternate, the conversation or
            an answer is empty, or the template cannot express the conversation.
    """
    if template not in TEMPLATES:
        raise ValueError(f"unknown template {template!r}; known: {', '.join(TEMPLATES)}")
    _check_turns(turns, sample, add_generation_prompt)
    rules = TEMPLATES[template]
    pieces = rules.lay_out(turns, sample)
    if add_generation_prompt:
        pieces += rules.answer_header
    if continue_final_message:
        pieces = pieces[: -rules.answer_end_pieces]
    return pieces


def _check_turns(turns: Sequence[Turn], sample: str, add_generation_prompt: bool) -> None:
    for number, turn in enumerate(turns, start=1):
        if turn.get("from") not in ("system", "human", "gpt"):
            raise ValueError(
                f"{sample}: turn {number} must be from human, gpt or system, "
                f"got {turn.get('from')!r}"
            )
        is_pieces = turn["from"] == "human" and isinstance(turn.get("value"), list)
        if not is_pieces and not isinstance(turn.get("value"), str):
            raise ValueError(
                f"{sample}: the value of turn {number} must be a string, got {turn.get('value')!r}"
            )
        if turn["from"] == "gpt" and not turn["value"].strip():
            raise ValueError(
                f"{sample}: the answer in turn {number} is empty; remove it and its question, or "
                "let python -m llava.data.validate --fix do it"
            )
    roles = [turn["from"] for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken:
        raise ValueError(f"{sample}: the conversation is empty")
    if spoken != ["human", "gpt"] * (len(spoken) // 2) + ["human"] * (len(spoken) % 2):
        raise ValueError(
            f"{sample}: roles must alternate, human first, after at most one leading system turn, "
            f"got {', '.join(roles[:_SHOWN_ROLES])}; join turns of one speaker and begin with a "
            "question, or let python -m llava.data.validate --fix do it"
        )
    last = "human" if add_generation_prompt else "gpt"
    if spoken[-1] != last:
        raise ValueError(f"{sample}: the last turn must be from {last}, got {spoken[-1]}")


def _with_placeholders(text: str | list[Piece]) -> list[Piece]:
    if isinstance(text, list):
        return [piece for piece in text if piece.text]
    pieces: list[Piece] = []
    for number, part in enumerate(text.split(IMAGE_PLACEHOLDER)):
        if number:
            pieces.append(Piece(IMAGE_PLACEHOLDER, special=True))
        if part:
            pieces.append(Piece(part))
    return pieces


def _render_chatml(turns: Sequence[Turn], sample: str) -> list[Piece]:
    if turns[0]["from"] != "system":
        turns = [{"from": "system", "value": DEFAULT_SYSTEM}, *turns]
    names = {"system": "system", "human": "user", "gpt": "assistant"}
    pieces: list[Piece] = []
    for turn in turns:
        role, text = turn["from"], turn["value"]
        answer = role == "gpt"
        pieces += [Piece(IM_START, special=True), Piece(f"{names[role]}\n")]
        pieces += _with_placeholders(text) if role == "human" else [Piece(text, answer)]
        pieces += [Piece(IM_END, answer, special=True), Piece("\n", answer)]
    return pieces


def _render_plain(turns: Sequence[Turn], sample: str) -> list[Piece]:
    human, *answers = turns
    if human["from"] != "human" or len(answers) > 1:
        raise ValueError(
            f"{sample}: template 'plain' takes one human turn and one caption, "
            f"got {len(turns)} turns; use qwen_1_5"
        )
    pieces = [piece for piece in _with_placeholders(human["value"]) if piece.special]
    if not pieces:
        raise ValueError(f"{sample}: template 'plain' needs an <image>, got none; use qwen_1_5")
    for answer in answers:
        pieces += [Piece(answer["value"], supervised=True), Piece("\n", supervised=True)]
    return pieces


class Template(NamedTuple):
    """How conversations are laid out.

    Attributes:
        lay_out: turns and the name of the sample to pieces.
        answer_header: pieces before an answer that is to be generated.
        answer_end_pieces: number of pieces behind the text of an answer, at least 1.
    """

    lay_out: Callable[[Sequence[Turn], str], list[Piece]]
    answer_header: tuple[Piece, ...]
    answer_end_pieces: int


TEMPLATES = {
    "qwen_1_5": Template(
        _render_chatml, (Piece(IM_START, special=True), Piece("assistant\n")), answer_end_pieces=2
    ),
    "plain": Template(_render_plain, (), answer_end_pieces=1),
}


def expand_placeholders(
    pieces: Sequence[Piece], token_counts: Sequence[Expansion], *, sample: str
) -> list[Piece]:
    """Write the n-th placeholder as ``token_counts[n]`` image tokens, or as its runs of them.

    Raises:
        ValueError: if there are not as many placeholders as counts.
    """
    placeholders = sum(_is_placeholder(piece) for piece in pieces)
    if placeholders != len(token_counts):
        raise ValueError(
            f"{sample}: the human turns hold {placeholders} {IMAGE_PLACEHOLDER} placeholders for "
            f"{len(token_counts)} images; "
            + (
                "write one per image, frame or mosaic"
                if token_counts
                else "add the field image or video, or remove the placeholder"
            )
        )
    counts = iter(token_counts)
    expanded: list[Piece] = []
    for piece in pieces:
        expanded += _expanded(next(counts)) if _is_placeholder(piece) else [piece]
    return expanded


def _expanded(expansion: Expansion) -> list[Piece]:
    runs = (expansion,) if isinstance(expansion, int) else expansion
    return [
        Piece(run) if isinstance(run, str) else Piece(IMAGE_TOKEN, special=True, repeat=run)
        for run in runs
    ]


def count_visual(expansions: Sequence[Expansion]) -> int:
    """Return the visual tokens of placeholders."""
    return sum(
        item if isinstance(item, int) else sum(run for run in item if isinstance(run, int))
        for item in expansions
    )


def _is_placeholder(piece: Piece) -> bool:
    return piece.special and piece.text == IMAGE_PLACEHOLDER


def encode(
    pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[bool]]:
    """Return token ids of expanded pieces, and for each id whether it is supervised.

    Raises:
        ValueError: as ``encode_runs``.
    """
    ids: list[int] = []
    supervised: list[bool] = []
    for run in encode_runs(pieces, tokenizer):
        ids += run.ids * run.repeat
        supervised += [run.supervised] * (len(run.ids) * run.repeat)
    return ids, supervised


class EncodedRun(NamedTuple):
    """Token ids, which follow each other ``repeat`` times, and whether the loss counts them."""

    ids: list[int]
    repeat: int
    supervised: bool


def encode_runs(
    pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase
) -> Iterator[EncodedRun]:
    """Give the token ids of expanded pieces.

    Adjacent plain runs of equal supervision are encoded as one text, so that the ids equal those
    of the whole prompt encoded at once.

    Raises:
        ValueError: if the tokenizer lacks a special token of the template, or turns plain text
            into one.
    """
    special_texts = {IMAGE_TOKEN} | {piece.text for piece in pieces if piece.special}
    special_ids = {text: _special_id(text, tokenizer) for text in sorted(special_texts)}
    for piece in _merge_plain(pieces):
        if piece.special:
            new = [special_ids[piece.text]]
        else:
            new = tokenizer.encode(piece.text, add_special_tokens=False, split_special_tokens=True)
            if not set(special_ids.values()).isdisjoint(new):
                raise ValueError(
                    "the tokenizer turns plain text into special tokens; "
                    f"{', '.join(special_ids)} must be marked special in its added tokens"
                )
        yield EncodedRun(new, piece.repeat if piece.special else 1, piece.supervised)


class TokenCounter:
    """Counts the tokens that ``encode`` would give, for many prompts at once and without ids.

    Headers and line breaks recur in every prompt, so counts of short texts are kept.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, int] = {}
        self._checked: set[str] = set()

    def count(self, prompts: Sequence[Sequence[Piece]]) -> list[int]:
        """Return the number of tokens of each prompt of expanded pieces.

        Raises:
            ValueError: if the tokenizer lacks a special token of the prompts, or turns plain text
                into one.
        """
        merged = [_merge_plain(pieces) for pieces in prompts]
        self._check({piece.text for pieces in merged for piece in pieces if piece.special})
        plain = {piece.text for pieces in merged for piece in pieces if not piece.special}
        new = [text for text in plain if text not in self._known]
        counts = dict(zip(new, self._lengths(new), strict=True)) if new else {}
        self._known.update(
            (text, count) for text, count in counts.items() if len(text) <= _SHORT_TEXT_CHARACTERS
        )
        counts |= {text: self._known[text] for text in plain - counts.keys()}
        if len(self._known) > _KEPT_TEXTS:
            self._known.clear()
        return [
            sum(piece.repeat if piece.special else counts[piece.text] for piece in pieces)
            for pieces in merged
        ]

    def _check(self, special_texts: set[str]) -> None:
        """Check once what ``encode`` checks in every prompt."""
        new = sorted(special_texts - self._checked)
        if new:
            special = [Piece(text, special=True) for text in new]
            encode([*special, *map(Piece, new)], self._tokenizer)
            self._checked.update(new)

    def _lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each plain text."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None:
            # The same call that the library makes, without offsets and copies of the ids.
            backend.encode_special_tokens = True
            backend.no_truncation()
            backend.no_padding()
            return list(map(len, backend.encode_batch_fast(texts, add_special_tokens=False)))
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return [len(ids) for ids in encoded["input_ids"]]  # pyright: ignore[reportArgumentType]


def _special_id(token: str, tokenizer: PreTrainedTokenizerBase) -> int:
    index = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(index, int) or tokenizer.convert_ids_to_tokens(index) != token:
        raise ValueError(
            f"the tokenizer has no token {token}; use a Qwen tokenizer or add it as a special token"
        )
    return index


def _merge_plain(pieces: Sequence[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and not (piece.special or last.special) and piece.supervised == last.supervised:
            merged[-1] = last._replace(text=last.text + piece.text)
        else:
            merged.append(piece)
    return merged
