"""Cost of the rollout controller itself, against engines that compute nothing."""
