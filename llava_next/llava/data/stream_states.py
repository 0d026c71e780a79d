"""From where the readers of a rank continue: a file of a checkpoint, checked when it is read.

One reader's state is the number of its batches and draws, and per data set the place of
``StreamPasses`` or ``NumberedPasses``. States are found again by the name of the data set.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from run_kit.files import write_json

logger = logging.getLogger(__name__)

_FILE = "stream_state_{rank}.json"
_STREAM_PLACE = {"pass", "shard", "row", "block", "taken"}
_NUMBERED_PLACE = {"pass", "taken"}
_MAX_COUNT = 1 << 62

State = dict[str, Any]


def write_states(
    folder: Path, states: Sequence[State | None], names: Sequence[str], *, rank: int, ranks: int
) -> None:
    """Write from where the readers of a rank continue into a checkpoint."""
    content = {"ranks": ranks, "data_sets": list(names), "readers": list(states)}
    write_json(folder / _FILE.format(rank=rank), content)


def read_states(
    checkpoint: Path, *, rank: int, ranks: int, readers: int, streamed: Mapping[str, bool]
) -> list[State | None]:
    """Return from where the readers of a rank continue behind a checkpoint.

    Args:
        checkpoint: its folder.
        rank: this rank.
        ranks: all of them.
        readers: readers of each rank.
        streamed: the data sets of this run in order, and whether each is streamed.

    Returns:
        Per reader its state; None for one that has not begun. A data set that the checkpoint
        does not know, or that is read in another way now, begins at its start, with a warning.

    Raises:
        ValueError: The file is missing or damaged, or of other ranks or readers.
    """
    path = checkpoint / _FILE.format(rank=rank)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        states = content["readers"]
        names = content.get("data_sets", list(streamed))
        known = content.get("ranks", ranks)
        _check(states, names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}), so it is unknown where the streams continue; "
            "resume from another checkpoint"
        ) from error
    if known != ranks:
        raise ValueError(
            f"{path} is of {known} ranks, and these are {ranks}: resume with as many as before"
        )
    if len(states) != readers:
        raise ValueError(
            f"{checkpoint} was read by {len(states)} readers per rank, and these are "
            f"{readers}: resume with as many --dataloader_num_workers as before"
        )
    found = [state and {**state, "sets": []} for state in states]
    for name, is_stream in streamed.items():
        places = [
            state and dict(zip(names, state["sets"], strict=True)).get(name) for state in states
        ]
        keys = _STREAM_PLACE if is_stream else _NUMBERED_PLACE
        if name not in names or any(place and place.keys() != keys for place in places):
            logger.warning("data set %s begins at its start: %s has no place of it", name, path)
            places = [None] * readers
        for state, place in zip(found, places, strict=True):
            if state:
                state["sets"].append(place)
    return found


def _check(states: Any, names: Any) -> None:
    """Raise ``ValueError`` unless the content of a file is that of ``write_states``."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"data_sets must be a list of names, got {str(names)[:40]}")
    if not isinstance(states, list):
        raise ValueError(f"readers must be a list, got {str(states)[:40]}")
    for state in states:
        if state is None:
            continue
        sets = state["sets"]
        if not isinstance(sets, list) or len(sets) != len(names):
            raise ValueError(f"a reader must have {len(names)} data sets, got {str(sets)[:40]}")
        places = [place for place in sets if place is not None]
        known = (_STREAM_PLACE, _NUMBERED_PLACE)
        if not all(isinstance(place, dict) and place.keys() in known for place in places):
            raise ValueError(f"a place must be of {sorted(_STREAM_PLACE)}, got {str(places)[:80]}")
        counts = [
            state["batches"],
            state["drawn"],
            *(n for place in places for n in place.values()),
        ]
        wrong = [n for n in counts if type(n) is not int or not 0 <= n < _MAX_COUNT]
        if wrong:
            raise ValueError(f"counts must be whole numbers from 0 on, got {wrong[0]!r}")
