"""Trains the sample checkpoints on the digits of scikit-learn and writes them: `python sample_checkpoints/make.py`.

Every figure of the recipe is below. One thread and fixed seeds: two runs on one machine give the same bytes.
The running statistics of a batch normalisation lag behind its weights (at epoch 0 they are 0 and 1), so each network
is written with statistics measured anew on the whole training split.
"""

import argparse
import copy
import io
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import BottleneckNet, Plain, PreactNet, ResNet
from safetensors.torch import save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

HELD_OUT = 500
SPLIT_SEED = 0
EPOCHS = 24
SERIES = (0, 1, 2, 4, 8, 16, 24)
BATCH = 64
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """The digits, split once. inputs: (n, 1, 8, 8), mean 0 and variance 1 over the training split; labels: (n,)."""

    train_inputs: Tensor
    train_labels: Tensor
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A network with what trains it."""

    net: nn.Module
    optimizer: SGD
    schedule: OneCycleLR
    order: torch.Generator


def digits() -> Digits:
    """1797 digits in a stratified split: 1297 to train on and 500 held out."""
    images, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    mean, std = train.mean(), train.std()

    def normalised(x: np.ndarray) -> Tensor:
        return torch.from_numpy((x - mean) / std).float().reshape(-1, 1, 8, 8)

    return Digits(
        train_inputs=normalised(train),
        train_labels=torch.from_numpy(train_labels).long(),
        inputs=normalised(test),
        labels=torch.from_numpy(test_labels).long(),
    )


def training(model: type[nn.Module], data: Digits, *, lr: float, seed: int) -> Training:
    """Fresh `model` with He's initialisation, SGD with Nesterov momentum, and one cycle of the learning rate."""
    torch.manual_seed(seed)
    net = model()
    optimizer = SGD(net.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    steps = EPOCHS * -(-len(data.train_labels) // BATCH)
    schedule = OneCycleLR(optimizer, max_lr=lr, total_steps=steps, cycle_momentum=False)
    return Training(net=net, optimizer=optimizer, schedule=schedule, order=torch.Generator().manual_seed(seed))


def epochs(run: Training, data: Digits) -> Iterator[int]:
    """Epochs done so far: 0 before the first step, then 1, 2, ... after each pass over the training split."""
    yield 0
    for epoch in range(1, EPOCHS + 1):
        run.net.train()
        for batch in torch.randperm(len(data.train_labels), generator=run.order).split(BATCH):
            loss = functional.cross_entropy(run.net(data.train_inputs[batch]), data.train_labels[batch])
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
            run.schedule.step()
        yield epoch


@torch.no_grad()
def recalibrated(net: nn.Module, inputs: Tensor) -> nn.Module:
    """Copy of `net` in evaluation mode whose running statistics are the exact ones of `inputs`, as one batch."""
    net = copy.deepcopy(net).train()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    net(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, data: Digits) -> float:
    """Share of the held-out digits that `net` names rightly, computed in float64."""
    net = copy.deepcopy(net).eval().double()
    return float((net(data.inputs.double()).argmax(dim=1) == data.labels).double().mean())


def trained(model: type[nn.Module], data: Digits, *, lr: float, seed: int) -> nn.Module:
    """Network of class `model` after all epochs, recalibrated."""
    run = training(model, data, lr=lr, seed=seed)
    for _ in epochs(run, data):
        pass
    return recalibrated(run.net, data.train_inputs)


def report(path: Path, net: nn.Module, data: Digits) -> None:
    """Print the figures of one file as README.md lists them."""
    parameters = sum(p.numel() for p in net.parameters())
    print(f"{path.name}: {parameters} parameters, {path.stat().st_size} bytes, accuracy {accuracy(net, data):.3f}")


def storages(value: object) -> Iterator[torch.UntypedStorage]:
    """Storages of the tensors inside nested dicts and lists, in their order."""
    match value:
        case Tensor():
            yield value.untyped_storage()
        case dict():
            for item in value.values():
                yield from storages(item)
        case list():
            for item in value:
                yield from storages(item)


def save_legacy(state: dict[str, Any], path: Path) -> None:
    """Write `state` in torch's format of before 1.6, with the storages named and sorted in their order in `state`.

    torch names and sorts them by memory address there, which differs from run to run; nothing else is changed.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    written = buffer.getvalue()
    blocks = list(storages(state))
    addresses = [str(block._cdata) for block in blocks]  # noqa: SLF001 - the name that torch.save has just written
    names = [f"{i:04}" for i in range(len(blocks))]
    listed = pickle.dumps(sorted(addresses), protocol=2)
    end = written.index(listed)
    body, data = written[:end], written[end + len(listed) :]
    contents = {}
    for address, block in sorted(zip(addresses, blocks, strict=True), key=lambda pair: pair[0]):
        size = 8 + block.nbytes()  # a count, then the elements
        contents[address], data = data[:size], data[size:]
    for address, name in zip(addresses, names, strict=True):
        body = body.replace(pickled_text(address), pickled_text(name))
    path.write_bytes(body + pickle.dumps(names, protocol=2) + b"".join(contents[address] for address in addresses))


def pickled_text(text: str) -> bytes:
    """Bytes of a string as pickle's protocol 2 writes it."""
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def make_digits(out: Path, data: Digits) -> None:
    """Write the held-out digits, digits.npz."""
    np.savez_compressed(out / "digits.npz", inputs=data.inputs.numpy(), labels=data.labels.numpy())


def make_resnet(out: Path, data: Digits) -> None:
    """Write the training series, digits_resnet/epochNN.pt."""
    folder = out / "digits_resnet"
    folder.mkdir(exist_ok=True)
    run = training(ResNet, data, lr=0.1, seed=1)
    for epoch in epochs(run, data):
        if epoch in SERIES:
            net = recalibrated(run.net, data.train_inputs)
            path = folder / f"epoch{epoch:02}.pt"
            torch.save(net.state_dict(), path)
            report(path, net, data)


def make_plain(out: Path, data: Digits) -> None:
    """Write the plain chain, digits_plain.pt."""
    net = trained(Plain, data, lr=0.05, seed=2)
    path = out / "digits_plain.pt"
    torch.save(net.state_dict(), path)
    report(path, net, data)


def make_preact(out: Path, data: Digits) -> None:
    """Write the pre-activation network, digits_preact.safetensors."""
    net = trained(PreactNet, data, lr=0.1, seed=3)
    path = out / "digits_preact.safetensors"
    path.write_bytes(save(net.state_dict(), metadata={"format": "pt"}))
    report(path, net, data)


def make_bottleneck(out: Path, data: Digits) -> None:
    """Write the bottleneck network inside its training state, digits_bottleneck_training.pth."""
    run = training(BottleneckNet, data, lr=0.1, seed=4)
    # the best of all epochs, as a training loop sees it: with the running statistics of that moment
    best = max(accuracy(run.net, data) for epoch in epochs(run, data) if epoch > 0)
    net = recalibrated(run.net, data.train_inputs)
    state = {
        "epoch": EPOCHS,
        "state_dict": nn.DataParallel(net).state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "best_acc": best,
    }
    path = out / "digits_bottleneck_training.pth"
    save_legacy(state, path)
    report(path, net, data)


def main() -> None:
    """Write all files into --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="the folder to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    data = digits()
    for make in (make_digits, make_resnet, make_plain, make_preact, make_bottleneck):
        make(out, data)


if __name__ == "__main__":
    main()
