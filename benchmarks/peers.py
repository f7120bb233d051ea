"""The same texts through what people use today: GPT-2 of equal size under Hugging Face's Trainer and under PyTorch Lightning.

    pip install -c constraints.txt -e '.[peers]'; python -m benchmarks.peers [--rungs 87k,5M]          DATA=file.csv COLUMN=name

Every side sees the same 32 texts a step, padded to the longest by the peers and packed by the harness, and learns the same real tokens.
GPT-2's heads share its width and its MLP is four times as wide, so equal size is the nearest count of that family.
Blocks of steps in turns, one thread each. Where there is a CUDA device all of it runs there, the peers in float32 as they are by default.
All rungs are measured there unless `--rungs` names some; on a CPU, where the larger ones take long, 87k and 557k.
Results: benchmarks/results/peers.json, or peers-cuda.json.
"""

import argparse
import tempfile
from importlib.util import find_spec
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import _measure as measure
from benchmarks._harness_side import HarnessSide
from benchmarks._measure import Remote, Times
from benchmarks._setup import RUNGS, corpus, run_spec
from harness import accounting
from harness.data.batches import Order
from harness.data.corpus import Corpus

BATCH, HEADS = 32, 4
# Steps a block, of which the first warms up; blocks a rung.
STEPS = 5 if measure.device() == "cpu" else 50
ROUNDS = {"87k": 5, "557k": 4, "5M": 2, "10M": 2}
# Rungs that are measured if none are named.
MEASURED = {"cpu": ("87k", "557k"), "cuda": tuple(RUNGS)}
PACKAGES = ("transformers", "accelerate", "lightning")
SIDES = {"harness": "harness", "trainer": "Hugging Face Trainer, GPT-2", "lightning": "PyTorch Lightning, GPT-2"}


def gpt2(rung: str, data: Corpus) -> nn.Module:
    """An untrained GPT-2 with as many layers as the rung and the width that comes nearest to its number of parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = RUNGS[rung]
    target = accounting.counts("decoder", run_spec(rung, data).shape, data.tokenizer.vocab_size, data.seq_len).n_params
    tables = data.tokenizer.vocab_size + data.seq_len
    widths = range(HEADS, 2_000, HEADS)
    width = min(widths, key=lambda d: abs(12 * shape.n_layer * d * d + 13 * shape.n_layer * d + tables * d - target))
    torch.manual_seed(0)
    size = {"n_positions": data.seq_len, "n_embd": width, "n_layer": shape.n_layer, "n_head": HEADS}
    special = {"bos_token_id": data.tokenizer.start, "eos_token_id": data.tokenizer.end}
    return GPT2LMHeadModel(GPT2Config(vocab_size=data.tokenizer.vocab_size, **size, **special))


class Ordered(Dataset[np.ndarray]):
    """Texts in the order in which the harness's steps see them, from a step on."""

    def __init__(self, data: Corpus, order: Order, first: int, steps: int) -> None:
        self.data, self.rows = data, np.concatenate([order.rows(step) for step in range(first, first + steps)])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> np.ndarray:
        texts, row = self.data.train, self.rows[i]
        return texts.ids[texts.offsets[row] : texts.offsets[row + 1]]


