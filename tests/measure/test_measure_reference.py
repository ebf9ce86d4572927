"""A reference checkpoint: its layers folded by its own statistics, and every way in which it can fail to fit."""

from __future__ import annotations

import importlib.util
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from measure_oracles import one_thread
from passes_oracles import SIZE

import resnet_audit.report.report as report_module
from resnet_audit.checkpoint import load
from resnet_audit.errors import AuditError, NotRunnable, UnreadableCheckpoint, UsageError
from resnet_audit.graph import discover
from resnet_audit.graph.ir import Conv, Linear, Norm
from resnet_audit.measure import Subject
from resnet_audit.measure.reference import read_reference
from resnet_audit.report import Outcome, audit
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from torch import Tensor

one_library_thread = pytest.fixture(autouse=True, scope="module")(one_thread)

START = "digits_resnet/epoch00.pt"
END = "digits_resnet/epoch24.pt"
PREACT = "digits_preact.safetensors"


@pytest.fixture(scope="module")
def models(samples) -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_models_of_references", samples / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def subject(path: Path | str, reference: Path | str | None, **settings: object) -> Subject:
    chosen = Settings(**{"input_size": SIZE, "reference": None if reference is None else str(reference), **settings})
    return Subject(discover(load(str(path), chosen.key), chosen), chosen)


