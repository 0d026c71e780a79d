"""The settings of a run: the plug-in's arguments, with ``LLAVA_CODEC_*`` as their defaults.

An argument (``--model_args name=value``) wins over its environment variable, which wins over the
default.

| variable | argument | meaning |
|---|---|---|
| LLAVA_CODEC_USE_OFFLINE | video_input | 1 = codec assets, 0 = uniform frames |
| LLAVA_CODEC_OFFLINE_ROOT | codec_root | asset folders, paths or addresses, separated by colons |
| LLAVA_CODEC_NUM_IMAGES | codec_num_images | mosaics per video (and frames, in frames mode) |
| LLAVA_CODEC_SEQ_LEN_FRAMES | codec_seq_len_frames | frames that the codec analysis looked at |
| LLAVA_CODEC_SQUARE_SIZE | codec_square_size | side of a mosaic in pixels |
| LLAVA_CODEC_PATCH_SIZE | codec_patch_size | side of a mosaic's cell in pixels |
| LLAVA_CODEC_SELECT, ... | codec_select, ... | every other setting of assets, by its name |
| LLAVA_CODEC_VISIDX_MODE | | ``pack_topk``, the only mode there is |
| LLAVA_CODEC_DEBUG | codec_debug | 1 = rank 0 names every hit and miss, all = every rank does |
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from cv_reader.assets import META, AssetConfig, AssetError
from cv_reader.remote.addresses import address_of, is_address
from cv_reader.shards import file_names, folder_names, is_file
from llava.eval.environment import variables

VideoInput = Literal["codec", "frames"]
CodecMiss = Literal["error", "online", "frames"]
Debug = Literal["off", "main", "all"]

VISIDX_MODE = "pack_topk"
_BETWEEN_FOLDERS = re.compile(r":(?!//)")
"""A colon that is not the one of ``s3://``."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SWITCH = {
    **dict.fromkeys(("1", "true", "yes"), True),
    **dict.fromkeys(("", "0", "false", "no"), False),
}


SIZE_FLAGS = {
    "codec_seq_len_frames": ("sequence_length", "--seq_len_frames"),
    "codec_num_images": ("num_images", "--num_images"),
    "codec_square_size": ("square_size", "--square_size"),
    "codec_patch_size": ("patch_size", "--patch_size"),
}
"""Argument of the plug-in to the setting of an asset and the flag of the asset tool."""

SELECTION_SETTINGS = {
    f"codec_{item.name}": item.name
    for item in fields(AssetConfig)
    if item.name not in {name for name, _ in SIZE_FLAGS.values()}
}
"""Argument of the plug-in to the setting of an asset, for all settings that are no size."""


