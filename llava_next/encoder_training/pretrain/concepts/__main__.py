"""Make a concept bank and label images or videos with it.

    python -m encoder_training.pretrain.concepts features SOURCE FEATURES [--model MODEL]
    python -m encoder_training.pretrain.concepts cluster FEATURES BANK --centres 4096
    python -m encoder_training.pretrain.concepts label FEATURES BANK LABELS
    python -m encoder_training.pretrain.concepts report FEATURES BANK LABELS PAGE [--source SOURCE]

SOURCE is a folder of images or videos, a JSONL list, or tar shards. Every command continues where
it was stopped, and refuses a folder that was made with other settings. See docs/pretraining.md.

Exit codes: 0 done; 1 done but for bad samples; 2 usage or settings; 130
interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from encoder_training.pretrain.concepts.bank import read_bank
from encoder_training.pretrain.concepts.clustering import ClusterSettings, label, make_bank
from encoder_training.pretrain.concepts.extractors import STATISTICS, FeatureSettings
from encoder_training.pretrain.concepts.features import extract, open_features
from encoder_training.pretrain.concepts.nearest import BACKENDS
from encoder_training.pretrain.concepts.report import write_report
from encoder_training.pretrain.data.samples import BadSampleError
from encoder_training.pretrain.data.sources import read_source
from run_kit.arguments import command_parser
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, USAGE, ExitOnError, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command."""
    arguments = _parser().parse_args(argv)
    with ExitOnError(USAGE, arguments.command) as exit_on_error:
        try:
            return arguments.run(arguments)
        except BadSampleError:
            exit_on_error.code = FAILED_SAMPLES
            raise
        except KeyboardInterrupt:
            say("interrupted; the same command continues")
            return INTERRUPTED


def _features(arguments: argparse.Namespace) -> int:
    items = read_source(arguments.source, arguments.kind)
    if len({item.kind for item in items}) > 1:
        raise ValueError(f"{arguments.source} holds images and videos; choose one by --kind")
    settings = FeatureSettings(
        model=arguments.model,
        num_frames=arguments.num_frames,
        pool=arguments.pool,
        layer=arguments.layer,
    )
    bad = extract(
        items,
        arguments.out,
        settings,
        rows_per_part=arguments.rows_per_part,
        share=_share(arguments.share),
        device=arguments.device,
        on_bad=arguments.on_bad,
    )
    say(f"features of {len(items)} samples in {arguments.out}; {bad} bad ones left out")
    return FAILED_SAMPLES if bad else OK


def _share(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"share must be I/N with I from 0 to N - 1, got {text!r}")
    return int(number), int(count)


def _cluster(arguments: argparse.Namespace) -> int:
    settings = ClusterSettings(
        centres=arguments.centres,
        iterations=arguments.iterations,
        fraction=arguments.fraction,
        hierarchical=arguments.hierarchical,
        components=arguments.components,
        whiten=arguments.whiten,
        backend=arguments.backend,
        device=arguments.device,
        seed=arguments.seed,
    )
    bank = make_bank(open_features(arguments.features), settings, arguments.bank, say)
    say(f"{len(bank.centres)} centres in {arguments.bank}, fingerprint {bank.fingerprint}")
    return OK


def _label(arguments: argparse.Namespace) -> int:
    features = open_features(arguments.features)
    info = label(
        features,
        read_bank(arguments.bank),
        arguments.labels,
        count=arguments.count,
        share=_share(arguments.share),
        backend=arguments.backend,
        device=arguments.device,
    )
    total = sum(len(keys) for keys in features.keys)
    say(f"{info.labels_per_sample} labels of each of {total} samples in {arguments.labels}")
    return OK


