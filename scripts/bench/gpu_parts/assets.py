"""Make the data of the GPU run beforehand: python scripts/bench/gpu_parts/assets.py --out DIR.

It needs PyAV, which the machine with the GPU may lack. ``DIR`` gets codec assets of made clips at
the default settings (8 mosaics, 10368 patches; 2 mosaics, 2592), frames of the same clips,
pictures, and ``mixture.jsonl``: 30 % codec clips, 50 % images, 20 % text, the shares of the
published mixture. ``codec.jsonl`` holds the clips alone.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MOSAICS, FEW_MOSAICS = 8, 2
CLIPS = {"h264": ("h264", 360, 640), "hevc": ("hevc", 480, 854)}
CLIP_FRAMES = 256
ENTRIES = 160
IMAGES = ((1024, 768), (640, 480), (480, 640), (1280, 720), (448, 448))
WORDS = ("ball", "table", "camera", "slowly", "left", "behind", "turns", "then", "stops", "red")


def _turns(random: np.random.Generator, visuals: int, words: int) -> list[dict[str, str]]:
    question = "<image>" * visuals + "\nWhat happens here, and in which order?"
    answer = " ".join(random.choice(WORDS, words).tolist())
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _write_visuals(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Write assets, frames and pictures; return the fields of an entry by kind."""
    import av

    from clips import made_clip
    from cv_reader.assets.make import write_evaluation_asset
    from cv_reader.select.config import AssetConfig

    made: dict[str, list[dict[str, Any]]] = {"codec": [], "few": [], "frames": [], "image": []}
    with tempfile.TemporaryDirectory() as name:
        for key, clip in CLIPS.items():
            path = made_clip(Path(name), *clip, CLIP_FRAMES)
            for kind, count in (("codec", MOSAICS), ("few", FEW_MOSAICS)):
                config = AssetConfig(num_images=count)
                asset = write_evaluation_asset(
                    path, key=f"{key}_{count}", out_root=out, config=config, video=key
                )
                folder = Path(asset.folder).relative_to(out)
                images = [str(folder / Path(image).name) for image in asset.images]
                made[kind].append(
                    {"image": images, "positions_thw": str(folder / "positions_thw.npy")}
                )
            with av.open(str(path)) as container:
                pictures = [frame.to_image() for frame in container.decode(video=0)]
            frames = [f"frames/{key}_{number}.jpg" for number in range(MOSAICS)]
            (out / "frames").mkdir(exist_ok=True)
            for number, file in enumerate(frames):
                pictures[number * len(pictures) // MOSAICS].save(out / file, quality=92)
            made["frames"].append({"image": frames, "type": "frames"})
            pictures = [pictures[37 * number].resize(size) for number, size in enumerate(IMAGES)]
            for number, picture in enumerate(pictures):
                file = f"frames/{key}_image_{number}.jpg"
                picture.save(out / file, quality=90)
                made["image"].append({"image": file})
    return made


def write_data(out: Path, *, tiny: bool) -> None:
    """Write everything into a folder; a trial gets small random pictures instead."""
    random = np.random.default_rng(0)
    out.mkdir(parents=True, exist_ok=True)
    made = _tiny_visuals(out, random) if tiny else _write_visuals(out)
    words = 12 if tiny else 200
    entries: list[dict[str, Any]] = []
    for number in range(30 if tiny else ENTRIES):
        kind = ("codec", "image", "image", "text", "image", "codec", "image", "text", "codec",
                "image")[number % 10]  # fmt: skip
        fields = {} if kind == "text" else made[kind][int(random.integers(len(made[kind])))]
        image = fields.get("image", [])
        visuals = len(image) if isinstance(image, list) else 1
        length = int(random.integers(words // 4, words * (4 if kind == "text" else 1)))
        turns = _turns(random, visuals, length)
        entries.append({"id": f"{kind}_{number}", **fields, "conversations": turns})
    _write(out / "mixture.jsonl", entries)
    _write(out / "codec.jsonl", [entry for entry in entries if "positions_thw" in entry])
    _write(
        out / "generation.jsonl",
        [
            {"id": kind, **made[kind][0], "conversations": _turns(random, count, 4)}
            for kind, count in (("codec", MOSAICS), ("few", FEW_MOSAICS), ("frames", MOSAICS))
        ],
    )


def _tiny_visuals(out: Path, random: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    made: dict[str, list[dict[str, Any]]] = {"codec": [], "few": [], "frames": [], "image": []}
    for number in range(MOSAICS):
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out / f"{number}.jpg")
    names = [f"{number}.jpg" for number in range(MOSAICS)]
    for kind, count in (("codec", MOSAICS), ("few", FEW_MOSAICS)):
        cells = np.indices((count, 4, 4)).reshape(3, -1).T.astype(np.int32)
        np.save(out / f"{kind}.npy", cells)
        made[kind] = [{"image": names[:count], "positions_thw": f"{kind}.npy"}]
    made["frames"] = [{"image": names, "type": "frames"}]
    made["image"] = [{"image": name} for name in names]
    return made


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--tiny", action="store_true", help="small random pictures, for a trial")
    args = parser.parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    write_data(args.out, tiny=args.tiny)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
