"""Register the models that this project adds to lmms-eval.

Named in ``pyproject.toml`` under ``lmms_eval.models``. lmms-eval loads it for every run,
so the model's own module is only imported, by its path, when that model is asked for.
"""

from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> list[ModelManifest]:
    """Return the models for lmms-eval to register."""
    return [
        ModelManifest(
            model_id="llava_ov_encoder",
            simple_class_path="llava.eval.plugin.model.LlavaOVEncoder",
        )
    ]
