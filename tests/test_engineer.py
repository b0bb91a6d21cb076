"""The library as an engineer uses it: a model, an array and an optimizer that are not ours, on two ranks, resumed."""
import os
import subprocess
import sys

import pytest
import torch
from conftest import replace

from nanogpt.report import read_metrics
from nanogpt.start import start_run
from nanogpt.train import train

SCRIPT = '''
import os, sys
import numpy as np, torch
import torch.nn.functional as F
from nanogpt import GPTConfig, TrainConfig, generate, train
from nanogpt.data import TokenDataset

class Bigram(torch.nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx, targets=None):
        logits = self.table(idx)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

torch.manual_seed(0)
ids, model = np.arange(4000) % 7, Bigram(7)
config = TrainConfig(
    model=GPTConfig(block_size=16), out_dir=sys.argv[1], max_iters=int(sys.argv[2]), eval_interval=20, resume="auto",
    batch_size=8, gradient_accumulation_steps=2, learning_rate=1.0, warmup_iters=0, schedule="constant", device="cpu",
)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
data = TokenDataset(ids[:3600]), TokenDataset(ids[3600:])
result = train(config, model=model, data=data, optimizer=optimizer, progress=False)
if int(os.environ["RANK"]) == 0:
    print(*generate(result.model, torch.tensor([[3]]), 8, temperature=0, block_size=16)[0].tolist())
'''


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun is POSIX")
def test_own_model_data_and_optimizer_on_two_ranks(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")

    def run(out_dir: str, max_iters: int) -> str:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*torchrun, "script.py", out_dir, str(max_iters)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    def rows(out_dir: str) -> list[tuple]:
        return [(row["iter"], row["train_loss"], row["val_loss"]) for row in read_metrics(tmp_path / out_dir)]

    assert run("whole", 60) == "3 4 5 6 0 1 2 3 4", "it has learned to count"
    run("cut", 40)
    assert run("cut", 60) == "3 4 5 6 0 1 2 3 4"
    assert [row[0] for row in rows("cut")] == [0, 20, 40, 60] and rows("cut") == rows("whole"), "resumed to the bit"
    assert rows("cut")[-1][2] < 0.1 * rows("cut")[0][2]


def test_bitsandbytes_8_bit_adamw_trains_and_goes_on_to_the_bit(tiny):
    "Moments of 8 bits take a quarter of the memory. The library is not among our requirements."
    bitsandbytes = pytest.importorskip("bitsandbytes")

    def optimizer(model):  # smaller tensors than min_8bit_size keep moments of 32 bits
        return bitsandbytes.optim.AdamW8bit(model.parameters(), lr=1e-3, min_8bit_size=1024)

    def kill(run):
        if run.iter_num == 15:
            raise InterruptedError

    tiny = replace(tiny, n_embd=64)
    whole = train(replace(tiny, out_dir=f"{tiny.out_dir}-whole"), optimizer=optimizer, progress=False)
    with pytest.raises(InterruptedError):
        train(tiny, optimizer=optimizer, on_step=kill, progress=False)
    run = start_run(replace(tiny, resume="auto"), optimizer=optimizer)
    assert run.iter_num == 10 and run.optimizer.state[run.model.lm_head.weight]["state1"].dtype == torch.uint8
    resumed = train(replace(tiny, resume="auto"), optimizer=optimizer, progress=False)
    assert [row["val_loss"] for row in resumed.metrics] == [row["val_loss"] for row in whole.metrics]
