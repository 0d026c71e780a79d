"""``llava_processor.json``: how the prompts and pixels of a checkpoint are prepared."""

import json
from pathlib import Path
from typing import NamedTuple

from llava.visual.config import VisualConfig

PROCESSOR_FILE = "llava_processor.json"
_SCHEMA_VERSION = 1


class ProcessorSettings(NamedTuple):
    """What the file holds."""

    visual: VisualConfig
    template: str


def write_processor_settings(folder: Path, settings: ProcessorSettings) -> None:
    """Write the file into a folder that exists."""
    values = {
        "schema_version": _SCHEMA_VERSION,
        "template": settings.template,
        "visual": settings.visual.to_dict(),
    }
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (folder / PROCESSOR_FILE).write_text(text, encoding="utf-8")


def read_processor_settings(folder: Path) -> ProcessorSettings:
    """Read what ``write_processor_settings`` wrote.

    Raises:
        ValueError: if the file is absent or of another schema.
    """
    path = folder / PROCESSOR_FILE
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: the folder is no LLaVA checkpoint of this project; "
            "training and `python -m llava.model.tiny` write it"
        )
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("schema_version") != _SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version must be {_SCHEMA_VERSION}, "
            f"got {values.get('schema_version')!r}; "
            "use the version of this project that wrote the checkpoint"
        )
    return ProcessorSettings(VisualConfig.from_dict(values["visual"]), values["template"])
