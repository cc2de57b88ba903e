#!/usr/bin/env bash
# GRPO of a small Qwen3 on GSM8K with veRL: MODEL=... DATA=... OUT=... [SEER=1] ./run.sh [more of veRL's overrides]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export MODEL=${MODEL:-Qwen/Qwen3-0.6B} # name or folder
export DATA=${DATA:?a folder for the data}
export OUT=${OUT:?a folder for checkpoints}
export GPUS=${GPUS:-8}
seer=${SEER:-0} # 1: with Seer; drafts: with its drafts too; 0: veRL alone

[ -f "$DATA/train.parquet" ] || python "$here/gsm8k.py" "$DATA"

rollout=actor_rollout_ref.rollout
lines=()
case $seer in
0) export NAME=stock ;;
1 | drafts)
    export NAME=seer-$seer
    lines=(
        "$rollout.router_config_path=$here/router.yaml"
        "+$rollout.agent.agent_loop_manager_class=sglang_seer.integrations.verl.SeerAgentLoopManagerTQ"
    )
    ;;
*)
    echo "SEER: got '$seer', wanted 0, 1 or drafts" >&2
    exit 2
    ;;
esac
if [ "$seer" = drafts ]; then
    export SGLANG_SEER=on
    lines+=("+$rollout.engine_kwargs.sglang.speculative_algorithm=SEER")
fi

exec python -m verl.trainer.main_ppo --config-path "$here" --config-name grpo_qwen3_gsm8k "${lines[@]}" "$@"