def state_of(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def folded_by_hand(state: dict[str, Tensor], conv: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and offset of a convolution with the norm behind it, channel by channel in numpy."""
    norm = conv.replace("conv", "bn")
    kernel = state[f"{conv}.weight"].double().numpy()
    gamma, beta, mean, var = (
        state[f"{norm}.{name}"].double().numpy() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = [gamma[o] / np.sqrt(var[o] + 1e-5) for o in range(len(gamma))]
    return (
        np.stack([kernel[o] * scale[o] for o in range(len(gamma))]),
        np.array([beta[o] - mean[o] * scale[o] for o in range(len(gamma))]),
    )


# what is found ------------------------------------------------------------------------------------------------------


def test_every_layer_is_folded_with_the_statistics_of_its_own_file(samples) -> None:
    found = subject(samples / END, samples / START).reference
    assert found is not None
    state = state_of(samples / START)
    convs = [name.removesuffix(".weight") for name in state if ".conv" in f".{name}" and name.endswith(".weight")]
    assert set(found) == {*convs, "linear"}
    for name in convs:
        op = found[name].op
        assert isinstance(op, Conv)
        assert op.bias is not None
        kernel, offset = folded_by_hand(state, name)
        np.testing.assert_allclose(op.weight.numpy(), kernel, rtol=1e-14)
        np.testing.assert_allclose(op.bias.numpy(), offset, rtol=1e-12, atol=1e-15)
    head = found["linear"].op
    assert isinstance(head, Linear)
    assert torch.equal(head.weight, state["linear.weight"])


def test_a_fresh_network_is_its_kernels_almost_as_they_are(samples, models, tmp_path) -> None:
    """gamma 1, beta 0, mean 0 and variance 1: only eps is left of its norms."""
    net = models.ResNet()
    found = subject(samples / END, saved(tmp_path / "init.pt", net.state_dict())).reference
    assert found is not None
    op = found["layer3.1.conv2"].op
    assert isinstance(op, Conv)
    kernel = net.layer3[1].conv2.weight.detach().double()
    assert torch.allclose(op.weight, kernel / np.sqrt(1.00001), rtol=1e-14, atol=0.0)
    assert op.bias is not None
    assert not op.bias.any()


def test_norms_left_alone_are_there_by_name(samples, models, tmp_path) -> None:
    net = models.PreactNet()
    audited = subject(samples / PREACT, saved(tmp_path / "init.pt", net.state_dict()))
    assert audited.reference is not None
    alone = {name for name, node in audited.reference.items() if isinstance(node.op, Norm)}
    assert alone == {node.name for node in audited.folded if isinstance(node.op, Norm)}
    assert {"layer1.0.bn1", "bn"} <= alone
    assert "layer1.0.bn2" not in alone
    op = audited.reference["layer1.0.bn1"].op
    assert isinstance(op, Norm)
    assert op.weight is not None
    assert torch.equal(op.weight, torch.ones(8))


def test_a_network_is_at_no_distance_from_itself(samples) -> None:
    audited = subject(samples / END, samples / END)
    assert audited.reference is not None
    for node in audited.folded:
        if isinstance(node.op, Conv | Linear):
            op = audited.reference[node.name].op
            assert isinstance(op, Conv | Linear)
            assert torch.equal(op.weight, node.op.weight)


def test_a_subject_reads_its_reference_once_and_has_none_without(samples) -> None:
    without = subject(samples / END, None)
    assert (without.reference, without.reference_notes) == (None, ())
    audited = subject(samples / END, samples / START)
    assert audited.reference is audited.reference
    with pytest.raises(UsageError, match="without --reference"):
        read_reference(without.graph, without.folded, without.settings)


def test_the_input_size_is_that_of_the_network(samples, models, tmp_path, monkeypatch) -> None:
    """Weights alone would be taken for 32x32; the shapes of the reference are those of the audited network."""
    sizes = []
    monkeypatch.setattr(
        "resnet_audit.measure.reference.discover",
        lambda checkpoint, settings: sizes.append(settings.input_size) or discover(checkpoint, settings),
    )
    graph = discover(load(str(samples / END)), Settings(input_size=SIZE))
    assert Subject(graph, Settings(reference=str(samples / START))).reference is not None
    assert sizes == [SIZE]


def test_the_key_names_the_state_dict_in_both_files(samples, models, tmp_path) -> None:
    start, end = state_of(samples / START), state_of(samples / END)
    trained = saved(tmp_path / "trained.pt", {"ema": end, "net": start})
    init = saved(tmp_path / "init.pt", {"ema": start, "net": end})
    found = subject(trained, init, key="ema").reference
    assert found is not None
    op = found["linear"].op
    assert isinstance(op, Linear)
    assert torch.equal(op.weight, start["linear.weight"])


# what does not fit --------------------------------------------------------------------------------------------------


def refused(reference: Path | str, match: str, expected: type[AuditError], audited: Path, **settings: object) -> None:
    with pytest.raises(expected, match=match) as caught:
        _ = subject(audited, reference, **settings).reference
    text = str(caught.value)
    assert text.startswith(f"{reference}: ")
    assert "\n" not in text
    assert text.count(";") >= 2


def test_the_first_layer_of_another_shape_is_named_with_both_shapes(samples) -> None:
    refused(
        samples / "digits_bottleneck_training.pth",
        r"its layer1\.0\.conv1 is a conv of 8x8x1x1, that of the audited network a conv of 8x8x3x3; name a checkpoint",
        UnreadableCheckpoint,
        samples / END,
    )


@pytest.mark.parametrize("stage", ["layer1", "layer2"])
def test_the_first_layer_that_only_one_of_them_has_is_named(stage, samples, tmp_path) -> None:
    state = state_of(samples / START)
    short = {key: value for key, value in state.items() if not key.startswith(f"{stage}.2")}
    init = saved(tmp_path / "short.pt", short)
    refused(init, rf"it has no {stage}\.2\.conv1, which the audited", UnreadableCheckpoint, samples / END)
    refused(
        samples / START, rf"it has {stage}\.2\.conv1, which the audited network has not", UnreadableCheckpoint, init
    )


def test_another_head_is_refused(samples, tmp_path) -> None:
    state = state_of(samples / START) | {"linear.weight": torch.zeros(7, 32), "linear.bias": torch.zeros(7)}
    init = saved(tmp_path / "seven.pt", state)
    refused(
        init, "its linear is a linear of 7x32, that of the audited network a linear of 10x32", AuditError, samples / END
    )


@pytest.mark.parametrize(
    ("key", "number"),
    [("linear.weight", np.nan), ("layer2.0.conv1.weight", np.inf), ("bn1.running_var", -2.0), ("bn1.bias", -np.inf)],
)
def test_a_reference_that_is_not_finite_is_refused_by_its_own_name(key, number, samples, tmp_path) -> None:
    state = state_of(samples / START)
    state[key].view(-1)[0] = number
    init = saved(tmp_path / "broken.pt", state)
    refused(init, rf"its {key.rpartition('.')[0]} holds NaN or infinite numbers", UsageError, samples / END)


def test_a_reference_whose_folding_overflows_is_refused(samples, tmp_path) -> None:
    state = state_of(samples / START)
    huge = {key: torch.full_like(state[key].double(), 1e300) for key in ("conv1.weight", "bn1.weight")}
    init = saved(tmp_path / "huge.pt", state | huge)
    refused(init, "its conv1 holds NaN or infinite numbers", UsageError, samples / END)


def test_a_network_that_cannot_be_run_or_holds_no_layer_is_no_reference(samples, tmp_path) -> None:
    odd = saved(tmp_path / "odd.pt", {"a.weight": torch.ones(3, 4), "b.weight": torch.ones(5, 9)})
    refused(odd, "cannot serve as reference; .*--arch", UsageError, samples / END)
    bare = saved(tmp_path / "bare.pt", {"scale": torch.ones(3)})
    refused(bare, "cannot serve as reference; no convolution and no linear layer", UsageError, samples / END)


def test_files_that_are_no_checkpoints_get_their_ordinary_refusals(samples, tmp_path) -> None:
    refused(tmp_path / "none.pt", "no such file; there is nothing to read; check the path", AuditError, samples / END)
    (tmp_path / "notes.txt").write_text("hello\n")
    refused(tmp_path / "notes.txt", "a text file", UnreadableCheckpoint, samples / END)
    (tmp_path / "cut.pt").write_bytes((samples / START).read_bytes()[:3000])
    refused(tmp_path / "cut.pt", "damaged|cut short|broken", UnreadableCheckpoint, samples / END)
    refused(samples / START, "a checkpoint without the key ema", AuditError, keyed(samples, tmp_path), key="ema")


def keyed(samples: Path, folder: Path) -> Path:
    return saved(folder / "keyed.pt", {"ema": state_of(samples / END)})


def test_standard_input_is_no_reference(samples) -> None:
    with pytest.raises(UsageError, match="--reference -: standard input"):
        _ = subject(samples / END, "-").reference


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.trace), "w"))


def test_nothing_in_a_hostile_reference_is_run_and_a_note_names_it(samples, tmp_path) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(Bomb(trace)))
    refused(tmp_path / "bare.pkl", "pickle", UnreadableCheckpoint, samples / END)
    init = saved(tmp_path / "init.pt", {"state_dict": state_of(samples / START), "extra": Bomb(trace)})
    audited = subject(samples / END, init)
    assert audited.reference is not None
    assert not trace.exists()
    notes = {note.code: note.message for note in audited.reference_notes}
    assert notes.keys() == {"dangerous_globals", "wrapper"}
    assert all(message.startswith(f"{init}: ") for message in notes.values())
    torch.load(init, weights_only=False)["extra"].close()
    assert trace.exists(), "the bomb works, so its silence above means something"


def test_the_network_itself_must_run_first(tmp_path, samples) -> None:
    odd = saved(tmp_path / "odd.pt", {"a.weight": torch.ones(3, 4), "b.weight": torch.ones(5, 9)})
    with pytest.raises(NotRunnable):
        _ = subject(odd, tmp_path / "none.pt").reference


# with the user's own code -------------------------------------------------------------------------------------------

CODE = """
from torch import nn


def build():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


one = build()
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> tuple[Path, Path, dict[str, Tensor]]:
    """Two checkpoints of a network that is defined in the current folder, and the state of the second."""
    torch.manual_seed(0)
    space: dict[str, object] = {}
    exec(CODE, space)  # noqa: S102 - the same text that the current folder holds as a module
    (tmp_path / "own_reference_net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    states = [space["build"]().state_dict() for _ in range(2)]
    return saved(tmp_path / "end.pt", states[0]), saved(tmp_path / "init.pt", states[1]), states[1]


def test_a_function_of_the_users_gives_the_reference_too(own) -> None:
    end, init, state = own
    found = subject(end, init, arch="own_reference_net:build", samples=2).reference
    assert found is not None
    op = found["4"].op
    assert isinstance(op, Linear)
    assert torch.equal(op.weight, state["4.weight"])


def test_one_module_for_both_holds_the_weights_of_each(own) -> None:
    end, init, state = own
    found = subject(end, init, arch="own_reference_net:one", samples=2)
    assert found.reference is not None
    before, after = found.reference["4"].op, next(node.op for node in found.folded if node.name == "4")
    assert isinstance(before, Linear)
    assert isinstance(after, Linear)
    assert torch.equal(before.weight, state["4.weight"])
    assert not torch.equal(before.weight.double(), after.weight.double())


# in a report --------------------------------------------------------------------------------------------------------


@pytest.fixture
def audited(samples, monkeypatch):
    """An audit of two files by an analysis that only asks for the reference."""

    def ask(found: Subject) -> object:
        _ = found.reference
        raise AssertionError("the reference was accepted")

    monkeypatch.setattr(report_module, "analysis", lambda _: ask)

    def run(reference: Path) -> Outcome:
        paths = [str(samples / END), str(samples / PREACT)]
        return audit(paths, "bound", ["bound"], Settings(input_size=SIZE, reference=str(reference)))

    return run


def test_a_broken_reference_fails_every_file_and_each_line_names_both(audited, samples, tmp_path) -> None:
    state = state_of(samples / START)
    state["linear.weight"][0, 0] = np.nan
    for broken in (tmp_path / "none.pt", saved(tmp_path / "nan.pt", state)):
        outcome = audited(broken)
        assert len(outcome.failures) == 2
        for line, entry in zip(outcome.failures, outcome.document["checkpoints"], strict=True):
            assert line.startswith(f"{entry['path']}: {broken}: ")
            assert entry["error"] == line
            assert "internal error" not in line
