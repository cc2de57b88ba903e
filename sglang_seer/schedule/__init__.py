"""What is decided. Pure Python: functions from a snapshot to a decision."""

from sglang_seer.schedule.policy import Decision, Rules, Snapshot, Waiting, decide
from sglang_seer.schedule.queue import WaitingQueue

__all__ = ["Decision", "Rules", "Snapshot", "Waiting", "WaitingQueue", "decide"]
