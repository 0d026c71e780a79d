"""Register the models that this project adds to lmms-eval.

Named in ``pyproject.toml`` under ``lmms_eval.models``. lmms-eval loads it for every run,
so the model's own module is only imported, by its path, when that model is asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> "list[ModelManifest]":
    """Return the models for lmms-eval to register."""
    # Not at the head: a program that imports this module first would have the registry, which
    # this import fills, ask for a module that is still being imported, and leave the model out.
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(
            model_id="llava_ov_encoder",
            simple_class_path="llava.eval.plugin.model.LlavaOVEncoder",
        ),
        ModelManifest(
            model_id="llava_ov_encoder_chat",
            chat_class_path="llava.eval.plugin.model.LlavaOVEncoderChat",
        ),
    ]
