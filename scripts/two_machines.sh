#!/usr/bin/env bash
# Train on two "machines", two network namespaces of this one that a virtual cable joins, with two ranks each over gloo;
# then in one process. Fails unless the last losses of all three agree to nine digits. Needs Linux and root:
#   sudo env PATH="$PATH" bash scripts/two_machines.sh
set -euo pipefail
work=$(mktemp -d)
cd "$work"
trap 'ip netns del one || true; ip netns del two || true; rm -rf "$work"' EXIT
ip netns add one
ip netns add two
ip link add cable1 netns one type veth peer name cable2 netns two
for machine in "one cable1 10.0.0.1" "two cable2 10.0.0.2"; do
    read -r name cable address <<< "$machine"
    ip -n "$name" addr add "$address/24" dev "$cable"
    ip -n "$name" link set "$cable" up
    ip -n "$name" link set lo up
done

export OMP_NUM_THREADS=1
flags=(--corpus tales --tokenizer char --data-dir data --n-layer 2 --n-head 2 --n-embd 32 --block-size 32
    --batch-size 2 --gradient-accumulation-steps 8 --max-iters 20 --eval-interval 10 --eval-windows 8
    --device cpu --dtype float64)
rank() { # NAMESPACE NUMBER CABLE STRATEGY
    GLOO_SOCKET_IFNAME=$3 ip netns exec "$1" torchrun --nnodes 2 --node-rank "$2" --nproc-per-node 2 \
        --master-addr 10.0.0.1 --master-port 29500 -m nanogpt.cli train "${flags[@]}" --strategy "$4" --out-dir "$4"
}
nanogpt train "${flags[@]}" --out-dir alone > log 2>&1
for strategy in ddp fsdp; do
    rank one 0 cable1 "$strategy" >> log 2>&1 &
    first=$!
    rank two 1 cable2 "$strategy" >> log 2>&1 || { cat log; exit 1; }
    wait $first || { cat log; exit 1; }
done
for run in alone ddp fsdp; do
    echo "$run: $(tail -n 1 "$run/metrics.jsonl" | cut -d, -f 1-3)"
done | tee last
[ "$(sed -E 's/^[a-z]+: //; s/(\.[0-9]{9})[0-9]*/\1/g' last | sort -u | wc -l)" = 1 ] || { echo "the losses differ"; exit 1; }
