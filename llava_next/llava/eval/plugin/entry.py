"""Entry point of lmms-eval: the models that this project adds.

Named in ``pyproject.toml`` under ``lmms_eval.models``. lmms-eval loads it with whatever model it
runs, so the model's own module is imported by its path, when it is asked for.
"""

from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> list[ModelManifest]:
    """What lmms-eval registers."""
    return [
        ModelManifest(
            model_id="llava_ov_encoder",
            simple_class_path="llava.eval.plugin.model.LlavaOVEncoder",
        )
    ]
