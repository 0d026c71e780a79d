"""Print what the first line of a training JSONL holds, after checking its asset.

python examples/training_data_demo/show_first_record.py training_codec.jsonl
"""

import json
import sys
from pathlib import Path

from cv_reader.assets import read_asset


def main(path: Path) -> int:
    with path.open(encoding="utf-8") as lines:
        first = lines.readline()
    if not first:
        print(f"{path} is empty: every sample failed")
        return 1
    record = json.loads(first)
    asset = read_asset(Path(record["positions_thw"]).parent)
    question = record["conversations"][0]["value"].replace("\n", " ")
    print(f"{path}: first record")
    print(f"  id             {record['id']}")
    print(f"  question       {question[:100]}")
    print(f"  images         {len(record['image'])}, first {record['image'][0]}")
    print(f"  positions_thw  {asset.positions.shape} {asset.positions.dtype}")
    exactness = ", ".join(f"{name} {how}" for name, how in asset.meta["exactness"].items())
    print(f"  read by        {asset.meta['backend']} ({exactness})")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
