"""``cv_reader visualize``: show what is kept of a video, beside what other ways would keep.

The suffix of ``-o`` chooses: ``.gif`` runs through all slots, ``.png`` (or ``.jpg``) lays some of
them side by side, ``.html`` is a page with both that needs no other file.
"""

import argparse
import base64
import html
import io
from pathlib import Path

from PIL import Image

from cv_reader.assets.files import new_file
from cv_reader.backends import BACKEND_NAMES
from cv_reader.commands.arguments import (
    add_budget_arguments,
    add_packing_arguments,
    add_scoring_arguments,
    add_size_arguments,
)
from cv_reader.commands.batch import check_writable, config_from
from cv_reader.errors import SettingsError, VideoError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say
from cv_reader.reader import ReadOptions
from cv_reader.views.visualize import Shown, animation, sheet, show_video, strips

_SECONDS = 10.0
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin-top: 2rem }
img { max-width: 100%; border-radius: 4px } figure { margin: 1rem 0 }
figcaption { font-size: .9rem; opacity: .8; margin-bottom: .3rem }
td { padding: .15rem 1.5rem .15rem 0; vertical-align: top }
td:first-child { opacity: .7; white-space: nowrap }
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 where the video cannot be read."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cv_reader visualize", description=__doc__)
    parser.add_argument("video", type=Path, help="video to read")
    parser.add_argument("-o", "--output", type=Path, required=True, help=".gif, .png or .html")
    add_size_arguments(parser)
    add_budget_arguments(parser, is_first_frame_whole=True)
    parser.add_argument(
        "--backend", default="auto", choices=BACKEND_NAMES, help="reader; auto = the best there is"
    )
    parser.add_argument("--num_threads", type=int, default=1, help="threads for decoding")
    add_packing_arguments(parser)
    add_scoring_arguments(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    suffix = args.output.suffix.lower()
    if suffix not in (".gif", ".png", ".jpg", ".html"):
        raise SettingsError(f"-o must end in .gif, .png, .jpg or .html, got {args.output}")
    config = config_from(args)
    check_writable(args.output.parent)
    try:
        shown = show_video(
            args.video, config, ReadOptions(backend=args.backend, num_threads=args.num_threads)
        )
    except VideoError as error:
        say(f"visualize: failed: {error}")
        return FAILED_SAMPLES
    with new_file(args.output) as path:
        if suffix == ".html":
            path.write_text(_page(args.video, shown), encoding="utf-8")
        elif suffix == ".gif":
            path.write_bytes(_gif(shown))
        else:
            kind = "PNG" if suffix == ".png" else "JPEG"
            sheet(shown).save(path, kind, quality=90)
    say(
        f"visualize: {args.output}: {100 * shown.kept_share:.3g} % of the patches of "
        f"{config.sequence_length} frames, read by {shown.facts['backend']}"
    )
    return OK


def _gif(shown: Shown) -> bytes:
    moments = animation(shown)
    first, *others = [moment.quantize(128, dither=Image.Dither.NONE) for moment in moments]
    buffer = io.BytesIO()
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=others,
        duration=max(20, round(1000 * _SECONDS / len(moments))),
        loop=0,
    )
    return buffer.getvalue()


def _page(video: Path, shown: Shown) -> str:
    facts = {
        "video": f"{shown.facts['W0']} x {shown.facts['H0']} pixels, "
        f"{shown.facts['num_frames']} frames, {shown.facts['codec_name']}",
        "read by": f"{shown.facts['backend']} (motion {shown.facts['exactness']['motion']}, "
        f"residual {shown.facts['exactness']['residual_y']})",
        "patches kept": f"{int(shown.kept.sum())} of {shown.kept.size} "
        f"({100 * shown.kept_share:.3g} %)",
        "frame numbers": ", ".join(map(str, shown.frame_ids.tolist())),
        "fingerprint": shown.config.fingerprint,
    }
    rows = "".join(
        f"<tr><td>{name}</td><td>{html.escape(value)}</td></tr>" for name, value in facts.items()
    )
    figures = [_figure("All slots in turn", "image/gif", _gif(shown))]
    for caption, picture in strips(shown):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
        figures.append(_figure(caption, "image/jpeg", buffer.getvalue()))
    title = html.escape(video.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1><table>{rows}</table>{''.join(figures)}</html>\n"
    )


def _figure(caption: str, kind: str, content: bytes) -> str:
    text = html.escape(caption)
    data = base64.b64encode(content).decode()
    return (
        f"<figure><figcaption>{text}</figcaption>"
        f'<img alt="{text}" src="data:{kind};base64,{data}"></figure>'
    )