class EvalSettingsError(ValueError):
    """The settings of a run cannot work; nothing was generated."""


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """The resolved settings of one run.

    Attributes:
        pretrained: checkpoint folder.
        conv_template: prompt template, see ``llava.conversation``.
        video_input: what a video becomes: its codec assets, or uniform whole frames.
        codec_root: folders that hold one folder per asset or shards of them, here or in a store.
        codec_miss: what a video without assets does: stop the run before its first sample,
            compute the assets now, or use uniform frames.
        codec_cache: where ``codec_miss=online`` keeps what it computes.
        video_root: folder that the assets' keys are relative to; None matches by the longest tail.
        num_frames: frames per video where frames are used.
        codec_seq_len_frames, codec_num_images, codec_square_size, codec_patch_size: what the
            assets must have been made with. Where their length is free, clips have 1 to
            ``codec_num_images`` mosaics.
        codec_selection: the other settings of assets that were given, by name (``select``,
            ``block_cells``, ``quality_db`` ...; arguments ``codec_select`` and so on). Assets must
            have been made with them; those of a setting that is not given may have any value, and
            assets that the run makes get its default.
        codec_debug: whether each hit and miss is logged.
        device, dtype, attn_implementation: how the model is loaded; None chooses.
        batch_size: samples per call of the model.
        max_new_tokens: limit of an answer whose task states none.
        manifest: file to write instead of ``manifest.json`` next to the results.
    """

    pretrained: str
    conv_template: str = "qwen_1_5"
    video_input: VideoInput = "codec"
    codec_root: tuple[Path, ...] = ()
    codec_miss: CodecMiss = "error"
    codec_cache: Path = Path(".huggingface_cache/codec_online")
    video_root: Path | None = None
    num_frames: int = 8
    codec_seq_len_frames: int = 64
    codec_num_images: int = 8
    codec_square_size: int = 576
    codec_patch_size: int = 16
    codec_selection: Mapping[str, Any] = field(default_factory=dict)
    codec_debug: Debug = "off"
    device: str | None = None
    dtype: str | None = None
    attn_implementation: str | None = None
    batch_size: int = 1
    max_new_tokens: int = 1024
    manifest: Path | None = None

    def to_dict(self) -> dict[str, object]:
        """Return all settings as values for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["codec_root"] = [address_of(root) or str(root) for root in self.codec_root]
        values["codec_selection"] = dict(self.codec_selection)
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in values.items()
        }

    def asset_config(self, *, merge_side_patches: int = 1) -> AssetConfig:
        """Return the settings of assets that the run makes itself.

        Args:
            merge_side_patches: side of the blocks that the checkpoint merges; cells are chosen in
                such blocks, unless ``codec_block_cells`` was given.

        Raises:
            ValueError: if settings cannot go together.
        """
        sizes = {name: getattr(self, argument) for argument, (name, _) in SIZE_FLAGS.items()}
        return AssetConfig(**{"block_cells": merge_side_patches, **sizes, **self.codec_selection})


def read_settings(
    arguments: Mapping[str, object], environment: Mapping[str, str] | None = None
) -> EvalSettings:
    """Resolve the plug-in's arguments against the environment.

    Args:
        arguments: arguments as lmms-eval parsed them: strings, numbers or booleans.
        environment: read instead of the process's own.

    Raises:
        EvalSettingsError: naming the argument or variable, its value and what is accepted.
    """
    environment = variables() if environment is None else environment
    known = [item.name for item in fields(EvalSettings) if item.name != "codec_selection"]
    known += SELECTION_SETTINGS
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise EvalSettingsError(
            f"unknown model_args {', '.join(unknown)}; accepted are {', '.join(known)}"
        )
    if "pretrained" not in arguments:
        raise EvalSettingsError("model_args need pretrained=<checkpoint folder>")
    _check_visidx_mode(environment)
    values = {**environment_defaults(environment), **arguments}
    values.setdefault("num_frames", values.get("codec_num_images", EvalSettings.codec_num_images))
    selection = read_selection(values)
    for argument in SELECTION_SETTINGS:
        values.pop(argument, None)
    settings = EvalSettings(
        **{name: _parse(name, value) for name, value in values.items()}, codec_selection=selection
    )
    try:
        settings.asset_config()
    except ValueError as error:
        raise EvalSettingsError(
            f"{error} (arguments have the prefix codec_, variables LLAVA_CODEC_)"
        ) from error
    if settings.video_input == "codec":
        _check_roots(settings.codec_root)
    if "LLAVA_CODEC_USE_OFFLINE" in environment and settings.video_input == "codec":
        _require_root(settings)
    return settings


def read_selection(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings of assets, sizes apart, among arguments (``codec_select`` ...), by name.

    Raises:
        EvalSettingsError: naming the argument, its value and what is accepted.
    """
    selection: dict[str, Any] = {}
    for argument, name in SELECTION_SETTINGS.items():
        if argument in arguments:
            try:
                selection[name] = AssetConfig.parse(name, arguments[argument])
            except ValueError as error:
                raise EvalSettingsError(f"codec_{error}") from error
    return selection


