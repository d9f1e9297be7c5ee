#!/bin/bash
# A run on Slurm: Ray's head and workers by srun, one per node, then `quorum submit`, whose exit code is the job's.
#
#   sbatch --nodes=4 --export=ALL configs/cluster/slurm.sh my.yaml run.dir=$HOME/runs/a
#
# The run directory, the model and this directory are on storage that all nodes share. A job that is requeued or
# submitted again with the same arguments goes on from the last checkpoint. Secrets (WANDB_API_KEY, HF_TOKEN) are taken
# from the environment of sbatch.
#SBATCH --job-name=quorum
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@900
#SBATCH --output=quorum-%j.log
set -euo pipefail

if (($# < 2)); then
  echo "usage: sbatch slurm.sh CONFIG run.dir=/shared/path [section.field=value ...]" >&2
  exit 2
fi
run_dir=""
for word in "$@"; do
  [[ $word == run.dir=* ]] && run_dir=${word#run.dir=}
done
if [[ $run_dir != /* ]]; then
  echo "slurm.sh: give run.dir=/path/on/shared/storage, got '${run_dir}'" >&2
  exit 2
fi

cpus=${SLURM_CPUS_PER_TASK:-1}
# Since Slurm 22.05 srun does not take --cpus-per-task from the job: a step would have one CPU.
export SRUN_CPUS_PER_TASK=$cpus
gpus=${SLURM_GPUS_ON_NODE:-0}
port=${RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
dashboard_port=$((port + 10000))
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')

# Ray's token of this job alone, in a file that only this user reads; nothing secret is on a command line.
umask 077
token_dir=${QUORUM_TOKEN_DIR:-$HOME/.quorum}
mkdir -p "$token_dir"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token_dir/token-$SLURM_JOB_ID"
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"
# A driver told to stop may finish its update and save.
export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-840}

steps=()
finish() {
  ((${#steps[@]})) && kill "${steps[@]}" 2> /dev/null || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT

srun --nodes=1 --ntasks=1 -w "$head" ray start --head --block --disable-usage-stats \
  --node-ip-address="$head_ip" --port="$port" --dashboard-host="$head_ip" --dashboard-port="$dashboard_port" \
  --num-cpus="$cpus" --num-gpus="$gpus" &
steps+=($!)
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 -w "$node" ray start --block --disable-usage-stats \
    --address="$head_ip:$port" --num-cpus="$cpus" --num-gpus="$gpus" &
  steps+=($!)
done

address="http://$head_ip:$dashboard_port"
for ((try = 0; try < 60; try++)); do
  quorum status --address "$address" > /dev/null 2>&1 && break
  sleep 5
done
quorum status --address "$address" > /dev/null || exit 4

# Ray takes a run before its workers are there; it would be planned for the nodes that happened to be first.
nodes_joined() {
  env -u RAY_ADDRESS -u RAY_API_SERVER_ADDRESS timeout 60 python -c 'import sys
from ray.util.state import list_nodes
print(len(list_nodes(sys.argv[1], [("state", "=", "ALIVE")], limit=10000)))' "$address" 2> /dev/null || echo 0
}
join_seconds=${QUORUM_JOIN_SECONDS:-300}
wait_end=$((SECONDS + join_seconds))
joined=$(nodes_joined)
while ((joined < ${#nodes[@]})); do
  if ((SECONDS >= wait_end)); then
    echo "slurm.sh: $joined of ${#nodes[@]} nodes joined Ray in $join_seconds s; see the output of 'ray start'" >&2
    exit 4
  fi
  sleep 2
  joined=$(nodes_joined)
done

name="slurm-$SLURM_JOB_ID"
# Slurm's warning before the time limit: stop with a checkpoint.
trap 'quorum stop "$name" --address "$address" --wait 840' TERM
quorum submit "$@" --resume --name "$name" --retries 3 --address "$address" &
client=$!
code=0
wait "$client" || code=$?
# A trapped signal ends the first wait; the client ends after the run has.
kill -0 "$client" 2> /dev/null && { code=0; wait "$client" || code=$?; }
exit "$code"