def _report(arguments: argparse.Namespace) -> int:
    figures = write_report(
        arguments.page,
        read_bank(arguments.bank),
        open_features(arguments.features),
        arguments.labels,
        read_source(arguments.source) if arguments.source else (),
        num_clusters=arguments.clusters,
        seed=arguments.seed,
    )
    say("\n".join(f"{name}: {value:.4g}" for name, value in figures.items()))
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("encoder_training.pretrain.concepts", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_features(commands)
    cluster = commands.add_parser("cluster", help="cluster features into a bank")
    cluster.set_defaults(run=_cluster)
    cluster.add_argument("features", type=Path, help="folder of features, or a .npy file (N, D)")
    cluster.add_argument("bank", type=Path, help="folder to write")
    cluster.add_argument("--centres", type=int, required=True, help="number of concepts")
    cluster.add_argument("--iterations", type=int, default=20, help="iterations of k-means")
    cluster.add_argument(
        "--fraction", type=float, default=1.0, help="share of the rows that an iteration sees"
    )
    cluster.add_argument(
        "--hierarchical", action="store_true", help="make coarse clusters first, and divide each"
    )
    cluster.add_argument(
        "--components",
        type=int,
        default=0,
        help="number of principal directions to project on; 0 = none",
    )
    cluster.add_argument(
        "--whiten", action="store_true", help="give the principal directions the same spread"
    )
    cluster.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    labels = commands.add_parser("label", help="label samples with their nearest centres")
    labels.set_defaults(run=_label)
    labels.add_argument("features", type=Path, help="folder of features, or a .npy file (N, D)")
    labels.add_argument("bank", type=Path, help="folder of the bank")
    labels.add_argument("labels", type=Path, help="folder to write")
    labels.add_argument("--count", type=int, default=10, help="number of labels of a sample")
    labels.add_argument("--share", default="0/1", help="I/N: write every Nth part, from the Ith")
    for command in (cluster, labels):
        command.add_argument(
            "--backend", choices=BACKENDS, default="auto", help="library that computes products"
        )
        command.add_argument("--device", default="cpu", help="device of products, such as cuda:0")
    report = commands.add_parser("report", help="write a page about a bank and its labels")
    report.set_defaults(run=_report)
    report.add_argument("features", type=Path, help="folder of features, or a .npy file")
    report.add_argument("bank", type=Path, help="folder of the bank")
    report.add_argument("labels", type=Path, help="folder of labels")
    report.add_argument("page", type=Path, help="HTML file to write")
    report.add_argument("--source", help="source of the samples, for pictures")
    report.add_argument(
        "--clusters", type=int, default=12, help="number of clusters shown with pictures"
    )
    report.add_argument("--seed", type=int, default=0, help="seed of what is shown")
    return parser


def _add_features(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    features = commands.add_parser("features", help="extract features of a source")
    features.set_defaults(run=_features)
    features.add_argument("source", help="folder, JSONL list or tar shards")
    features.add_argument("out", type=Path, help="folder to write")
    features.add_argument(
        "--kind", choices=["image", "video"], help="keep only images, or only videos"
    )
    features.add_argument(
        "--model",
        default=STATISTICS,
        help="folder or name that transformers loads, or 'statistics' of pixels",
    )
    features.add_argument(
        "--num_frames", type=int, default=8, help="frames of a video that the model sees"
    )
    features.add_argument(
        "--pool",
        choices=["concat", "mean"],
        default="concat",
        help="join the features of frames side by side, or average them",
    )
    features.add_argument(
        "--layer",
        choices=["pooled", "mean"],
        default="pooled",
        help="pooled output of the model, or the mean of its tokens",
    )
    features.add_argument(
        "--rows_per_part", type=int, default=8192, help="number of samples of a file"
    )
    features.add_argument("--share", default="0/1", help="I/N: write every Nth part, from the Ith")
    features.add_argument("--device", default="cpu", help="device of the model, such as cuda:0")
    features.add_argument(
        "--on_bad",
        choices=["stop", "skip"],
        default="stop",
        help="stop at a bad sample, or skip it",
    )


if __name__ == "__main__":
    sys.exit(main())
