#!/usr/bin/env bash
# GRPO of a small Qwen3 on GSM8K with slime 0.3.1 on one machine, with Seer or without.
#
#   SLIME=~/slime MEGATRON=~/Megatron-LM MODEL=~/Qwen3-0.6B MODEL_TORCH_DIST=~/Qwen3-0.6B_torch_dist \
#   DATA=~/gsm8k/train.parquet OUT=~/out SEER=on bash examples/slime/run_gsm8k.sh
#
# SEER: on; chunks (the request buffer over stock engines); off (slime alone). MODEL_TORCH_DIST: made from MODEL by
# slime's tools/convert_hf_to_torch_dist.py. DATA: rows with `messages` (chat) and `label` (the answer).
set -euo pipefail

: "${SLIME:?a checkout of github.com/THUDM/slime, v0.3.1}" "${MEGATRON:?a checkout of Megatron-LM}"
: "${MODEL:?folder of a Hugging Face Qwen3}" "${MODEL_TORCH_DIST:?folder}" "${DATA:?GSM8K as parquet or JSONL}" "${OUT:?folder}"
gpus=${GPUS:-8}
seer=${SEER:-on}
model_script=${MODEL_SCRIPT:-$SLIME/scripts/models/qwen3-0.6B.sh}

# Lines that switch Seer on: two for slime, one for drafts in its engines, one in their environment.
seer_flags=(
    --rollout-function-path sglang_seer.integrations.slime.generate_rollout
    --custom-generate-function-path sglang_seer.integrations.slime.generate
)
engine_mode=on
case $seer in
# slime builds its engines' arguments before SGLang has loaded Seer, which takes the place of NGRAM then.
on) seer_flags+=(--sglang-speculative-algorithm NGRAM) ;;
chunks) engine_mode=off ;;
off) seer_flags=() engine_mode=off ;;
*)
    echo "SEER: got '$seer', wanted on, chunks or off" >&2
    exit 2
    ;;
esac

# shellcheck source=/dev/null
source "$model_script" # sets MODEL_ARGS

flags=(
    --actor-num-nodes 1 --actor-num-gpus-per-node "$gpus" --colocate
    --hf-checkpoint "$MODEL" --ref-load "$MODEL_TORCH_DIST" --load "$OUT" --save "$OUT" --save-interval 50

    --prompt-data "$DATA" --input-key messages --label-key label --apply-chat-template
    --rollout-shuffle --rm-type math --num-rollout "${STEPS:-200}"
    # Equal sizes: with more prompts than wanted, slime throws the longest groups away.
    --rollout-batch-size 32 --over-sampling-batch-size 32 --n-samples-per-prompt 8
    --rollout-max-response-len 4096 --rollout-temperature 1 --global-batch-size 256 --balance-data

    --advantage-estimator grpo --use-kl-loss --kl-loss-coef 0.0 --kl-loss-type low_var_kl --entropy-coef 0.0
    --eps-clip 0.2 --eps-clip-high 0.28
    --optimizer adam --lr 1e-6 --lr-decay-style constant --weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.98

    --tensor-model-parallel-size 1 --pipeline-model-parallel-size 1 --context-parallel-size 1
    --use-dynamic-batch-size --max-tokens-per-gpu 9216
    --recompute-granularity full --recompute-method uniform --recompute-num-layers 1
    --attention-dropout 0.0 --hidden-dropout 0.0 --attention-backend flash
    --accumulate-allreduce-grads-in-fp32 --attention-softmax-in-fp32

    --rollout-num-gpus-per-engine 1 --sglang-mem-fraction-static 0.7
)

environment="{\"env_vars\": {
    \"PYTHONPATH\": \"$MEGATRON\",
    \"CUDA_DEVICE_MAX_CONNECTIONS\": \"1\",
    \"SGLANG_SEER\": \"$engine_mode\"
}}"

ray start --head --node-ip-address 127.0.0.1 --num-gpus "$gpus" --disable-usage-stats
trap 'ray stop' EXIT
cd "$SLIME"
ray job submit --address http://127.0.0.1:8265 --runtime-env-json "$environment" -- \
    python3 train.py "${MODEL_ARGS[@]}" "${flags[@]}" ${seer_flags[@]+"${seer_flags[@]}"}
