"""The cases so far and what became of them, in a file that survives a crash."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from run_kit.files import write_json

Figures = dict[str, Any]
DONE, LEFT_OUT, FAILED = "done", "left out", "failed"
MEMORY, RUNNING, LATER = "out of memory", "running", "no time left"
CUT_OFF = "cut off"


@dataclass
class Results:
    """All cases so far, in a file that is written after each of them.

    Attributes:
        path: the JSON file.
        machine: description of the machine.
        cases: per ``part: case`` its status and figures.
    """

    path: Path
    machine: Figures = field(default_factory=dict)
    cases: dict[str, Figures] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read the file, or start afresh where there is none."""
        if not path.is_file():
            return cls(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(path, content["machine"], content["cases"])

    def write(self) -> None:
        """Write the file at once and whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"machine": self.machine, "cases": self.cases})

    def end_overdue(self, now: float) -> str | None:
        """Let the running case fail if its time is over; return its name then."""
        for key, case in self.cases.items():
            if case["status"] == RUNNING and now > case["until"]:
                seconds = round(now - case["started"])
                why = f"ended after {seconds} s, because it takes about {case['expected']:.0f} s"
                self.cases[key] = {"status": FAILED, "why": why}
                return key
        return None

    def forget_failed(self) -> None:
        """Let the cases that failed run once more."""
        self.cases = {k: case for k, case in self.cases.items() if case["status"] != FAILED}

    def settle_running(self) -> None:
        """Let the case within which an earlier run was ended run once more, and fail after that."""
        for case in self.cases.values():
            if case["status"] == RUNNING:
                again = bool(case.get(CUT_OFF))
                ended = "two runs were ended" if again else "the run was ended"
                case.update(status=FAILED if again else CUT_OFF, why=f"{ended} within this case")

    def is_finished(self, key: str) -> bool:
        """Return whether a case needs no other try: it has figures, or cannot run here."""
        return self.cases.get(key, {}).get("status") in (DONE, LEFT_OUT, MEMORY)
