"""Stock SGLang against Seer on one machine: the same rollout, sample by sample."""
