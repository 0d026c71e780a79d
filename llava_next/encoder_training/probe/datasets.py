"""The data sets of the probe by name: classes, lists, recipe, and where their files are.

A list has one clip per line, ``relative/path.mp4,label`` (also ``path label`` and ``path::label``;
``cv_reader.video_lists`` tells them apart), without a header. Paths are relative to the folder of
the data set.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cv_reader.video_lists import LabelledVideo, read_list


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set and its published recipe.

    Attributes:
        name: name of its folder below ``--data_root``, and in reports.
        title: name for people.
        num_classes: C; 0 = as the lists say.
        train_list, val_list: file names of the lists.
        epochs: of the published recipe.
        batch_size: clips of a rank in the published recipe.
        has_several_labels: whether a clip may have several labels; it is scored by mAP, too.
    """

    name: str
    title: str
    num_classes: int
    train_list: str = "train_new.csv"
    val_list: str = "val_new.csv"
    epochs: int = 10
    batch_size: int = 16
    has_several_labels: bool = False


_TABLE = (
    DataSet(
        name="ssv2", title="Something-Something v2", num_classes=174, batch_size=4,
        train_list="ssv2_train_new.csv", val_list="ssv2_val_new.csv",
    ),
    DataSet(
        name="diving48", title="Diving48", num_classes=48, epochs=30, batch_size=4,
        train_list="diving48_train_new.csv", val_list="diving48_val_new.csv",
    ),
    DataSet(
        name="perception_test", title="Perception Test", num_classes=63, epochs=30, batch_size=4
    ),
    DataSet(
        name="charadesego", title="Charades-Ego", num_classes=157, has_several_labels=True
    ),
    DataSet(name="epic_verb", title="Epic-Kitchens, verbs", num_classes=97),
    DataSet(name="epic_noun", title="Epic-Kitchens, nouns", num_classes=300),
    DataSet(name="k400", title="Kinetics-400", num_classes=400),
    DataSet(name="hmdb51", title="HMDB51", num_classes=51, epochs=30, batch_size=2),
    DataSet(name="k600", title="Kinetics-600", num_classes=600),
    DataSet(name="k700", title="Kinetics-700", num_classes=700),
    DataSet(name="k710", title="Kinetics-710", num_classes=710),
    DataSet(name="mit", title="Moments in Time", num_classes=339),
    DataSet(name="rareact", title="RareAct", num_classes=149),
    DataSet(name="ucf101", title="UCF101", num_classes=101),
    DataSet(name="coin", title="COIN", num_classes=150),
    DataSet(name="jester", title="Jester", num_classes=27),
    DataSet(name="drone_action", title="Drone Action", num_classes=13),
    DataSet(
        name="charadesego_1st", title="Charades-Ego, first person", num_classes=157,
        has_several_labels=True,
    ),
    DataSet(
        name="charadesego_3rd", title="Charades-Ego, third person", num_classes=157,
        has_several_labels=True,
    ),
)  # fmt: skip

DATA_SETS = {data_set.name: data_set for data_set in _TABLE}
BENCHMARKS = tuple(DATA_SETS)[:8]
"""The eight of the published table."""

ALIASES = {
    "kinetics400": "k400", "kinetics600": "k600", "kinetics700": "k700", "kinetics710": "k710",
    "charades_ego": "charadesego", "something_something_v2": "ssv2",
    "CharadesEgo_v1_only1st": "charadesego_1st", "CharadesEgo_v1_only3rd": "charadesego_3rd",
    "Drone_Action": "drone_action", "COIN": "coin",
}  # fmt: skip

CUSTOM = "custom"
"""Name of a data set that is not in the table: its lists are given."""


def find_data_set(name: str) -> DataSet:
    """Return a data set by its name or a usual other one.

    Raises:
        ValueError: if there is none, naming all.
    """
    if name == CUSTOM:
        return DataSet(name=CUSTOM, title="custom", num_classes=0)
    found = DATA_SETS.get(ALIASES.get(name, name))
    if found is None:
        raise ValueError(
            f"--dataset must be one of {', '.join(DATA_SETS)}, or {CUSTOM} with --train_list and "
            f"--val_list, got {name!r}"
        )
    return found


class ClipList(NamedTuple):
    """The clips of a list.

    Attributes:
        path: the list.
        root: folder that its paths start from.
        dialect: how its lines are written.
        clips: in order.
    """

    path: Path
    root: Path
    dialect: str
    clips: list[LabelledVideo]

    def file(self, index: int) -> Path:
        """Return the path of a clip's file."""
        return self.root / self.clips[index].video