def collate(texts: list[np.ndarray]) -> dict[str, Tensor]:
    """Padded to the longest text; what is padding is neither read nor learned."""
    ids_BT = nn.utils.rnn.pad_sequence([torch.from_numpy(text.astype(np.int64)) for text in texts], batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    real_BT = torch.arange(ids_BT.shape[1]) < lengths[:, None]
    return {"input_ids": ids_BT, "attention_mask": real_BT.long(), "labels": ids_BT.masked_fill(~real_BT, -100)}


class Clock:
    """Wall and CPU seconds between the ends of steps."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """The end of a step; the first and the last one are waited for, where steps are begun ahead of a device."""
        if torch.cuda.is_initialized() and len(self.marks) in (0, STEPS - 1):
            torch.cuda.synchronize()
        self.marks.append((perf_counter(), process_time()))

    def a_step(self) -> tuple[float, float]:
        """Wall and CPU seconds of one, the first left out: the median, or on a GPU, where single ones say nothing, the mean."""
        steps = np.diff(np.array(self.marks), axis=0)
        wall, cpu = (np.mean if torch.cuda.is_initialized() else np.median)(steps, axis=0)
        return float(wall), float(cpu)


class PeerSide:
    """A peer's training loop over blocks of steps."""

    def __init__(self, rung: str, peer: str) -> None:
        self.data, self.peer, self.done = corpus(), peer, 0
        self.model = gpt2(rung, self.data)
        self.order = Order(self.data.train.n_texts, BATCH, 0)

    def n_params(self) -> int:
        """Parameters of the peer's model."""
        return sum(p.numel() for p in self.model.parameters())

    def block(self) -> tuple[float, float]:
        """Seconds of a step."""
        texts, clock = Ordered(self.data, self.order, self.done, STEPS), Clock()
        self.done += STEPS
        (self._trainer if self.peer == "trainer" else self._lightning)(texts, clock)
        return clock.a_step()

    def _trainer(self, texts: Ordered, clock: Clock) -> None:
        from torch.utils.data import SequentialSampler
        from transformers import Trainer, TrainerCallback, TrainingArguments

        class InOrder(Trainer):  # type: ignore[misc]
            def _get_train_sampler(self, *args: Any) -> SequentialSampler:
                return SequentialSampler(texts)

        class Mark(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                clock.mark()

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                max_steps=STEPS,
                learning_rate=1e-3,
                lr_scheduler_type="constant",
                save_strategy="no",
                report_to=[],
                use_cpu=measure.device() == "cpu",
                disable_tqdm=True,
                logging_strategy="no",
                dataloader_pin_memory=measure.device() != "cpu",
            )
            InOrder(model=self.model, args=arguments, train_dataset=texts, data_collator=collate, callbacks=[Mark()]).train()

    def _lightning(self, texts: Ordered, clock: Clock) -> None:
        import lightning

        inner = self.model

        class Module(lightning.LightningModule):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def training_step(self, batch: dict[str, Tensor]) -> Tensor:
                loss: Tensor = self.inner(**batch).loss
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.AdamW(self.parameters(), lr=1e-3)

            def on_train_batch_end(self, *args: Any) -> None:
                clock.mark()

        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(accelerator=measure.device().replace("cuda", "gpu"), devices=1, max_steps=STEPS, **quiet)
        trainer.fit(Module(), DataLoader(texts, batch_size=BATCH, collate_fn=collate))


class HarnessBlocks(HarnessSide):
    """The harness over the same blocks."""

    def block(self) -> tuple[float, float]:
        """Seconds of a step, the first left out; on a GPU those of a longer block."""
        if self.steps.block > 1:
            return self.step()
        wall, cpu = np.median(np.array([self.step() for _ in range(STEPS)][1:]), axis=0)
        return float(wall), float(cpu)


def compare_rung(rung: str) -> dict[str, Any]:
    """One rung, the three sides in turns."""
    peers = {name: Remote(PeerSide, rung, name, allocator=True) for name in ("trainer", "lightning")}
    sides = {"harness": Remote(HarnessBlocks, rung, allocator=True)} | peers
    try:
        for side in sides.values():
            side("block")
        times: Times = measure.in_turns({name: lambda s=side: s("block") for name, side in sides.items()}, ROUNDS[rung])
        n_params = {name: side("n_params") for name, side in peers.items()}
    finally:
        for side in sides.values():
            side.close()
    against = {name: measure.compare(times, name, "harness") for name in peers}
    return {"seconds": measure.seconds(times), "against": against, "peer_n_params": n_params}


def main() -> None:
    """Measure, print, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", default=",".join(MEASURED[measure.device()]), help="of " + ", ".join(RUNGS))
    given = parser.parse_args()
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        print(f"peers: left out, {', '.join(missing)} not installed: .venv/bin/python -m pip install -c constraints.txt -e '.[peers]'")
        return
    result: dict[str, Any] = {"machine": measure.machine(), "sides": SIDES, "rungs": {}}
    for rung in given.rungs.split(","):
        found = result["rungs"][rung] = compare_rung(rung)
        print(rung, {SIDES[name]: f"{ratio['ratio']:.2f}x" for name, ratio in found["against"].items()}, flush=True)
    print(f"kept in {measure.keep('peers', result)}")


if __name__ == "__main__":
    main()
