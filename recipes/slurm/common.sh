# What the jobs of this folder share; sourced by them, in the folder that sbatch was called in.

vpd=${VPD:-.venv/bin/vpd}
method=${1:?sbatch … METHOD RECIPE [FLAG…]}
recipe=${2:?sbatch … METHOD RECIPE [FLAG…]}
shift 2
out=runs/$(basename "$recipe" .yaml)/$method

# How many nodes a list with commas has.
count() { tr ',' '\n' <<<"$1" | wc -l; }

# train NODES FLAG…: `vpd train` in a process for each GPU of these nodes (a list with commas), as
# torchrun would start them. A run that has begun goes on. SIGTERM lets it end its step and save.
train() {
    local nodes=$1 resume=() code=0
    shift
    [ ! -e "$out/config.json" ] || resume=(--resume)
    export MASTER_ADDR=${nodes%%,*} MASTER_PORT=${MASTER_PORT:-29500}
    export WORLD_SIZE=$(($(count "$nodes") * SLURM_GPUS_ON_NODE))
    srun --nodelist="$nodes" --nodes="$(count "$nodes")" --ntasks="$WORLD_SIZE" \
        --ntasks-per-node="$SLURM_GPUS_ON_NODE" --gpu-bind=none --overlap --kill-on-bad-exit=1 \
        --cpus-per-task=$((SLURM_CPUS_ON_NODE / SLURM_GPUS_ON_NODE)) \
        bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID; exec "$@"' - \
        "$vpd" train "$method" --config "$recipe" --out "$out" "${resume[@]}" "$@" &
    local trainer=$!
    trap 'kill -TERM "$trainer"' TERM # srun hands it on to the processes
    while wait "$trainer" || code=$?; kill -0 "$trainer" 2>/dev/null; do code=0; done
    [ "$code" != 130 ] || scontrol requeue "$SLURM_JOB_ID" # it was stopped, and is saved
    return "$code"
}