def data_folder(data_set: DataSet, data_root: Path, *, is_codec: bool) -> Path:
    """Return the folder of a data set: for codec input ``NAME_hevc`` where it exists, else NAME."""
    coded = data_root / f"{data_set.name}_hevc"
    return coded if is_codec and coded.is_dir() else data_root / data_set.name


def read_clips(path: Path, root: Path) -> ClipList:
    """Read a list; its paths must be relative and stay below ``root``.

    Raises:
        ValueError: naming file, line and rule.
    """
    dialect, clips = read_list(path)
    for clip in clips:
        parts = Path(clip.video)
        if parts.is_absolute() or ".." in parts.parts:
            raise ValueError(
                f"{clip.where}: {clip.video!r} must be relative to {root} and inside it"
            )
    return ClipList(path, root, dialect, clips)


def number_of_classes(data_set: DataSet, lists: list[ClipList], given: int) -> int:
    """Return C: as given, else the table's, else one more than the largest label.

    Raises:
        ValueError: if a label is not below it, or a clip has several labels where one is allowed.
    """
    largest = max((max(clip.labels), clip.where) for part in lists for clip in part.clips)
    count = given or data_set.num_classes or largest[0] + 1
    if largest[0] >= count:
        raise ValueError(
            f"{largest[1]}: label {largest[0]} must be below the {count} classes of "
            f"{data_set.title}; labels start at 0. Check the list, or give --num_classes"
        )
    if count < 2:
        raise ValueError(f"{lists[0].path}: there must be at least 2 classes, got {count}")
    return count


class OrderCheck(NamedTuple):
    """Whether two lists number their classes alike, as far as the names of folders tell.

    Attributes:
        lines: what to print.
        is_contrary: whether folders say that they do not.
    """

    lines: list[str]
    is_contrary: bool


def check_label_order(
    train: ClipList, val: ClipList, names: list[str], shown: int = 6
) -> OrderCheck:
    """Compare the labels of two lists by the folders of their clips, and show some of each.

    Lists with classes in another order are the usual cause of scores far below published ones.

    Args:
        train, val: the lists.
        names: name of each class; may be empty.
        shown: classes to show.
    """
    lines = [
        f"{what}: {len(part.clips):,} clips, {part.dialect} lines, "
        f"{len({label for clip in part.clips for label in clip.labels}):,} classes ({part.path})"
        for what, part in (("train", train), ("val", val))
    ]
    first: dict[int, list[str]] = {}
    for column, part in enumerate((train, val)):
        for clip in part.clips:
            for label in clip.labels:
                first.setdefault(label, ["-", "-"])
                if first[label][column] == "-":
                    first[label][column] = clip.video
    lines.append("label order (first clip of a class: train | val):")
    for label in sorted(first)[:shown]:
        name = f" {names[label]}" if label < len(names) else ""
        lines.append(f"  {label:4}{name}: {' | '.join(first[label])}")
    without = sorted(label for label, (there, _) in first.items() if there == "-")
    if without:
        lines.append(
            f"  warning: {len(without)} classes have no clip in train, such as {without[0]}"
        )
    ours, theirs = _folder_labels(train), _folder_labels(val)
    if ours is None or theirs is None:
        lines.append("  folders do not name classes: compare the lines above with the class list")
        return OrderCheck(lines, False)
    common = ours.keys() & theirs.keys()
    wrong = sorted(folder for folder in common if ours[folder] != theirs[folder])
    if wrong:
        some = ", ".join(f"{name} is {ours[name]} and {theirs[name]}" for name in wrong[:3])
        lines.append(
            f"  {len(wrong)} of {len(common)} folders have another label in train than in val: "
            f"{some}"
        )
    else:
        lines.append(f"  {len(common)} folders have the same label in train and val")
    return OrderCheck(lines, bool(wrong))


def _folder_labels(part: ClipList) -> dict[str, int] | None:
    """Return the label of each folder, None where folders and labels are not one to one."""
    found: dict[str, set[int]] = {}
    for clip in part.clips:
        found.setdefault(Path(clip.video).parent.name, set()).update(clip.labels)
    labels = {folder: next(iter(values)) for folder, values in found.items() if len(values) == 1}
    is_one_to_one = len(labels) == len(found) == len(set(labels.values())) and "" not in labels
    return labels if is_one_to_one and len(labels) > 1 else None
