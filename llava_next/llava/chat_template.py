"""The prompt templates in Jinja, as a saved tokenizer carries them.

The language model's own template is not the one that a checkpoint is trained with.
``llava.conversation`` remains the rendering of training and evaluation; a test compares both token
for token.
"""

from llava.constants import IMAGE_PLACEHOLDER, IMAGE_TOKEN, VIDEO_TOKEN
from llava.conversation import DEFAULT_SYSTEM, IM_END, IM_START

_CONTENT = (
    "{%- macro write(content, shows) -%}"
    "{%- if content is string -%}"
    f"{{{{- content | replace('{IMAGE_PLACEHOLDER}', '{IMAGE_TOKEN}') if shows else content -}}}}"
    "{%- else -%}{%- for part in content -%}"
    "{{- '' if loop.first else '\\n' -}}"
    "{%- if part['type'] == 'text' -%}{{- part['text'] -}}"
    f"{{%- elif part['type'] in ['image', 'image_url'] and shows -%}}{{{{- '{IMAGE_TOKEN}' -}}}}"
    f"{{%- elif part['type'] in ['video', 'video_url'] and shows -%}}{{{{- '{VIDEO_TOKEN}' -}}}}"
    "{%- else -%}{{- raise_exception('contents are text, or images and videos in questions') -}}"
    "{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)
CHAT_TEMPLATES = {
    "qwen_1_5": (
        _CONTENT + "{%- if not messages or messages[0]['role'] != 'system' -%}"
        f"{{{{- '{IM_START}system\\n{DEFAULT_SYSTEM}{IM_END}\\n' -}}}}{{%- endif -%}}"
        "{%- for message in messages -%}"
        "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
        "{{- raise_exception('roles are system, user and assistant, got ' + message['role']) -}}"
        "{%- endif -%}"
        f"{{{{- '{IM_START}' + message['role'] + '\\n'"
        f" + write(message['content'], message['role'] == 'user') + '{IM_END}\\n' -}}}}"
        "{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{- '{IM_START}assistant\\n' -}}}}{{%- endif -%}}"
    ),
    "plain": (
        _CONTENT + "{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
        "{%- set text = write(message['content'], true) -%}"
        f"{{{{- '{IMAGE_TOKEN}' * (text.split('{IMAGE_TOKEN}') | length - 1) -}}}}"
        "{%- else -%}{{- write(message['content'], false) + '\\n' -}}"
        "{%- endif -%}{%- endfor -%}"
    ),
}


def chat_template(template: str) -> str:
    """Return a prompt template in Jinja, for ``apply_chat_template`` of the saved tokenizer.

    It takes messages with roles system, user and assistant, and gives the same tokens as ``render``
    and ``encode`` with one visual token per placeholder, and one video token per video. The
    processor writes as many visual tokens as a visual has. One difference remains: text that spells
    a special token becomes that token, because Jinja only has text; the processor's
    ``apply_chat_template`` keeps it text.

    Raises:
        ValueError: The template is unknown.
    """
    if template not in CHAT_TEMPLATES:
        raise ValueError(f"unknown template {template!r}; known: {', '.join(CHAT_TEMPLATES)}")
    return CHAT_TEMPLATES[template]
