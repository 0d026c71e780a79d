"""Requests of the server, in the form of the OpenAI chat completions, checked and bounded."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llava.generation import GenerationSettings

MAX_TEXT_CHARACTERS = 200_000
MAX_MESSAGES = 256
MAX_PARTS = 64

_Text = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]
_Number = int | float | str
SHOWN_AS = frozenset({"input", "num_images", "num_frames", "max_patches", "quality_db", "select"})
"""Settings that a request may choose for a video."""


class TextPart(BaseModel):
    """Text of a message."""

    type: Literal["text", "input_text"]
    text: _Text


class ImageUrl(BaseModel):
    """Where a picture is: a ``data:`` URL, or a file or web address if the server allows them."""

    url: str


class VideoUrl(ImageUrl):
    """Where a video is, and how it is shown; the other names are those of ``SHOWN_AS``."""

    model_config = ConfigDict(extra="allow")

    def settings(self) -> dict[str, _Number]:
        """Return how the video is shown.

        Raises:
            ValueError: A name is none that a request may choose.
        """
        given: dict[str, Any] = dict(self.model_extra or {})
        unknown = sorted(name[:40] for name in given.keys() - SHOWN_AS)
        if unknown:
            raise ValueError(
                f"video_url has no {', '.join(unknown)}; accepted are url, "
                f"{', '.join(sorted(SHOWN_AS))}"
            )
        if not all(isinstance(value, int | float | str) for value in given.values()):
            raise ValueError("settings of video_url must be numbers or texts")
        return given


class ImagePart(BaseModel):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoPart(BaseModel):
    """A video of a message."""

    type: Literal["video_url"]
    video_url: VideoUrl


_Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | Annotated[list[_Part], Field(max_length=MAX_PARTS)] | None = None


class StreamOptions(BaseModel):
    """How a stream ends."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of ``/v1/chat/completions``; what is not supported is refused, not ignored."""

    model: Annotated[str, Field(max_length=1000)] = ""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=200)] | None = None

    @model_validator(mode="after")
    def _check_stop(self) -> "ChatRequest":
        if any(not 0 < len(text) <= 200 for text in self.stop_strings):
            raise ValueError("stop strings must have 1 to 200 characters")
        return self

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def generation(self, defaults: GenerationSettings) -> GenerationSettings:
        """Return how the answer is generated; what the request leaves open is the server's."""
        asked = self.max_completion_tokens or self.max_tokens or defaults.max_new_tokens
        return GenerationSettings(
            max_new_tokens=min(asked, defaults.max_new_tokens),
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=self.top_p,
            until=self.stop_strings,
        )