def split_model_args(text: str) -> dict[str, object]:
    """Split ``--model_args`` as lmms-eval does, for a check before lmms-eval is imported.

    Raises:
        EvalSettingsError: An item is not ``name=value``.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    for item in items:
        if "=" not in item:
            raise EvalSettingsError(f"model_args must be name=value,name=value..., got {item!r}")
    return {name: value for name, _, value in (item.partition("=") for item in items)}


def check_checkpoint(settings: EvalSettings) -> None:
    """Refuse a checkpoint that is neither a folder of one nor the name of a hub repository.

    Raises:
        EvalSettingsError: naming the path and what is missing.
    """
    folder = Path(settings.pretrained)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise EvalSettingsError(f"pretrained={folder} is no checkpoint: it holds no config.json")
    if not folder.is_dir() and not _HUB_NAME.fullmatch(settings.pretrained):
        raise EvalSettingsError(
            f"pretrained={folder} is no folder; give a checkpoint's folder, or OWNER/NAME of one "
            "on the hub"
        )


def has_assets(folder: Path) -> bool:
    """Return whether a folder holds at least one codec asset, or a shard of them."""
    if is_address(folder):
        is_tar = (name.endswith(".tar") for name in file_names(folder))
        return any(is_tar) or any(
            is_file(folder / name / META) for name in sorted(folder_names(folder))
        )
    found = (next(folder.glob(pattern), None) for pattern in (f"[!.]*/{META}", "[!.]*.tar"))
    return any(found)


def _check_roots(roots: Sequence[Path]) -> None:
    for root in roots:
        if not has_assets(root):
            raise EvalSettingsError(
                f"codec_root {root} holds no codec assets; make them first, or correct codec_root "
                "/ LLAVA_CODEC_OFFLINE_ROOT (leave it out for codec_miss=online or frames)"
            )


def environment_defaults(environment: Mapping[str, str]) -> dict[str, object]:
    """Return the arguments that ``LLAVA_CODEC_*`` variables give, as text.

    Raises:
        EvalSettingsError: for ``LLAVA_CODEC_USE_OFFLINE`` that is neither yes nor no.
    """
    names = {"LLAVA_CODEC_OFFLINE_ROOT": "codec_root", "LLAVA_CODEC_DEBUG": "codec_debug"}
    names |= {f"LLAVA_{name.upper()}": name for name in (*SIZE_FLAGS, *SELECTION_SETTINGS)}
    values: dict[str, object] = {
        argument: environment[variable]
        for variable, argument in names.items()
        if environment.get(variable)
    }
    if "LLAVA_CODEC_USE_OFFLINE" in environment:
        values["video_input"] = "codec" if uses_codec(environment) else "frames"
    return values


def uses_codec(environment: Mapping[str, str]) -> bool:
    """Return whether ``LLAVA_CODEC_USE_OFFLINE`` asks for codec input; unset means yes.

    Raises:
        EvalSettingsError: The value is neither yes nor no.
    """
    text = environment.get("LLAVA_CODEC_USE_OFFLINE", "1")
    if text.lower() not in _SWITCH:
        raise EvalSettingsError(f"LLAVA_CODEC_USE_OFFLINE must be 1 or 0, got {text!r}")
    return _SWITCH[text.lower()]


def _check_visidx_mode(environment: Mapping[str, str]) -> None:
    mode = environment.get("LLAVA_CODEC_VISIDX_MODE", VISIDX_MODE)
    if mode != VISIDX_MODE:
        raise EvalSettingsError(
            f"LLAVA_CODEC_VISIDX_MODE must be {VISIDX_MODE}, the only mode, got {mode!r}; unset it"
        )


def _require_root(settings: EvalSettings) -> None:
    if not settings.codec_root and settings.codec_miss == "error":
        raise EvalSettingsError(
            "LLAVA_CODEC_USE_OFFLINE=1 needs the assets' folder: set LLAVA_CODEC_OFFLINE_ROOT or "
            "model_args codec_root="
        )


def _parse(name: str, value: object) -> Any:
    """Return one argument in the type of its field."""
    if name == "codec_root":
        return tuple(_asset_folder(part) for part in _BETWEEN_FOLDERS.split(str(value)) if part)
    if name in ("codec_cache", "video_root", "manifest"):
        return Path(str(value))
    if name == "video_input":
        return _choice(name, value, get_args(VideoInput))
    if name == "codec_miss":
        return _choice(name, value, get_args(CodecMiss))
    if name == "codec_debug":
        text = str(value).lower()
        return text if text == "all" else ("main" if _switch(name, text) else "off")
    if name in ("pretrained", "conv_template", "device", "dtype", "attn_implementation"):
        return str(value)
    return _positive_integer(name, value)


def _asset_folder(text: str) -> Path:
    """Return the folder of asset folders, given itself or the folder above it."""
    root = Path(text)
    if is_address(root):
        try:
            return root / "assets" if "assets" in folder_names(root) else root
        except AssetError as error:
            raise EvalSettingsError(f"codec_root {error}") from error
    if not root.is_dir():
        raise EvalSettingsError(
            f"codec_root {text} is no folder; make the assets first, or correct codec_root / "
            "LLAVA_CODEC_OFFLINE_ROOT (several folders are separated by colons)"
        )
    return root / "assets" if (root / "assets").is_dir() else root


def _choice(name: str, value: object, accepted: tuple[str, ...]) -> str:
    if value not in accepted:
        raise EvalSettingsError(f"{name} must be one of {', '.join(accepted)}, got {value!r}")
    return str(value)


def _switch(name: str, text: str) -> bool:
    if text not in _SWITCH:
        raise EvalSettingsError(f"{name} must be 1, 0 or all, got {text!r}")
    return _SWITCH[text]


def _positive_integer(name: str, value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or int(text) < 1:
        raise EvalSettingsError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(text)
