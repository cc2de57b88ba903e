"""What is decided. Pure Python: functions from a snapshot to a decision."""

from sglang_seer.schedule.admission import Load, admit, risk_of, victims
from sglang_seer.schedule.chunks import reason_to_yield
from sglang_seer.schedule.policy import Decision, Rules, Snapshot, Waiting, decide
from sglang_seer.schedule.queue import WaitingQueue

__all__ = [
    "Decision",
    "Load",
    "Rules",
    "Snapshot",
    "Waiting",
    "WaitingQueue",
    "admit",
    "decide",
    "reason_to_yield",
    "risk_of",
    "victims",
]
