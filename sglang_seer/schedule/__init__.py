"""What is decided. Pure Python: one function from a snapshot to a decision."""

from sglang_seer.schedule.policy import Decision, Snapshot, Waiting, WaitingGroups, decide

__all__ = ["Decision", "Snapshot", "Waiting", "WaitingGroups", "decide"]
