"""A cluster's rollout, simulated event by event, with the very code that decides in an engine."""

from sglang_seer.sim.cluster import Cluster, Failure, simulate
from sglang_seer.sim.policy import POLICIES, Policy
from sglang_seer.sim.profile import Profile, StepTime
from sglang_seer.sim.request import Request
from sglang_seer.sim.result import Result

__all__ = ["POLICIES", "Cluster", "Failure", "Policy", "Profile", "Request", "Result", "StepTime", "simulate"]
